//! Runs programs of the host that want to be told of a container's life.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use koya_sandbox::bundle::Hook;
use serde_json::Value;

use crate::error::RuntimeError;
use crate::log::Log;
use crate::threads;

/// Bytes kept of what one says about its failure.
const KEPT: usize = 4096;
/// How long one may take that names no time: longer than any does that works.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at one that runs.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs them one after the other, until one fails.
///
/// # Errors
/// [`RuntimeError::Hook`]
pub fn run_all(kind: &'static str, hooks: &[Hook], state: &Value) -> Result<(), RuntimeError> {
    for hook in hooks {
        run(hook, state).map_err(|what| RuntimeError::Hook {
            kind,
            path: hook.path.clone(),
            what,
        })?;
    }
    Ok(())
}

/// Runs them one after the other, whatever becomes of those before. What fails is told in the log.
pub fn tell_all(kind: &'static str, hooks: &[Hook], state: &Value, log: &Log) {
    for hook in hooks {
        if let Err(error) = run_all(kind, std::slice::from_ref(hook), state) {
            log.warn(&error.one_line());
        }
    }
}

/// Runs one with the state as its standard input; what went wrong.
fn run(hook: &Hook, state: &Value) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    let mut args = hook.args.iter();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let variables = hook.env.iter().filter_map(|variable| variable.split_once('='));
    command
        .args(args)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let said = match talk(&mut child, state) {
        Ok(said) => said,
        Err(error) => {
            kill(&child);
            let _ = child.wait();
            return Err(format!("cannot be talked to: {error}"));
        }
    };
    let limit = hook.timeout.map_or(PATIENCE, Duration::from_secs);
    let status = await_end(&mut child, limit);
    // What it left running may hold its standard error open.
    let said = said.recv_timeout(Duration::from_millis(200)).unwrap_or_default();
    match status {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("failed with {status}: {said}")),
        Ok(None) => Err(format!("did not end within {} s and was killed", limit.as_secs())),
        Err(error) => Err(format!("cannot be waited for: {error}")),
    }
}

/// Gives it the state; what it says.
fn talk(child: &mut Child, state: &Value) -> std::io::Result<mpsc::Receiver<String>> {
    let (sender, said) = mpsc::channel();
    if let Some(mut stdin) = child.stdin.take() {
        let text = state.to_string();
        // It may read nothing, and fill no pipe of ours.
        threads::spawn("state", move || stdin.write_all(text.as_bytes()))?;
    }
    if let Some(stderr) = child.stderr.take() {
        threads::spawn("stderr", move || sender.send(listen(stderr)))?;
    }
    Ok(said)
}

/// Kills it, and what it started.
fn kill(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: kill takes two numbers and touches no memory.
        unsafe { libc::kill(group.saturating_neg(), libc::SIGKILL) };
    }
}

/// Waits for its end; kills it, and what it started, when that takes too long.
fn await_end(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            kill(child);
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// Reads to the end, and keeps the beginning.
fn listen(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let room = KEPT.saturating_sub(kept.len()).min(len);
        kept.extend(buffer.iter().take(room));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sh(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["WORD=hello".to_owned()],
            timeout,
        }
    }

    #[test]
    fn they_get_the_state_and_their_variables_and_nothing_else() {
        let state = json!({ "id": "web" });
        let script = r#"read line; test "$line" = '{"id":"web"}' && test "$WORD" = hello && test -z "$HOME""#;
        run_all("prestart", &[sh(script, None)], &state).unwrap();
    }

    #[test]
    fn what_fails_is_told_with_its_words() {
        let hooks = [sh("true", None), sh("echo no luck >&2; exit 3", None)];
        let error = run_all("poststop", &hooks, &json!({})).unwrap_err().one_line();
        assert!(
            error.contains("poststop hook \"/bin/sh\" failed") && error.contains("no luck"),
            "{error}"
        );
        let missing = Hook {
            path: "/no/such/hook".into(),
            ..sh("", None)
        };
        let error = run_all("prestart", &[missing], &json!({}))
            .unwrap_err()
            .one_line();
        assert!(error.contains("/no/such/hook"), "{error}");
    }

    #[test]
    fn those_who_are_only_told_are_all_told() {
        use crate::log::Format;

        let file = |name| std::env::temp_dir().join(format!("koya-hooks-{name}-{}", std::process::id()));
        let (log, told) = (file("log"), file("told"));
        let last = format!("echo told > {}", told.display());
        let hooks = [sh("echo no luck >&2; exit 3", None), sh(&last, None)];
        tell_all(
            "poststart",
            &hooks,
            &json!({}),
            &Log::new(Some(log.clone()), Format::Text),
        );
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "told\n");
        let warned = std::fs::read_to_string(&log).unwrap();
        assert!(
            warned.contains("level=warning") && warned.contains("no luck"),
            "{warned}"
        );
        for path in [log, told] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn one_that_hangs_or_floods_holds_up_nobody() {
        let start = Instant::now();
        let error = run_all("prestart", &[sh("sleep 60 & sleep 60", Some(1))], &json!({}));
        assert!(error.unwrap_err().one_line().contains("within 1 s"));
        let flood = "head -c 10000000 /dev/zero >&2; exit 1";
        let error = run_all("prestart", &[sh(flood, None)], &json!({})).unwrap_err();
        assert!(error.one_line().len() < 2 * KEPT);
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
