//! Descriptors that whoever started this program left open beside the three standard ones. None is meant for a program of
//! another kernel, and one end of an engine's pipe that lives on in a process of ours would keep the engine waiting.

use std::fs;
use std::os::fd::RawFd;

/// The first that is none of the standard streams.
const FIRST: RawFd = 3;

/// Those that were open when this program began.
#[derive(Debug, Clone, Default)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Notes them, and keeps them from the programs that this one runs. To be called before anything else opens any.
    pub fn note() -> Self {
        let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let numbers: Vec<_> = numbers.filter(|&number| number >= FIRST).collect();
        // The folder that was read is closed by now; its number is nobody's.
        let open = |&number: &RawFd| {
            // SAFETY: the call takes two numbers, and touches no memory.
            unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
        };
        let inherited: Vec<_> = numbers.into_iter().filter(open).collect();
        for &number in &inherited {
            // SAFETY: the call takes three numbers, and touches no memory.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // Where there is no /proc, nothing was noted.
        // SAFETY: the call takes three numbers, and touches no memory.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                FIRST,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        Self(inherited)
    }

    /// Closes them in a process that stays. Nobody may have closed one before: its number could be another's by now.
    pub fn close(self) {
        for number in self.0 {
            // SAFETY: nothing of this program owns it, as it was open before this program opened any.
            unsafe { libc::close(number) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::FromRawFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_was_open_is_noted_kept_from_others_and_closed() {
        let mut ends = [0; 2];
        // SAFETY: the array has room for both ends.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let [read, write] = ends;
        let noted = Inherited::note();
        assert!(noted.0.contains(&read) && noted.0.contains(&write));
        let path = format!("/proc/self/fd/{write}");
        let seen = Command::new("test").args(["-e", &path]).status().unwrap();
        assert!(!seen.success(), "another program got the descriptor");
        // Tests beside this one have descriptors of their own, which are not to be closed.
        Inherited(vec![write]).close();
        // SAFETY: it is open and nobody else's.
        let mut reader = unsafe { File::from_raw_fd(read) };
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "an end lives on");
    }
}
