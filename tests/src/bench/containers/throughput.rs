//! Bytes through a container's standard streams, both ways.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use super::house::IDLE;
use super::parts::Parts;
use super::{Sheet, say};
use crate::bench::BenchError;
use crate::bench::subject::Subject;

/// Bytes of a sample.
const SIZE: usize = 100_000_000;
/// Samples, whatever the user asks for: each takes long.
const ROUNDS: usize = 3;
/// What is read and written at once.
const PIECE: usize = 1 << 16;

pub(super) fn measure(parts: &Parts, runs: usize, sheet: &mut Sheet) {
    let data = numbers(SIZE);
    for _ in 0..runs.min(ROUNDS) {
        let image = parts.image.to_string_lossy();
        let size = SIZE.to_string();
        let through = parts.run_words(&["--rm", "--interactive"], &image, &["cat"]);
        let samples = [
            (
                "exec-output",
                output(parts.koya(["exec", IDLE, "head", "-c", &size, "/dev/zero"])),
            ),
            (
                "exec-input",
                input(
                    parts.koya(["exec", "-i", IDLE, "sh", "-c", "cat > /dev/null"]),
                    &data,
                ),
            ),
            (
                "run-through",
                both(parts.koya(through.iter().map(String::as_str)), &data),
            ),
        ];
        for (figure, sample) in samples {
            if let Err(error) = &sample {
                say(&format!("{figure}: {}", error.in_full()));
            }
            sheet.note(figure, Subject::KOYA, sample.as_ref().copied());
        }
    }
}

/// From the first byte that arrives to the last.
fn output(mut koya: Command) -> Result<f64, BenchError> {
    let mut child = koya
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::host("run koya"))?;
    let mut piece = vec![0; PIECE];
    let mut begun = None;
    let mut total = 0_usize;
    while let Some(stdout) = child.stdout.as_mut() {
        let count = stdout
            .read(&mut piece)
            .map_err(BenchError::host("read from koya"))?;
        if count == 0 {
            break;
        }
        begun.get_or_insert_with(Instant::now);
        total = total.saturating_add(count);
    }
    let took = begun.map(|begun| begun.elapsed());
    child.wait().map_err(BenchError::host("wait for koya"))?;
    rate(total, took.unwrap_or_default().as_secs_f64())
}

/// From the first byte that is taken to the end of the program: what is in between has arrived by then.
fn input(mut koya: Command, data: &[u8]) -> Result<f64, BenchError> {
    let mut child = koya
        .stdin(Stdio::piped())
        .spawn()
        .map_err(BenchError::host("run koya"))?;
    let mut stdin = child.stdin.take();
    let begun = stdin.as_mut().map(|stdin| -> std::io::Result<Instant> {
        let (first, rest) = data.split_at(PIECE * 2);
        // A pipe holds 64 KiB: the second piece waits for a reader.
        stdin.write_all(first)?;
        let begun = Instant::now();
        stdin.write_all(rest)?;
        Ok(begun)
    });
    drop(stdin);
    let status = child.wait().map_err(BenchError::host("wait for koya"))?;
    let begun = begun.transpose().map_err(BenchError::host("write to koya"))?;
    let took = begun.filter(|_| status.success()).map(|begun| begun.elapsed());
    rate(data.len(), took.unwrap_or_default().as_secs_f64())
}

/// From the first byte that comes back to the last; all have to be those that were sent.
fn both(mut koya: Command, data: &[u8]) -> Result<f64, BenchError> {
    let spawned = koya.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(BenchError::host("run koya"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let outcome = thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(data)));
        let (mut rest, mut begun, mut piece) = (data, None, vec![0; PIECE]);
        let mut stdout = stdout?;
        while let Ok(count) = stdout.read(&mut piece)
            && count > 0
        {
            begun.get_or_insert_with(Instant::now);
            rest = rest.strip_prefix(piece.get(..count)?)?;
        }
        rest.is_empty().then_some(begun?.elapsed())
    });
    child.wait().map_err(BenchError::host("wait for koya"))?;
    let took = outcome.ok_or_else(|| BenchError::Output {
        expected: "the bytes that were sent",
        found: "others, or fewer".into(),
    })?;
    rate(data.len(), took.as_secs_f64())
}

/// Millions of bytes per second.
fn rate(bytes: usize, seconds: f64) -> Result<f64, BenchError> {
    if bytes < SIZE || seconds <= 0.0 {
        return Err(BenchError::Output {
            expected: "all bytes of the sample",
            found: format!("{bytes} bytes in {seconds:.3} s"),
        });
    }
    Ok(bytes as f64 / seconds / 1e6)
}

/// Bytes that repeat nowhere.
fn numbers(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size.saturating_add(8));
    while bytes.len() < size {
        // Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_compared() {
        let data = numbers(SIZE);
        assert!(both(Command::new("cat"), &data).unwrap() > 0.0);
        let mut other = Command::new("sh");
        other.args(["-c", "cat > /dev/null; echo other"]);
        assert!(both(other, &data).is_err());
        let mut taker = Command::new("sh");
        taker.args(["-c", "cat > /dev/null"]);
        assert!(input(taker, &data).unwrap() > 0.0);
        assert!(input(Command::new("false"), &data).is_err());
    }

    #[test]
    fn a_sample_that_is_cut_short_is_none() {
        assert!(rate(SIZE - 1, 1.0).is_err());
        assert_eq!(rate(SIZE, 2.0).unwrap(), 50.0);
    }
}
