//! Placeholders of header profiles that describe the machine.

use std::env::consts;

/// The values of a header profile's placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `{os}`: [node's name](https://nodejs.org/api/process.html#processplatform).
    pub os: &'static str,
    /// `{arch}`: [node's name](https://nodejs.org/api/process.html#processarch).
    pub arch: &'static str,
    /// `{stainless-os}`: the OpenAI SDK's name.
    pub stainless_os: &'static str,
    /// `{stainless-arch}`: the OpenAI SDK's name.
    pub stainless_arch: &'static str,
    /// `{version}`: pacegate's version.
    pub version: &'static str,
}

impl Platform {
    /// The machine that pacegate runs on.
    pub fn current() -> Self {
        Self::of(consts::OS, consts::ARCH)
    }

    /// A machine, by Rust's names of its operating system and architecture.
    pub fn of(os: &'static str, arch: &'static str) -> Self {
        let (os, stainless_os) = match os {
            "linux" => ("linux", "Linux"),
            "macos" => ("darwin", "MacOS"),
            "windows" => ("win32", "Windows"),
            other => (other, "Unknown"),
        };
        let (arch, stainless_arch) = match arch {
            "x86_64" => ("x64", "x64"),
            "aarch64" => ("arm64", "arm64"),
            other => (other, "unknown"),
        };
        Self {
            os,
            arch,
            stainless_os,
            stainless_arch,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// `text` with its placeholders replaced.
    ///
    /// # Errors
    ///
    /// The name of an unknown placeholder.
    pub(super) fn fill(self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, (name, after))) = rest
            .split_once('{')
            .and_then(|(before, after)| Some((before, after.split_once('}')?)))
        {
            filled.push_str(before);
            filled.push_str(match name {
                "os" => self.os,
                "arch" => self.arch,
                "stainless-os" => self.stainless_os,
                "stainless-arch" => self.stainless_arch,
                "version" => self.version,
                _ => return Err(name.into()),
            });
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_each_placeholder_and_names_an_unknown_one() {
        let mac = Platform::of("macos", "aarch64");
        assert_eq!(
            mac.fill("a ({os}; {arch}) {stainless-os}/{stainless-arch}"),
            Ok("a (darwin; arm64) MacOS/arm64".into())
        );
        assert_eq!(mac.fill("{bogus}"), Err("bogus".into()));
    }
}
