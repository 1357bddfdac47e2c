//! The process object of another process: given as a file, or modelled after the container's first one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use koya_sandbox::bundle::{Checked, exec_process};
use serde_json::{Value, json};

use crate::args::ExecArgs;
use crate::error::RuntimeError;

/// Longest file that is read.
const MAX_PROCESS: u64 = 1 << 20;

/// The process, and what is to be done about it here.
///
/// # Errors
/// [`RuntimeError`]
pub fn of(args: &ExecArgs, first: &Value) -> Result<(Value, Checked), RuntimeError> {
    let mut process = match &args.process {
        Some(path) => read(path)?,
        None => modelled(args, first)?,
    };
    // Engines say it on the command line as well.
    if args.tty {
        set(&mut process, "terminal", true.into());
    }
    let checked = exec_process(&mut process)?;
    Ok((process, checked))
}

fn read(path: &Path) -> Result<Value, RuntimeError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PROCESS).read_to_string(&mut text))
        .map_err(RuntimeError::given("read", path))?;
    serde_json::from_str(&text).map_err(RuntimeError::given("understand", path))
}

fn modelled(args: &ExecArgs, first: &Value) -> Result<Value, RuntimeError> {
    if args.command.is_empty() {
        return Err(RuntimeError::Process(
            "there is no process to run; give --process FILE, or the program after the container".to_owned(),
        ));
    }
    let mut process = first.clone();
    set(&mut process, "args", json!(args.command));
    set(&mut process, "terminal", args.tty.into());
    if let Some(cwd) = &args.cwd {
        set(&mut process, "cwd", json!(cwd));
    }
    if args.no_new_privs {
        set(&mut process, "noNewPrivileges", true.into());
    }
    if let Some(user) = &args.user {
        set(&mut process, "user", numbers(user)?);
    }
    if let Some(user) = process
        .get_mut("user")
        .filter(|_| !args.additional_gids.is_empty())
    {
        set(user, "additionalGids", json!(args.additional_gids));
    }
    append(&mut process, "env", &args.env);
    if let Some(capabilities) = process.get_mut("capabilities").filter(|_| !args.cap.is_empty()) {
        for set in ["bounding", "effective", "permitted"] {
            append(capabilities, set, &args.cap);
        }
    }
    Ok(process)
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

fn append(object: &mut Value, name: &str, more: &[String]) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    let list = fields.entry(name).or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.extend(more.iter().map(|text| json!(text)));
    }
}

/// `UID[:GID]`
fn numbers(user: &str) -> Result<Value, RuntimeError> {
    let wrong = || RuntimeError::Process(format!("--user is {user:?}; want UID or UID:GID, in numbers"));
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
    Ok(json!({ "uid": number(uid)?, "gid": number(gid)? }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn process(words: &[&str]) -> Result<(Value, Checked), RuntimeError> {
        let words = ["koya-runtime", "exec"].iter().chain(words);
        let Command::Exec(args) = Cli::parse_from(words).command else {
            panic!("no exec");
        };
        let first = json!({
            "args": ["web"], "cwd": "/srv", "env": ["A=1"], "user": { "uid": 5, "gid": 6 }, "terminal": true,
            "apparmorProfile": "x", "capabilities": { "bounding": ["CAP_KILL"] },
        });
        of(&args, &first)
    }

    #[test]
    fn it_is_like_the_first_one_but_for_what_is_said() {
        let (like, checked) = process(&["web", "ls", "-l"]).unwrap();
        assert_eq!(checked, Checked::default());
        assert_eq!(like["args"], json!(["ls", "-l"]));
        assert_eq!((&like["cwd"], &like["user"]["uid"]), (&json!("/srv"), &json!(5)));
        assert_eq!(like.get("apparmorProfile"), None);
        let (other, checked) = process(&[
            "--tty",
            "--cwd",
            "/",
            "--user",
            "7:8",
            "--env",
            "B=2",
            "--cap",
            "CAP_CHOWN",
            "--cap",
            "CAP_FLY",
            "web",
            "sh",
        ])
        .unwrap();
        assert!(checked.terminal);
        // One that no kernel has is told of, in each set that it was for.
        assert_eq!(checked.left_out.len(), 3);
        assert!(checked.left_out[0].contains("CAP_FLY"), "{checked:?}");
        assert_eq!(other["user"], json!({ "uid": 7, "gid": 8 }));
        assert_eq!(other["env"], json!(["A=1", "B=2"]));
        assert_eq!(
            other["capabilities"]["bounding"],
            json!(["CAP_KILL", "CAP_CHOWN"])
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (words, wanted) in [
            (&["web"][..], "--process"),
            (&["--user", "root", "web", "ls"], "UID"),
            (&["--process", "/no/such/file", "web"], "/no/such/file"),
            (&["--cwd", "relative", "web", "ls"], "process.cwd"),
        ] {
            let error = process(words).unwrap_err().one_line();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
