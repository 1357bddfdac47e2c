//! TCP through a tap device, both ways, with iperf3: the client is in the guest.

use std::path::Path;
use std::time::Duration;

use super::{Better, Context, Figure, Goal, Measurement};
use crate::bench::BenchError;
use crate::bench::linux::{HOST_ADDRESS, Linux, SCRIPT_END};
use crate::bench::process::{Process, command};
use crate::bench::subject::Subject;
use crate::bench::vmm::Vmm;

/// See the module.
#[derive(Debug)]
pub struct Network(pub Linux);

const FIGURES: [Figure; 2] = [
    rate("tcp-guest-to-host", "TCP, guest → host"),
    rate("tcp-host-to-guest", "TCP, host → guest"),
];

const fn rate(name: &'static str, title: &'static str) -> Figure {
    Figure {
        name,
        title,
        unit: "Gbit/s",
        better: Better::Higher,
        goal: Some(Goal::Above(Subject::QEMU)),
    }
}

impl Measurement for Network {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn needs_warming(&self) -> bool {
        false
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let _server = server(&["--bind", HOST_ADDRESS], context)?;
        let mut process = context.start(vmm, &self.0.machine(Some(&script(self.0.seconds))))?;
        let limit = context
            .limit
            .saturating_add(Duration::from_secs(self.0.seconds.into()));
        let mut values = Vec::new();
        for figure in &FIGURES {
            let (line, _) = process.rest_of_line(&format!("iperf {}:", figure.name), limit)?;
            let gigabits = gigabits(&line);
            values.push(gigabits.ok_or(BenchError::Output {
                expected: "iperf3's rate",
                found: line,
            })?);
        }
        process.line(SCRIPT_END, context.limit)?;
        Ok(values)
    }
}

/// An iperf3 server on the host that listens.
pub(in crate::bench) fn server(options: &[&str], context: &Context) -> Result<Process, BenchError> {
    let words = ["iperf3", "--server", "--forceflush"];
    let argv = command(Path::new("/usr/bin/env"), [&words, options].concat());
    let mut server = Process::spawn(&argv, &context.scratch.join("iperf3"))?;
    server.line("listening", context.limit)?;
    Ok(server)
}

fn script(seconds: u32) -> String {
    let run = |figure: &Figure, way: &str| {
        let name = figure.name;
        format!(
            "echo \"iperf {name}: $(iperf3 -c {HOST_ADDRESS} -f m -O 1 -t {seconds} {way} | grep receiver)\"\n"
        )
    };
    FIGURES
        .iter()
        .zip(["", "--reverse"])
        .map(|(figure, way)| run(figure, way))
        .collect()
}

/// The rate in the receiver's summary, as `[  5]  0.00-5.00  sec  1.1 GBytes  1890 Mbits/sec  receiver`.
pub(in crate::bench) fn gigabits(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Mbits/sec")?;
    let megabits: f64 = words.get(unit.checked_sub(1)?)?.parse().ok()?;
    (megabits > 0.0).then_some(megabits / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_receivers_rate() {
        let line = "[  5]   0.00-5.00   sec  1.10 GBytes  1890 Mbits/sec                  receiver";
        assert_eq!(gigabits(line), Some(1.89));
        assert_eq!(gigabits("iperf3: error - unable to connect"), None);
    }
}
