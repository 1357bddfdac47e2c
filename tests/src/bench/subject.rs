//! Who is measured: a column of the results.

use super::vmm::{Kind, Vmm};

/// A VMM, or what the containers in one are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A VMM; with containers, all of Koya.
    Vmm(Kind),
    /// `koya-vmm` by itself: a kernel and a first program that powers off.
    BareVmm,
    /// Debian's crun.
    Crun,
    /// Debian's runc.
    Runc,
}

/// A subject and which version of it.
#[derive(Clone, Debug)]
pub struct Column {
    /// Who.
    pub subject: Subject,
    /// Its own line of `--version`.
    pub version: String,
}

impl Subject {
    /// Ours: whom goals are set for.
    pub const KOYA: Self = Self::Vmm(Kind::Koya);
    /// Whom most goals of the VMM are set against.
    pub const QEMU: Self = Self::Vmm(Kind::Qemu);

    /// The name for people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Vmm(kind) => kind.label(),
            Self::BareVmm => "bare koya-vmm",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

impl From<&Vmm> for Column {
    fn from(vmm: &Vmm) -> Self {
        Self {
            subject: Subject::Vmm(vmm.kind),
            version: vmm.version.clone(),
        }
    }
}
