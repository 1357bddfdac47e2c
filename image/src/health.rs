//! The health check of an image: docker's addition to the config, which the OCI image specification does not have.

use serde::Deserialize;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// What an image says about how it is found out whether a container of it is well. 0 leaves a number open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// A program and its arguments; empty: there shall be none.
    pub command: Vec<String>,
    /// Milliseconds before each run.
    pub interval_ms: u64,
    /// Milliseconds that a run may take.
    pub timeout_ms: u64,
    /// Milliseconds in which failures do not count.
    pub start_period_ms: u64,
    /// Failures in a row that count.
    pub retries: u32,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Healthcheck", default)]
    check: Option<Check>,
    /// docker's form of an instruction SHELL.
    #[serde(rename = "Shell", default)]
    shell: Option<Vec<String>>,
}

/// Times are in nanoseconds.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Check {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

impl HealthCheck {
    /// Runs a line by the shell that everybody has.
    #[must_use]
    pub fn shell(line: &str) -> Vec<String> {
        ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
    }

    /// That of an image's config; one that makes no sense is none.
    pub(crate) fn of(config: &[u8]) -> Option<Self> {
        let config = serde_json::from_slice::<Document>(config).ok()?.config?;
        let check = config.check?;
        let test = check.test.unwrap_or_default();
        let command = match test.split_first()? {
            (kind, []) if kind == "NONE" => Vec::new(),
            (kind, command @ [_, ..]) if kind == "CMD" => command.to_vec(),
            (kind, [line]) if kind == "CMD-SHELL" => match config.shell.filter(|shell| !shell.is_empty()) {
                Some(shell) => shell.into_iter().chain([line.clone()]).collect(),
                None => Self::shell(line),
            },
            _ => return None,
        };
        Some(Self {
            command,
            interval_ms: check.interval / MS,
            timeout_ms: check.timeout / MS,
            start_period_ms: check.start_period / MS,
            retries: check.retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Option<HealthCheck> {
        HealthCheck::of(format!(r#"{{"architecture":"amd64","config":{config}}}"#).as_bytes())
    }

    #[test]
    fn dockers_forms_are_understood() {
        let found = read(
            r#"{"Healthcheck":{"Test":["CMD","nc","-z","::1","80"],"Interval":5000000000,"Timeout":1500000000,"Retries":2}}"#,
        )
        .unwrap();
        assert_eq!(found.command, ["nc", "-z", "::1", "80"]);
        assert_eq!((found.interval_ms, found.timeout_ms), (5000, 1500));
        assert_eq!((found.start_period_ms, found.retries), (0, 2));
        let command =
            |test: &str| read(&format!(r#"{{"Healthcheck":{{"Test":{test}}}}}"#)).map(|it| it.command);
        assert_eq!(
            command(r#"["CMD-SHELL","a || b"]"#).unwrap(),
            ["/bin/sh", "-c", "a || b"]
        );
        assert_eq!(command(r#"["NONE"]"#).unwrap(), [""; 0]);
        let shell = read(r#"{"Healthcheck":{"Test":["CMD-SHELL","x"]},"Shell":["/bin/bash","-lc"]}"#);
        assert_eq!(shell.unwrap().command, ["/bin/bash", "-lc", "x"]);
    }

    #[test]
    fn what_makes_no_sense_is_no_check() {
        for config in [
            "{}",
            "null",
            r#"{"Healthcheck":null}"#,
            r#"{"Healthcheck":{}}"#,
            r#"{"Healthcheck":{"Test":[]}}"#,
            r#"{"Healthcheck":{"Test":["CMD"]}}"#,
            r#"{"Healthcheck":{"Test":["RUN","x"]}}"#,
            r#"{"Healthcheck":{"Test":["CMD","x"],"Interval":-1}}"#,
        ] {
            assert_eq!(read(config), None, "{config}");
        }
    }
}
