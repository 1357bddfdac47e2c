//! The command line of `koya-bench`.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BenchError;
use super::vmm::{Kind, Vmm};

/// What `--help` prints.
pub const HELP: &str = "\
koya-bench: Koya and its peers, side by side in one run

  koya-bench local [OPTION…]   start-up, memory, exits: tiny guests on this machine's /dev/kvm
  koya-bench guest [OPTION…]   boot, disk, network: Linux guests; run it on a KVM host that can
                               (tests/host/kvm-host run -- koya-bench guest …), as root
  koya-bench containers [OPTION…]
                               koya run and the agent against a bare microVM, crun and runc; on such a host, too

  koya-bench engines [OPTION…]
                               podman and containerd with Koya and with crun; on such a host, too

  --koya PATH                koya-vmm (default: the release build of this checkout); the other programs beside it
  --qemu PATH                qemu-system-x86_64 (default: from PATH)
  --firecracker PATH         also measure Firecracker
  --cloud-hypervisor PATH    also measure Cloud Hypervisor
  --runs N                   rounds, 1 to 1000 (default: local 50, the others 3)
  --only NAME,NAME           only measurements that have a figure of that name;
                             timeline: the phases of a start (containers, engines)
  --limit SECONDS            how long to wait for a VMM (default: local 10, the others 120)
  --out FOLDER               where the results go (default: bench-results)

guest, containers and engines:
  --kernel PATH              vmlinux (resources/kernel/build)
  --vcpus N                  1 to 32 (default: 1)
  --memory MIB               64 to 65536 (default: 512)

containers only:
  --netavark PATH            netavark (resources/netavark/build); otherwise the one that koya finds

engines only:
  --virtiofsd PATH           virtiofsd (resources/virtiofsd/build)
  --at-once N                start no more than N pods at once, 1 to 1000 (default: all of them)

guest and engines:
  --seconds N                length of each fio (guest) and iperf3 run, 1 to 600 (default: 5)

guest only:
  --disk PATH                root disk with fio and iperf3 (resources/rootfs/build debian)
";

/// What comes first.
const SUITES: &str = "local, guest, containers or engines";

/// Which set of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteKind {
    /// Tiny guests on the machine's own KVM.
    Local,
    /// Linux guests.
    Guest,
    /// Containers in Linux guests.
    Containers,
    /// The engines that run containers, with Koya in the place of crun.
    Engines,
}

impl SuiteKind {
    /// The name, also of the result files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Guest => "guest",
            Self::Containers => "containers",
            Self::Engines => "engines",
        }
    }
}

/// The command line, understood.
#[derive(Debug)]
pub struct Options {
    /// Which set of measurements.
    pub suite: SuiteKind,
    /// Which VMMs, and where.
    pub binaries: Vec<(Kind, PathBuf)>,
    /// Rounds.
    pub runs: usize,
    /// Names of figures; empty for all.
    pub only: Vec<String>,
    /// How long to wait for whatever is waited for.
    pub limit: Duration,
    /// Where the results go.
    pub out: PathBuf,
    /// Guest kernel.
    pub kernel: Option<PathBuf>,
    /// Guest root disk.
    pub disk: Option<PathBuf>,
    /// What serves files to guests.
    pub virtiofsd: Option<PathBuf>,
    /// Which netavark `koya run` has.
    pub netavark: Option<PathBuf>,
    /// Pods that are started at the same time, if not all.
    pub at_once: Option<usize>,
    /// Guest vCPUs.
    pub vcpus: u32,
    /// Guest memory, in MiB.
    pub memory_mib: u32,
    /// Length of each fio and iperf3 run, in seconds.
    pub seconds: u32,
}

