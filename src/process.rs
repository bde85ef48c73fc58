//! Limits that this process sets for itself: no core dumps, as many descriptors as it may have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes this process leave no core dump: a crash must not write tokens and prompts to a disk. Call it
/// before the first secret is read.
///
/// A limit of zero is not enough on Linux: where dumps are piped to a program, the kernel ignores
/// it (core(5)). So the process is marked as not dumpable as well, which also closes its memory
/// and its environment in `/proc` to every other program of the same user.
///
/// # Errors
///
/// What the system said; each of the two is tried in any case.
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

/// Raises the limit to what the system lets us have: the usual one, 1024, is for programs that use
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_neither_a_limit_above_zero_nor_a_dumpable_process() {
        // For all tests of this process; none of them wants a dump.
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
