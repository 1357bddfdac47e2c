//! Which machine the figures are from.

use std::fs;
use std::path::Path;

/// What kind of KVM the machine offers; it decides what the figures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmKind {
    /// The processor virtualises: figures as a user would see them.
    Hardware,
    /// Page-table virtualisation: a guest's user mode runs natively, its kernel mode is interpreted.
    PageTable,
    /// The whole host is emulated: only ratios between VMMs mean something.
    Emulated,
    /// There is no `/dev/kvm`.
    None,
}

impl KvmKind {
    /// One or two words for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::PageTable => "page-table",
            Self::Emulated => "emulated",
            Self::None => "none",
        }
    }

    /// What a reader should make of figures from such a host.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Hardware => "everything at full speed",
            Self::PageTable => "guest user mode runs natively, guest kernel mode is interpreted",
            Self::Emulated => "nothing is a wall-clock truth; compare the VMMs with each other",
            Self::None => "no guest can run",
        }
    }
}

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kind of KVM.
    pub kvm: KvmKind,
    /// Model name of the first processor.
    pub cpu: String,
    /// Number of processors.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The load average of the last minute when the run began: an idle machine is below 0.3.
    pub load: f64,
}

impl Host {
    /// Looks at this machine. What cannot be read is left empty.
    #[must_use]
    pub fn look() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let kernel = text("/proc/sys/kernel/osrelease").trim().to_owned();
        let page_table = Path::new("/sys/module/kvm_pvm").exists();
        let has_kvm = Path::new("/dev/kvm").exists();
        Self {
            kvm: kvm_kind(&cpuinfo, page_table, has_kvm),
            cpu: field(&cpuinfo, "model name")
                .unwrap_or("unknown processor")
                .to_owned(),
            cpus: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel,
            memory_mib: field(&text("/proc/meminfo"), "MemTotal")
                .and_then(kib_to_mib)
                .unwrap_or(0),
            load: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} KVM ({}); {} × {}, {} MiB, Linux {}, load {:.2} at the start",
            self.kvm.name(),
            self.kvm.meaning(),
            self.cpus,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.load
        )
    }
}

fn kvm_kind(cpuinfo: &str, page_table: bool, has_kvm: bool) -> KvmKind {
    let virtualises = field(cpuinfo, "flags")
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "svm" || flag == "vmx"));
    match (has_kvm, page_table || !virtualises) {
        (false, _) => KvmKind::None,
        (true, true) => KvmKind::PageTable,
        // What QEMU's emulator calls its processors.
        (true, false) if field(cpuinfo, "model name").is_some_and(|name| name.contains("TCG")) => {
            KvmKind::Emulated
        }
        (true, false) => KvmKind::Hardware,
    }
}

/// The value of `name` in a list of `name : value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kib_to_mib(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse::<u64>().ok()?.checked_div(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_kinds_of_kvm_apart() {
        let plain = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu svm lm\n";
        let bare = "model name\t: AMD EPYC\nflags\t\t: fpu lm\n";
        let emulated = "model name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu svm\n";
        assert_eq!(kvm_kind(plain, false, true), KvmKind::Hardware);
        assert_eq!(kvm_kind(bare, true, true), KvmKind::PageTable);
        assert_eq!(kvm_kind(bare, false, true), KvmKind::PageTable);
        assert_eq!(kvm_kind(emulated, false, true), KvmKind::Emulated);
        assert_eq!(kvm_kind(plain, false, false), KvmKind::None);
    }

    #[test]
    fn describes_this_machine() {
        let host = Host::look();
        assert!(
            host.cpus > 0 && host.memory_mib > 0 && !host.kernel.is_empty(),
            "{host:?}"
        );
    }
}
