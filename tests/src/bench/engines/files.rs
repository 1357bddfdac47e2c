//! A tree of small files: `koya-bench files FOLDER COUNT` makes, looks at, reads and removes them, and says how long each took.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::bench::BenchError;

/// What is done with all files, one thing after the other.
pub(super) const STEPS: [&str; 4] = ["create", "stat", "read", "delete"];
/// What a line begins with.
const LINE: &str = "koya-bench: files ";
/// Bytes of a file.
const SIZE: usize = 4096;
/// Files of a folder.
const FOLDER: usize = 100;

/// Does all steps with that many files in a folder, and prints the seconds of each.
///
/// # Errors
/// When the words are not understood, or a file cannot be made, looked at, read or removed.
pub fn run(words: &[String]) -> Result<(), BenchError> {
    let (folder, count) = match words {
        [folder, count] => (Path::new(folder), count.parse::<usize>().unwrap_or(0)),
        _ => (Path::new(""), 0),
    };
    if count == 0 {
        let what = "files: expected a folder, and how many; it is run in a container by the suite engines";
        return Err(BenchError::Usage(what.into()));
    }
    let paths: Vec<PathBuf> = (0..count)
        .map(|number| folder.join(format!("{}/{number}", number / FOLDER)))
        .collect();
    let content = [b'x'; SIZE];
    for step in STEPS {
        let begun = Instant::now();
        for (number, path) in paths.iter().enumerate() {
            once(step, number, path, &content).map_err(BenchError::path("work on", path))?;
        }
        println!("{LINE}{step} {:.6}", begun.elapsed().as_secs_f64());
    }
    // By name: a listing that is read on while its entries go may miss some, as with a host's tmpfs before Linux 6.6.
    let folders = paths.chunks(FOLDER).filter_map(|some| some.first()?.parent());
    for path in folders.chain([folder]) {
        fs::remove_dir(path).map_err(BenchError::path("remove", path))?;
    }
    Ok(())
}

fn once(step: &str, number: usize, path: &Path, content: &[u8]) -> io::Result<()> {
    match step {
        "create" => {
            if let Some(folder) = path.parent().filter(|_| number.is_multiple_of(FOLDER)) {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, content)
        }
        "stat" => match fs::metadata(path)?.len() {
            length if length == content.len() as u64 => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
        "read" => match fs::read(path)? {
            read if read == content => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
        _ => fs::remove_file(path),
    }
}

/// The seconds of each step, in what it has printed.
pub(super) fn seconds(output: &str) -> Option<[f64; 4]> {
    let of = |step: &str| {
        let prefix = format!("{LINE}{step} ");
        let line = output.lines().find_map(|line| line.strip_prefix(&prefix))?;
        line.trim().parse().ok().filter(|seconds| *seconds > 0.0)
    };
    let [create, stat, read, delete] = STEPS.map(of);
    Some([create?, stat?, read?, delete?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_comes_and_goes() {
        let folder = std::env::temp_dir().join(format!("koya-files-{}", std::process::id()));
        let words = [folder.display().to_string(), "250".into()];
        run(&words).unwrap();
        assert!(!folder.exists());
        assert!(matches!(
            run(&["/x".into(), "none".into()]),
            Err(BenchError::Usage(_))
        ));
        fs::write(&folder, "in its place").unwrap();
        assert!(matches!(run(&words), Err(BenchError::Path { .. })));
        fs::remove_file(folder).unwrap();
    }

    #[test]
    fn every_step_has_to_have_been_done() {
        let line = |step: &str| format!("{LINE}{step} 0.5\r\n");
        let whole: String = STEPS.map(line).concat();
        assert_eq!(seconds(&whole), Some([0.5; 4]));
        assert_eq!(
            seconds(&STEPS[1..].iter().map(|step| line(step)).collect::<String>()),
            None
        );
        assert_eq!(seconds(&whole.replace("0.5", "0")), None);
    }
}
