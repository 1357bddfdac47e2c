//! What the host's kernel has, as far as one can tell without loading anything.

use std::fs::File;

use flate2::read::GzDecoder;

use super::finding::Finding;
use super::host::{self, Host};

/// A part of the kernel: the name of its module, and its option in the configuration, without `CONFIG_`.
pub type Part = (&'static str, &'static str);

/// Whether the kernel has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is built in, or loaded.
    There,
    /// It is a module that is loaded when somebody needs it.
    Loadable,
    /// It is not.
    Missing,
    /// Neither a list of modules nor a configuration is to be found.
    Unknown,
}

/// The running kernel.
pub struct Kernel {
    pub release: String,
    loaded: Box<dyn Fn(&str) -> bool>,
    builtin: Option<String>,
    modules: Option<String>,
    config: Option<String>,
    /// No module is loaded any more (`kernel.modules_disabled`).
    is_closed: bool,
}

impl Kernel {
    pub fn of(host: &Host) -> Self {
        let release = host.word("/proc/sys/kernel/osrelease").unwrap_or_default();
        let list = |name: &str| {
            let folders = ["/lib/modules", "/usr/lib/modules"];
            let mut paths = folders.iter().map(|folder| format!("{folder}/{release}/{name}"));
            paths.find_map(|path| host.read(&path))
        };
        let compressed = File::open(host.path("/proc/config.gz")).ok();
        let config = compressed
            .and_then(|file| host::read(GzDecoder::new(file)))
            .or_else(|| host.read(&format!("/boot/config-{release}")))
            .or_else(|| list("config"));
        let folder = host.path("/sys/module");
        Self {
            loaded: Box::new(move |module| folder.join(module).exists()),
            builtin: list("modules.builtin"),
            modules: list("modules.dep"),
            config,
            is_closed: host.word("/proc/sys/kernel/modules_disabled").as_deref() == Some("1"),
            release,
        }
    }

    /// Major and minor number.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|letter: char| !letter.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    pub fn presence(&self, (module, option): Part) -> Presence {
        let listed = |list: &Option<String>| {
            list.as_deref()
                .is_some_and(|list| list.lines().any(|line| module_of(line) == module))
        };
        let configured = self.config.as_deref().map(|config| value(config, option));
        if (self.loaded)(module) || listed(&self.builtin) || configured == Some('y') {
            Presence::There
        } else if listed(&self.modules) {
            if self.is_closed {
                Presence::Missing
            } else {
                Presence::Loadable
            }
        } else if self.modules.is_some() || configured.is_some() {
            Presence::Missing
        } else {
            Presence::Unknown
        }
    }

    /// Whether all of `parts` are there, which `purpose` needs.
    pub fn check(&self, check: &'static str, purpose: &str, parts: &[Part]) -> Finding {
        let with = |wanted| -> Vec<Part> {
            let parts = parts.iter().copied();
            parts.filter(|part| self.presence(*part) == wanted).collect()
        };
        let (missing, unknown) = (with(Presence::Missing), with(Presence::Unknown));
        if !missing.is_empty() {
            let found = format!("the kernel lacks {}, which {purpose} need", names(&missing));
            let fix = if self.is_closed {
                format!(
                    "kernel.modules_disabled is 1: have {} loaded at the next boot (/etc/modules-load.d)",
                    names(&missing)
                )
            } else {
                let options: Vec<_> = missing
                    .iter()
                    .map(|(_, option)| format!("CONFIG_{option}"))
                    .collect();
                format!(
                    "boot a kernel with {} (Debian: linux-image-amd64)",
                    options.join(", ")
                )
            };
            return Finding::warning(check, found, fix);
        }
        if !unknown.is_empty() {
            let found = format!(
                "unknown whether the kernel has {}, which {purpose} need: it has no list of modules and no configuration here",
                names(&unknown)
            );
            let modules: Vec<_> = unknown.iter().map(|(module, _)| *module).collect();
            return Finding::warning(check, found, format!("try: modprobe -a {}", modules.join(" ")));
        }
        let loadable = with(Presence::Loadable);
        let how = match loadable.len() {
            0 => "in the kernel".to_owned(),
            count if count == parts.len() => "modules, loaded when needed".to_owned(),
            _ => format!("in the kernel, but {}: loaded when needed", names(&loadable)),
        };
        Finding::ok(check, format!("{}: {how}", names(parts)))
    }
}

