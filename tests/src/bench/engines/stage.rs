//! What is put in the place of a runtime: `koya-bench stage LOG RUNTIME ARGUMENT…` runs it and notes when it began and ended.
//! After a `create` of Koya's it also asks for the births of VMM, kernel and agent; the time that this takes is known and
//! is not the engine's.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::BenchError;
use crate::bench::clocks::{births, boot_clock, started};

/// What engines call runtimes for, as far as it is noted.
const VERBS: [&str; 3] = ["create", "start", "delete"];
/// Where `koya-runtime` keeps its states, if nobody says it.
const ROOT: &str = "/run/koya-runtime";

/// A call of a runtime; moments are since the host booted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    /// What it was for.
    pub verb: String,
    /// When it began.
    pub begin: Duration,
    /// When it had ended.
    pub end: Duration,
    /// When the engine was told: later, if somebody asked the agent.
    pub told: Duration,
    /// The births of VMM, kernel and agent, in that order.
    pub births: Option<[Duration; 3]>,
}

/// Runs a runtime; its exit code.
///
/// # Errors
/// When the words are not understood, or the runtime cannot be run.
pub fn run(words: &[String]) -> Result<ExitCode, BenchError> {
    let [log, runtime, arguments @ ..] = words else {
        let what = "stage: expected a log and a runtime; it is put in a runtime's place by the suite engines";
        return Err(BenchError::Usage(what.into()));
    };
    let begin = boot_clock();
    let status = Command::new(runtime).args(arguments).status();
    let end = boot_clock();
    let status = status.map_err(BenchError::path("run", runtime))?;
    let verb = arguments.iter().find(|word| VERBS.contains(&word.as_str()));
    if let Some(verb) = verb.filter(|_| status.success()) {
        // Without them the call itself is still worth noting, and there is nobody to tell.
        let births = (verb == "create").then(|| born(arguments).ok()).flatten();
        let call = Call {
            verb: verb.clone(),
            begin,
            end,
            told: boot_clock(),
            births,
        };
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(BenchError::path("write", log))?;
        writeln!(file, "{}", call.to_json()).map_err(BenchError::path("write", log))?;
    }
    let code = status
        .code()
        .or(status.signal().map(|number| number.saturating_add(128)));
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
    ))
}

/// The births of VMM, kernel and agent of the container that `koya-runtime` was asked to create.
fn born(arguments: &[String]) -> Result<[Duration; 3], BenchError> {
    let folder = folder(arguments);
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).map_err(BenchError::path("read", path))?;
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    let helpers = state
        .get("helpers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut pids = helpers
        .filter_map(|helper| helper.get("pid")?.as_u64())
        .map(|pid| pid.to_string());
    let is_vmm = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "koya-vmm")
    };
    let vmm = pids.find(is_vmm).ok_or(BenchError::Output {
        expected: "a VMM among a container's helpers",
        found: text,
    })?;
    let births = births(&folder.join("v.sock"))?;
    Ok([started(&vmm)?, births.kernel, births.agent])
}

/// The folder of a container that is created: its id comes last.
fn folder(arguments: &[String]) -> PathBuf {
    let after = arguments
        .iter()
        .position(|word| word == "--root")
        .map(|place| place.saturating_add(1));
    let joined = || arguments.iter().find_map(|word| word.strip_prefix("--root="));
    let root = after
        .and_then(|place| arguments.get(place).map(String::as_str))
        .or_else(joined)
        .unwrap_or(ROOT);
    Path::new(root).join(arguments.last().map_or("", String::as_str))
}

impl Call {
    fn to_json(&self) -> Value {
        let seconds = |moment: Duration| moment.as_secs_f64();
        json!({
            "verb": self.verb, "begin": seconds(self.begin), "end": seconds(self.end), "told": seconds(self.told),
            "births": self.births.map(|births| births.map(seconds)),
        })
    }

    /// From a line of the log.
    pub fn parse(line: &str) -> Option<Self> {
        let call: Value = serde_json::from_str(line).ok()?;
        let moment = |value: &Value| Duration::try_from_secs_f64(value.as_f64()?).ok();
        let births = call.get("births").and_then(Value::as_array).map(Vec::as_slice);
        Some(Self {
            verb: call.get("verb")?.as_str()?.to_owned(),
            begin: moment(call.get("begin")?)?,
            end: moment(call.get("end")?)?,
            told: moment(call.get("told")?)?,
            births: match births {
                Some([vmm, kernel, agent]) => Some([moment(vmm)?, moment(kernel)?, moment(agent)?]),
                _ => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let at = Duration::from_millis;
        let call = Call {
            verb: "create".into(),
            begin: at(1500),
            end: at(2500),
            told: at(2750),
            births: Some([at(1625), at(1750), at(2000)]),
        };
        assert_eq!(Call::parse(&call.to_json().to_string()), Some(call.clone()));
        let call = Call { births: None, ..call };
        assert_eq!(Call::parse(&call.to_json().to_string()), Some(call));
        assert_eq!(Call::parse("{\"verb\": \"create\", \"begin\": -1}"), None);
    }

    #[test]
    fn the_folder_of_a_container_follows_the_command_line() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let place = |line: &str| folder(&words(line)).display().to_string();
        assert_eq!(place("--log x create --bundle /b id"), "/run/koya-runtime/id");
        assert_eq!(place("--root /r --log x create id"), "/r/id");
        assert_eq!(place("--root=/r create id"), "/r/id");
    }

    #[test]
    fn the_runtime_says_how_it_ends_and_good_ends_are_noted() {
        let log = std::env::temp_dir().join(format!("koya-stage-{}", std::process::id()));
        let path = log.display().to_string();
        let stage = |program: &str, verb: &str| {
            let words = [path.as_str(), program, verb, "id"].map(str::to_owned);
            run(&words).unwrap()
        };
        assert_eq!(stage("/bin/false", "create"), ExitCode::from(1));
        assert!(!log.exists());
        assert_eq!(stage("/bin/true", "state"), ExitCode::SUCCESS);
        assert_eq!(stage("/bin/true", "start"), ExitCode::SUCCESS);
        let text = fs::read_to_string(&log).unwrap();
        let calls: Vec<_> = text.lines().filter_map(Call::parse).collect();
        assert_eq!(calls.len(), 1);
        assert!(calls[0].verb == "start" && calls[0].begin <= calls[0].end && calls[0].births.is_none());
        fs::remove_file(log).unwrap();
        assert!(matches!(run(&[]), Err(BenchError::Usage(_))));
    }
}
