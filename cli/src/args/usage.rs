//! What is wrong with a command line, in one line.

use clap::CommandFactory;

use super::Cli;

/// The parser's words without the lines around them, and where more is said.
pub fn one_line(error: &clap::Error, words: impl IntoIterator<Item = String>) -> String {
    let rendered = error.render().to_string();
    let told = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let mut line = String::new();
    for part in told.filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        }
        line.push_str(part);
    }
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; see {} --help", command(words))
}

/// The command that the words begin with, as far as there is one.
fn command(words: impl IntoIterator<Item = String>) -> String {
    let mut name = "koya".to_owned();
    let mut known = Cli::command();
    for word in words {
        let Some(inner) = known.find_subcommand(&word).cloned() else {
            break;
        };
        name.push(' ');
        name.push_str(inner.get_name());
        known = inner;
    }
    name
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn told(line: &str) -> String {
        let words = || line.split_whitespace().map(str::to_owned);
        let all = ["koya".to_owned()].into_iter().chain(words());
        let error = Cli::read(all.map(OsString::from)).unwrap_err();
        one_line(&error, words())
    }

    #[test]
    fn a_wrong_command_line_is_one_line_that_names_the_word() {
        for (line, said) in [
            ("frobnicate", "unrecognized subcommand 'frobnicate'"),
            ("run --nmae web image", "unexpected argument '--nmae' found"),
            ("create --rm -x image", "unexpected argument '-x' found"),
            ("logs --folow web", "unexpected argument '--folow' found"),
            (
                "run --memory 1m image",
                "\"1m\" is too little memory for a container",
            ),
            (
                "run --pull sometimes image",
                "[possible values: missing, always, never]",
            ),
            ("run --vcpus 33 image", "33 is not in 1..=32"),
            ("exec web", "<COMMAND>"),
            ("network rm", "<NAMES>"),
            ("logs --tail some web", "\"some\" is no number of lines"),
        ] {
            let told = told(line);
            assert!(told.contains(said) && told.lines().count() == 1, "{line}: {told}");
        }
        assert!(told("run --nmae web image").ends_with("; see koya run --help"));
        assert!(told("logs --folow web").contains("; tip: a similar argument exists: '--follow'"));
        assert!(told("network ls --all").ends_with("; see koya network ls --help"));
        assert!(told("--all").ends_with("; see koya --help"));
    }
}
