//! The programs `newuidmap` and `newgidmap`, which libcontainer runs for a user namespace with more than one range of ids:
//! this program under other names.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Names of the programs, and the files of a process that they write.
const PROGRAMS: [(&str, &str); 2] = [("newuidmap", "uid_map"), ("newgidmap", "gid_map")];

/// Puts the programs into a folder.
pub fn place(folder: &Path) -> io::Result<()> {
    for (program, _) in PROGRAMS {
        symlink("/proc/self/exe", folder.join(program))?;
    }
    Ok(())
}

/// Whether they are in a folder.
pub fn is_in(folder: &Path) -> bool {
    PROGRAMS
        .iter()
        .any(|(program, _)| folder.join(program).is_symlink())
}

/// The file that is written by the program of this name, if it is one of the two.
pub fn file_of(program: &OsStr) -> Option<&'static str> {
    let name = Path::new(program).file_name()?;
    let found = PROGRAMS.iter().find(|(program, _)| name == *program);
    found.map(|(_, file)| *file)
}

/// Writes a map. The arguments are a process, and three numbers for each range.
pub fn write(file: &str, mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let process = arguments.next().and_then(|process| process.parse::<u32>().ok());
    let numbers: Option<Vec<u32>> = arguments.map(|number| number.parse().ok()).collect();
    let written = match (process, numbers) {
        (Some(process), Some(numbers)) => {
            let path = PathBuf::from(format!("/proc/{process}/{file}"));
            fs::write(path, lines(&numbers))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// As the kernel wants them, in one piece.
fn lines(numbers: &[u32]) -> String {
    let ranges = numbers.chunks(3).map(|range| {
        let words: Vec<_> = range.iter().map(u32::to_string).collect();
        words.join(" ") + "\n"
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_names_are_programs() {
        assert_eq!(file_of("/run/web/newuidmap".as_ref()), Some("uid_map"));
        assert_eq!(file_of("newgidmap".as_ref()), Some("gid_map"));
        for other in ["/init", "koya-agent", "/newuidmap/x", ""] {
            assert_eq!(file_of(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn ranges_become_lines() {
        let numbers = [0, 1, 1000, 1000, 0, 1];
        assert_eq!(lines(&numbers), "0 1 1000\n1000 0 1\n");
    }
}
