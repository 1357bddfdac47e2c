//! `koya doctor`: what this host can do, and how to fix what it cannot.
//!
//! ```text
//!  kvm, programs, storage, resources ── what every container needs: "failed" if it is missing
//!  network, users ───────────────────── what some need: a warning
//! ```
//!
//! Each check is a function of the [`Host`], so that tests can show it hosts of every kind.

mod finding;
mod host;
mod kernel;
mod kvm;
mod network;
mod programs;
mod resources;
mod storage;
mod users;

#[cfg(test)]
mod fake;

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use crate::args::DoctorArgs;
use crate::error::CliError;
use crate::list::printable;
use crate::show::{self, Form};
use finding::{Finding, Status};
use host::Host;
use kernel::Kernel;

/// `koya doctor`. The exit code is 1 if containers cannot run here.
///
/// # Errors
/// [`CliError::Template`], [`CliError::Output`]
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let form = Form::parse(&args.format)?;
    let findings = examine(&Host::this());
    if matches!(form, Form::Table) {
        let colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        crate::print(&report(&findings, colours))?;
    } else {
        let columns = [("CHECK", "Check"), ("STATUS", "Status")];
        let findings: Vec<_> = findings.iter().map(Finding::to_json).collect();
        show::list(&form, columns, &findings)?;
    }
    Ok(if can_run(&findings) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All checks, what matters most first.
fn examine(host: &Host) -> Vec<Finding> {
    let kernel = Kernel::of(host);
    let mut findings = vec![kvm::device(host, host.open("/dev/kvm")), kvm::kind(host)];
    findings.extend(programs::all(host));
    findings.extend(storage::all(host.home.as_deref()));
    findings.extend(resources::all(host, &kernel));
    findings.extend(network::all(host, &kernel));
    findings.extend([programs::virtiofsd(), users::namespaces(host)]);
    findings
}

fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Failed)
}

/// A line for each finding, one below it for how to fix it, and what follows from all of them.
fn report(findings: &[Finding], colours: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max();
    let width = width.unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        let mark = finding.status.mark(colours);
        let (check, found) = (finding.check, printable(&finding.found));
        lines.push(format!("{mark} {check:width$}  {found}"));
        if let Some(fix) = &finding.fix {
            lines.push(format!("  {:width$}  → {}", "", printable(fix)));
        }
    }
    lines.push(String::new());
    lines.push(verdict(findings));
    lines.join("\n")
}

fn verdict(findings: &[Finding]) -> String {
    let of = |status| findings.iter().filter(move |finding| finding.status == status);
    let failed: Vec<_> = of(Status::Failed).map(|finding| finding.check).collect();
    let warnings = match of(Status::Warning).count() {
        0 => String::new(),
        1 => "; 1 warning".to_owned(),
        several => format!("; {several} warnings"),
    };
    if failed.is_empty() {
        format!("Containers can run here{warnings}.")
    } else {
        format!("Containers cannot run here: {}{warnings}.", failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("kvm", "can be opened"),
            Finding::warning("netavark", "is not \x1b[31mthere", "apt-get install netavark"),
        ]
    }

    #[test]
    fn warnings_do_not_keep_containers_from_running() {
        assert!(can_run(&findings()));
        let text = report(&findings(), false);
        let expected = "✓ kvm       can be opened\n! netavark  is not  [31mthere\n            → apt-get install netavark\n\n\
                        Containers can run here; 1 warning.";
        assert_eq!(text, expected);
        assert!(report(&findings(), true).starts_with("\x1b[32m✓\x1b[0m kvm "));
    }

    #[test]
    fn what_failed_is_named_at_the_end() {
        let mut findings = findings();
        findings.push(Finding::failed("disk", "full", "rm"));
        assert!(!can_run(&findings));
        let text = report(&findings, false);
        assert!(
            text.ends_with("\nContainers cannot run here: disk; 1 warning."),
            "{text}"
        );
    }

    #[test]
    fn an_empty_host_gets_an_answer_to_every_check() {
        let host = fake::Fake::new().host();
        let findings = examine(&host);
        assert!(!can_run(&findings));
        let mut names: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), findings.len(), "a check appears twice");
        for finding in &findings {
            let is_fine = finding.status == Status::Ok;
            assert_eq!(finding.fix.is_none(), is_fine, "{finding:?}");
        }
    }
}
