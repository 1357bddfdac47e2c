//! Reading a log from its oldest line on, while it may be written and its files change places.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{PIECE, Stream, path};

/// Longest line of a log: a piece, and what stands before it.
const LONGEST: u64 = PIECE as u64 + 256;
/// Most files of a log that are looked for.
const MAX_FILES: u32 = 1000;

/// A line of a container, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it came.
    pub time: SystemTime,
    /// Where it came from.
    pub stream: Stream,
    /// As it was, with the end of its line if it has come.
    pub text: Vec<u8>,
}

impl Entry {
    /// Whether the line ends with it.
    pub fn is_whole(&self) -> bool {
        self.text.last() == Some(&b'\n')
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(4, |&byte| byte == b' ');
        let time = std::str::from_utf8(words.next()?).ok()?;
        let time = humantime::parse_rfc3339(time).ok()?;
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = words.next()? == b"F";
        let mut text = words.next()?.to_vec();
        if !whole {
            text.pop();
        }
        Some(Self { time, stream, text })
    }
}

/// Somebody who reads a log.
pub struct Follower {
    folder: PathBuf,
    file: Option<Reading>,
}

struct Reading {
    lines: BufReader<File>,
    inode: u64,
}

impl Follower {
    /// From the oldest line in `folder` on.
    pub fn from_start(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file: None,
        }
    }

    /// The next line, unless all that are there have been read. What is no line of a log is skipped.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let reading = match &mut self.file {
                Some(reading) => reading,
                None => match self.oldest()? {
                    Some(reading) => self.file.insert(reading),
                    None => return Ok(None),
                },
            };
            if let Some(line) = reading.line()? {
                match Entry::parse(&line) {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            let Some(newer) = self.newer()? else {
                return Ok(None);
            };
            // What came before the file was put away.
            if let Some(reading) = &mut self.file
                && let Some(line) = reading.line()?
            {
                match Entry::parse(&line) {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            self.file = Some(newer);
        }
    }

    fn oldest(&self) -> io::Result<Option<Reading>> {
        let mut age = 0;
        while age < MAX_FILES && path(&self.folder, age.saturating_add(1)).exists() {
            age = age.saturating_add(1);
        }
        Reading::open(&path(&self.folder, age))
    }

    /// The file that follows the one being read, if there is one.
    fn newer(&self) -> io::Result<Option<Reading>> {
        let Some(current) = &self.file else {
            return Ok(None);
        };
        for age in 0..MAX_FILES {
            match fs::metadata(path(&self.folder, age)) {
                Ok(metadata) if metadata.ino() == current.inode => {
                    return match age.checked_sub(1) {
                        Some(next) => Reading::open(&path(&self.folder, next)),
                        None => Ok(None),
                    };
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        // It has been removed meanwhile: everything that is there is newer.
        self.oldest()
    }
}

impl Reading {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self {
                inode: file.metadata()?.ino(),
                lines: BufReader::with_capacity(64 << 10, file),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next whole line of the file.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        use io::Read;
        let mut line = Vec::new();
        let read = self.lines.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') || u64::try_from(read) == Ok(LONGEST) {
            return Ok(Some(line));
        }
        // It is being written; next time from its beginning.
        let back = i64::try_from(read).unwrap_or(0).saturating_neg();
        self.lines.seek(SeekFrom::Current(back))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::Writer;
    use crate::state::LogSettings;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("koya-log-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn writer(&self, max_size: u64, max_files: u32) -> Writer {
            let settings = LogSettings { max_size, max_files };
            Writer::open(&self.0, &settings).unwrap().unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn all(follower: &mut Follower) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(entry) = follower.next_entry().unwrap() {
            all.push(format!(
                "{}:{}",
                entry.stream.word(),
                String::from_utf8_lossy(&entry.text)
            ));
        }
        all
    }

    #[test]
    fn lines_come_back_as_they_were_written() {
        let folder = Folder::new("lines");
        let mut writer = folder.writer(1 << 20, 1);
        let before = SystemTime::now();
        writer.take(Stream::Stdout, b"one\ntw").unwrap();
        writer.take(Stream::Stderr, b"\xff oops\n").unwrap();
        writer.take(Stream::Stdout, b"o\n\nthree").unwrap();
        writer.finish(Stream::Stdout).unwrap();
        let mut follower = Follower::from_start(&folder.0);
        let first = follower.next_entry().unwrap().unwrap();
        assert!(first.time >= before && first.time <= before + Duration::from_secs(60));
        assert_eq!(first.text, b"one\n");
        let second = follower.next_entry().unwrap().unwrap();
        assert_eq!(
            (second.stream, second.text.as_slice()),
            (Stream::Stderr, &b"\xff oops\n"[..])
        );
        assert_eq!(all(&mut follower), ["stdout:two\n", "stdout:\n", "stdout:three"]);
        // And what comes later.
        writer.take(Stream::Stdout, b"four\n").unwrap();
        assert_eq!(all(&mut follower), ["stdout:four\n"]);
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let folder = Folder::new("pieces");
        let mut writer = folder.writer(1 << 20, 1);
        let long = vec![b'x'; 3 * PIECE + 5];
        writer.take(Stream::Stdout, &long).unwrap();
        writer.take(Stream::Stdout, b"\n").unwrap();
        let mut follower = Follower::from_start(&folder.0);
        let mut together = Vec::new();
        let mut pieces = 0;
        while let Some(entry) = follower.next_entry().unwrap() {
            assert_eq!(
                entry.is_whole(),
                together.len() + entry.text.len() == long.len() + 1
            );
            together.extend(entry.text);
            pieces += 1;
        }
        assert_eq!((pieces, together.len()), (4, long.len() + 1));
    }

    #[test]
    fn long_lines_come_back_whole_however_they_were_written() {
        for sizes in [
            &[10_000, 10_000][..],
            &[300, 65_536],
            &[PIECE, 1],
            &[PIECE - 1, 1],
            &[1; 5],
        ] {
            let folder = Folder::new("long");
            let mut writer = folder.writer(1 << 20, 1);
            let mut written = 0;
            for &size in sizes {
                writer.take(Stream::Stdout, &vec![b'x'; size]).unwrap();
                written += size;
            }
            writer.take(Stream::Stdout, b"\nnext\n").unwrap();
            let back = all(&mut Follower::from_start(&folder.0))
                .concat()
                .replace("stdout:", "");
            assert_eq!(back, format!("{}\nnext\n", "x".repeat(written)), "{sizes:?}");
        }
    }

    #[test]
    fn files_are_bounded_and_a_reader_loses_no_line_that_is_kept() {
        let folder = Folder::new("rotation");
        let mut writer = folder.writer(600, 3);
        let mut follower = Follower::from_start(&folder.0);
        let mut seen = Vec::new();
        for number in 0..100 {
            writer
                .take(Stream::Stdout, format!("{number}\n").as_bytes())
                .unwrap();
            if number % 7 == 0 {
                seen.extend(all(&mut follower));
            }
        }
        seen.extend(all(&mut follower));
        let expected: Vec<_> = (0..100).map(|number| format!("stdout:{number}\n")).collect();
        assert_eq!(seen, expected);
        let sizes = (0..4).map(|age| fs::metadata(path(&folder.0, age)).map(|metadata| metadata.len()));
        let sizes: Vec<_> = sizes.map(Result::ok).collect();
        assert!(
            sizes[..3].iter().all(|size| size.is_some_and(|size| size <= 600)),
            "{sizes:?}"
        );
        assert_eq!(sizes[3], None);
        // Somebody who comes late sees what is kept, from the oldest on.
        let late = all(&mut Follower::from_start(&folder.0));
        assert!(late.len() > 20 && expected.ends_with(&late), "{late:?}");
    }

    #[test]
    fn rubbish_is_skipped() {
        let folder = Folder::new("rubbish");
        fs::write(
            path(&folder.0, 0),
            "\n\nno log\n2026-11-21T10:00:00Z stdout F fine\nunfinished",
        )
        .unwrap();
        assert_eq!(all(&mut Follower::from_start(&folder.0)), ["stdout:fine\n"]);
    }
}