fn names(parts: &[Part]) -> String {
    let names: Vec<_> = parts.iter().map(|(module, _)| *module).collect();
    names.join(", ")
}

/// The module of a line in modules.dep or modules.builtin: `kernel/net/sched/sch_ingress.ko.xz: …`
fn module_of(line: &str) -> String {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split(".ko").next().unwrap_or_default();
    name.replace('-', "_")
}

/// `y`, `m`, or `n` for what is not set; a configuration does not list what depends on something that is not set.
fn value(config: &str, option: &str) -> char {
    let mut lines = config
        .lines()
        .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
    let found = lines.find(|(name, _)| *name == option);
    found.and_then(|(_, value)| value.chars().next()).unwrap_or('n')
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    const BRIDGE: Part = ("bridge", "BRIDGE");
    const U32: Part = ("cls_u32", "NET_CLS_U32");

    fn presence(fake: &Fake, part: Part) -> Presence {
        Kernel::of(&fake.host()).presence(part)
    }

    #[test]
    fn a_distribution_lists_its_modules() {
        let fake = Fake::new().with_modules(&["bridge"], &["cls-u32"]);
        assert_eq!(presence(&fake, BRIDGE), Presence::There);
        assert_eq!(presence(&fake, U32), Presence::Loadable);
        assert_eq!(presence(&fake, ("u32", "U32")), Presence::Missing);
        let fake = fake.with("/sys/module/u32/refcnt", "1");
        assert_eq!(presence(&fake, ("u32", "U32")), Presence::There);
        assert_eq!(Kernel::of(&fake.host()).version(), Some((6, 12)));
    }

    #[test]
    fn a_kernel_without_modules_has_a_configuration() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(
            b"CONFIG_BRIDGE=y\nCONFIG_BRIDGE_IGMP=y\n# CONFIG_NET_CLS_U32 is not set\nCONFIG_VETH=m\n",
        )
        .unwrap();
        let fake = Fake::new().with("/proc/config.gz", "");
        std::fs::write(fake.host().path("/proc/config.gz"), gzip.finish().unwrap()).unwrap();
        assert_eq!(presence(&fake, BRIDGE), Presence::There);
        assert_eq!(presence(&fake, U32), Presence::Missing);
        // A module that is not installed cannot be loaded.
        assert_eq!(presence(&fake, ("veth", "VETH")), Presence::Missing);
        let finding = Kernel::of(&fake.host()).check("links", "networks", &[BRIDGE, U32]);
        assert_eq!(finding.status, Status::Warning);
        assert!(finding.fix.unwrap().contains("CONFIG_NET_CLS_U32"));
    }

    #[test]
    fn nothing_is_guessed() {
        let fake = Fake::new();
        assert_eq!(presence(&fake, U32), Presence::Unknown);
        let finding = Kernel::of(&fake.host()).check("links", "networks", &[BRIDGE, U32]);
        assert_eq!(finding.status, Status::Warning);
        assert!(
            finding
                .found
                .starts_with("unknown whether the kernel has bridge, cls_u32"),
            "{finding:?}"
        );
        assert_eq!(finding.fix.as_deref(), Some("try: modprobe -a bridge cls_u32"));
    }

    #[test]
    fn what_may_not_be_loaded_is_missing() {
        let fake = Fake::new()
            .with_modules(&["bridge"], &["cls_u32"])
            .with("/proc/sys/kernel/modules_disabled", "1\n");
        assert_eq!(presence(&fake, U32), Presence::Missing);
        let finding = Kernel::of(&fake.host()).check("links", "networks", &[BRIDGE, U32]);
        assert!(finding.fix.unwrap().contains("modules_disabled"));
    }
}
