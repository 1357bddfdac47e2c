//! Words `koya.NAME` and `koya.NAME=VALUE` on the kernel's command line.

use crate::error::StartError;

/// Longest hostname of Linux.
const LONGEST_HOSTNAME: usize = 64;

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The guest's hostname.
    pub hostname: String,
    /// Whether the guest is one that others are forked from: see [`super::template`].
    pub template: bool,
}

impl Parameters {
    /// From the kernel.
    pub fn read() -> Result<Self, StartError> {
        let line = std::fs::read_to_string("/proc/cmdline").map_err(StartError::io("read /proc/cmdline"))?;
        let (parameters, complaints) = Self::parse(&line);
        for complaint in complaints {
            println!("koya-agent: {complaint}");
        }
        Ok(parameters)
    }

    /// A word that makes no sense is no reason not to boot.
    fn parse(line: &str) -> (Self, Vec<String>) {
        let mut parameters = Self {
            hostname: "koya".to_owned(),
            template: false,
        };
        let mut complaints = Vec::new();
        for word in line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("koya."))
        {
            match word.split_once('=') {
                Some(("hostname", name)) if is_hostname(name) => name.clone_into(&mut parameters.hostname),
                Some(("hostname", name)) => complaints.push(format!(
                    "koya.hostname={name} on the kernel command line is no hostname"
                )),
                None if word == "template" => parameters.template = true,
                _ => complaints.push(format!(
                    "koya.{word} on the kernel command line is unknown; want koya.hostname=NAME or koya.template"
                )),
            }
        }
        (parameters, complaints)
    }
}

fn is_hostname(name: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    (1..=LONGEST_HOSTNAME).contains(&name.len()) && name.chars().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_not_ours() {
        let (parameters, complaints) =
            Parameters::parse("console=ttyS0 hostname=x koya.hostname=web-1 quiet\n");
        assert_eq!(
            (parameters.hostname.as_str(), parameters.template),
            ("web-1", false)
        );
        assert!(complaints.is_empty());
    }

    #[test]
    fn a_template_is_one_only_by_that_word() {
        let (parameters, complaints) = Parameters::parse("quiet koya.template");
        assert!(parameters.template && complaints.is_empty());
        for word in ["template", "koya.template=1", "koya.templates"] {
            assert!(!Parameters::parse(word).0.template, "{word}");
        }
    }

    #[test]
    fn nonsense_is_complained_about_and_passed_over() {
        let (parameters, complaints) = Parameters::parse("koya.hostname=a/b koya.speed=high");
        assert_eq!(parameters.hostname, "koya");
        assert!(complaints[0].contains("a/b") && complaints[1].contains("koya.speed=high"));
    }
}