impl Options {
    /// Understands the arguments after the program's name; `None` when help is asked for.
    ///
    /// # Errors
    /// When an argument is unknown, lacks its value, or has one out of range.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>, BenchError> {
        let mut arguments = arguments.into_iter();
        let suite = match arguments.next().as_deref() {
            Some("local") => SuiteKind::Local,
            Some("guest") => SuiteKind::Guest,
            Some("containers") => SuiteKind::Containers,
            Some("engines") => SuiteKind::Engines,
            Some("--help" | "-h") => return Ok(None),
            Some(other) => return Err(usage(format!("'{other}': expected {SUITES}"))),
            None => return Err(usage(format!("expected {SUITES}; see --help"))),
        };
        let mut options = Self::defaults(suite);
        while let Some(name) = arguments.next() {
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let value = arguments.next();
            let value = value.ok_or_else(|| usage(format!("'{name}' is unknown or lacks its value")))?;
            options.set(&name, &value)?;
        }
        Ok(Some(options))
    }

    fn defaults(suite: SuiteKind) -> Self {
        let (runs, limit) = match suite {
            SuiteKind::Local => (50, 10),
            SuiteKind::Guest | SuiteKind::Containers | SuiteKind::Engines => (3, 120),
        };
        let mut binaries = vec![(Kind::Koya, release_build())];
        if matches!(suite, SuiteKind::Local | SuiteKind::Guest) {
            binaries.push((Kind::Qemu, "qemu-system-x86_64".into()));
        }
        Self {
            suite,
            binaries,
            runs,
            only: Vec::new(),
            limit: Duration::from_secs(limit),
            out: "bench-results".into(),
            kernel: None,
            disk: None,
            virtiofsd: None,
            netavark: None,
            at_once: None,
            vcpus: 1,
            memory_mib: 512,
            seconds: 5,
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), BenchError> {
        match name {
            "--koya" => self.binary(Kind::Koya, value),
            "--qemu" => self.binary(Kind::Qemu, value),
            "--firecracker" => self.binary(Kind::Firecracker, value),
            "--cloud-hypervisor" => self.binary(Kind::CloudHypervisor, value),
            "--runs" => self.runs = number(name, value, 1, 1000)?,
            "--only" => self.only = value.split(',').map(str::to_owned).collect(),
            "--limit" => self.limit = Duration::from_secs(number(name, value, 1, 3600)?),
            "--out" => self.out = value.into(),
            "--kernel" => self.kernel = Some(value.into()),
            "--disk" => self.disk = Some(value.into()),
            "--virtiofsd" => self.virtiofsd = Some(value.into()),
            "--netavark" => self.netavark = Some(value.into()),
            "--at-once" => self.at_once = Some(number(name, value, 1, 1000)?),
            "--vcpus" => self.vcpus = number(name, value, 1, 32)?,
            "--memory" => self.memory_mib = number(name, value, 64, 65536)?,
            "--seconds" => self.seconds = number(name, value, 1, 600)?,
            _ => return Err(usage(format!("'{name}' is unknown; see --help"))),
        }
        Ok(())
    }

    fn binary(&mut self, kind: Kind, path: &str) {
        self.binaries.retain(|(other, _)| *other != kind);
        self.binaries.push((kind, path.into()));
    }

    /// Where `koya-vmm` is.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn koya(&self) -> Result<PathBuf, BenchError> {
        let named = self.binaries.iter().find(|(kind, _)| *kind == Kind::Koya);
        in_path(named.map_or(Path::new("koya-vmm"), |(_, path)| path))
    }

    /// Whether any of these figures is asked for.
    #[must_use]
    pub fn wants(&self, figures: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| figures.contains(&name.as_str()))
    }

    /// The VMMs, Koya first.
    ///
    /// # Errors
    /// When one of them cannot be run.
    pub fn vmms(&self) -> Result<Vec<Vmm>, BenchError> {
        let order = [Kind::Koya, Kind::Qemu, Kind::Firecracker, Kind::CloudHypervisor];
        let chosen = order
            .iter()
            .filter_map(|kind| self.binaries.iter().find(|(other, _)| other == kind));
        chosen
            .map(|(kind, path)| Vmm::new(*kind, &in_path(path)?))
            .collect()
    }
}

/// Where `cargo build --release` puts `koya-vmm`.
fn release_build() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("x86_64-unknown-linux-gnu/release/koya-vmm")
}

/// A path as it is, a bare name looked up in `PATH`: the spawner does not search.
fn in_path(program: &Path) -> Result<PathBuf, BenchError> {
    let here = program.components().count() > 1 && program.exists();
    let search = env::var_os("PATH").unwrap_or_default();
    let found = if here {
        program.canonicalize().ok()
    } else {
        env::split_paths(&search)
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
    };
    found.ok_or_else(|| BenchError::Missing {
        what: program.display().to_string(),
        remedy: "build it (cargo build --release) or name another binary",
    })
}

fn usage(what: String) -> BenchError {
    BenchError::Usage(what)
}

fn number<T>(name: &str, value: &str, low: T, high: T) -> Result<T, BenchError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match value.parse::<T>() {
        Ok(number) if number >= low && number <= high => Ok(number),
        _ => Err(usage(format!("{name} takes a number from {low} to {high}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Options>, BenchError> {
        Options::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn understands_peers_and_numbers() {
        let options = parse("local --runs 3 --firecracker /fc --only exit,ports")
            .unwrap()
            .unwrap();
        assert_eq!((options.suite, options.runs), (SuiteKind::Local, 3));
        assert!(options.binaries.contains(&(Kind::Firecracker, "/fc".into())));
        assert_eq!(options.only, ["exit", "ports"]);
    }

    #[test]
    fn a_named_binary_replaces_the_default() {
        let options = parse("guest --qemu /a --qemu /b").unwrap().unwrap();
        let qemu: Vec<_> = options
            .binaries
            .iter()
            .filter(|(kind, _)| *kind == Kind::Qemu)
            .collect();
        assert_eq!(qemu, [&(Kind::Qemu, PathBuf::from("/b"))]);
    }

    #[test]
    fn a_part_is_wanted_by_name_or_with_all() {
        let some = parse("engines --only pods-10 --virtiofsd /v").unwrap().unwrap();
        assert!(some.wants(&["pods-1", "pods-10"]) && !some.wants(&["pods-1"]));
        assert_eq!(some.virtiofsd, Some("/v".into()));
        let some = parse("containers --netavark /n").unwrap().unwrap();
        assert_eq!(some.netavark, Some("/n".into()));
        assert!(parse("engines").unwrap().unwrap().wants(&["pods-1"]));
    }

    #[test]
    fn says_what_is_wrong_and_what_would_be_right() {
        for (arguments, part) in [
            ("", "expected local, guest, containers or engines"),
            ("fast", "'fast': expected local, guest, containers or engines"),
            ("local --runs", "'--runs' is unknown or lacks its value"),
            ("local --runs 0", "--runs takes a number from 1 to 1000"),
            ("guest --vcpus 33", "--vcpus takes a number from 1 to 32"),
            ("engines --at-once 0", "--at-once takes a number from 1 to 1000"),
            ("local --speed 1", "'--speed' is unknown"),
        ] {
            let error = parse(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{arguments}: {error}");
        }
    }

    #[test]
    fn finds_programs_by_name_and_by_path() {
        assert!(in_path(Path::new("sh")).unwrap().is_absolute());
        assert!(in_path(Path::new("/bin/sh")).unwrap().exists());
        assert!(in_path(Path::new("/no/such/program")).is_err());
    }
}
