//! Limits of this process: no core dumps, as many descriptors as allowed.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Prevents core dumps: a crash must not write tokens and prompts to a disk. Call it before the
/// first secret is read.
///
/// On Linux a limit of zero is not enough: the kernel ignores it if dumps are piped to a program
/// (core(5)). So the process is marked as not dumpable as well, which also closes its memory and
/// its environment in `/proc` to other programs of the same user.
///
/// # Errors
///
/// The error of the system; both measures are tried in any case.
pub fn disable_core_dumps() -> io::Result<()> {
    let limited = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(limited?)
}

/// Raises the descriptor limit to the maximum: the default of 1024 is for programs that use
/// `select`, and a stream takes two descriptors.
///
/// # Errors
///
/// If the system refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

/// How many descriptors this process may have open; `None` if there is no limit.
pub fn descriptor_limit() -> Option<usize> {
    let most = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(most).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_neither_a_limit_above_zero_nor_a_dumpable_process() {
        // Applies to all tests of this process; none of them needs a dump.
        disable_core_dumps().unwrap();
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::process::dumpable_behavior().unwrap(),
            rustix::process::DumpableBehavior::NotDumpable
        );
    }
}
