//! The machine: vCPUs and memory.

use serde::{Deserialize, Deserializer, Serialize};

use super::number::{Number, narrow};

/// The most vCPUs a microVM can have.
pub const MAX_VCPUS: u8 = 32;
/// Memory of a microVM whose configuration does not say, in MiB.
pub const DEFAULT_MEM_SIZE_MIB: u64 = 128;

/// The number of vCPUs, the size of the memory, and how both are provided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 32; with `smt`, 1 or an even number.
    #[serde(deserialize_with = "vcpu_count")]
    pub vcpu_count: u8,
    /// Size of the guest's memory in MiB, at least 1; with `huge_pages`, a multiple of 2.
    #[serde(deserialize_with = "mem_size_mib")]
    pub mem_size_mib: u64,
    /// Whether vCPUs are presented to the guest as pairs of hyper-threads. Off unless asked for.
    #[serde(default)]
    pub smt: bool,
    /// A set of CPU features named after an EC2 instance type. Deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<CpuTemplate>,
    /// Whether the pages the guest writes are recorded, which diff snapshots need. Off unless asked for.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// The pages that back the guest's memory.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// Places for further devices, which may join the microVM while it runs, and which one that goes on from its
    /// snapshot may fill: 0 to 19, less the devices there are. Once it runs, how many may still come. Not a field of
    /// Firecracker's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spare_devices: u8,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: DEFAULT_MEM_SIZE_MIB,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            spare_devices: 0,
        }
    }
}

/// Parts of a [`MachineConfig`] to change; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigUpdate {
    /// See [`MachineConfig::vcpu_count`].
    #[serde(default, deserialize_with = "optional_vcpu_count")]
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfig::mem_size_mib`].
    #[serde(default, deserialize_with = "optional_mem_size_mib")]
    pub mem_size_mib: Option<u64>,
    /// See [`MachineConfig::smt`].
    pub smt: Option<bool>,
    /// See [`MachineConfig::cpu_template`].
    pub cpu_template: Option<CpuTemplate>,
    /// See [`MachineConfig::track_dirty_pages`].
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfig::huge_pages`].
    pub huge_pages: Option<HugePages>,
}

/// Firecracker's static CPU templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuTemplate {
    /// C3 on Intel.
    C3,
    /// T2 on Intel.
    T2,
    /// T2 on Intel, for snapshots between Skylake and Cascade Lake.
    T2S,
    /// T2 on Intel Cascade Lake or newer.
    T2CL,
    /// T2 on AMD.
    T2A,
    /// No template.
    None,
}

/// The pages that back guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// Pages of 4 KiB.
    #[default]
    None,
    /// Pages of 4 KiB which the host may merge into larger ones.
    Transparent,
    /// Pages of 2 MiB from the host's pool of huge pages.
    #[serde(rename = "2M")]
    TwoMib,
}

/// A machine that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MachineConfigError {
    /// A processor disguised as another one.
    #[error("`cpu_template` is not supported yet: leave it out, or say None")]
    CpuTemplate,
    /// No vCPU, or too many.
    #[error("`vcpu_count` is {0}: it must be 1 to {MAX_VCPUS}")]
    VcpuCount(u8),
    /// An odd number of hyper-threads.
    #[error("`vcpu_count` is {0}: with `smt` it must be 1 or an even number up to {MAX_VCPUS}")]
    OddWithSmt(u8),
    /// No memory, or half a huge page. Clients match the first sentence.
    #[error(
        "The memory size (MiB) is either 0, or not a multiple of the configured page size. `mem_size_mib` is {mib}: \
         it must be a multiple of {unit}, and at least that"
    )]
    MemorySize {
        /// The size asked for.
        mib: u64,
        /// The size of the pages in MiB, at least 1.
        unit: u64,
    },
}

impl MachineConfig {
    /// Checks what needs no host.
    ///
    /// # Errors
    /// [`MachineConfigError`]
    pub fn validate(&self) -> Result<(), MachineConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpu_count) {
            return Err(MachineConfigError::VcpuCount(self.vcpu_count));
        }
        if self.smt && self.vcpu_count > 1 && !self.vcpu_count.is_multiple_of(2) {
            return Err(MachineConfigError::OddWithSmt(self.vcpu_count));
        }
        let unit = match self.huge_pages {
            HugePages::None => 1,
            HugePages::Transparent | HugePages::TwoMib => 2,
        };
        if self.mem_size_mib == 0 || !self.mem_size_mib.is_multiple_of(unit) {
            return Err(MachineConfigError::MemorySize {
                mib: self.mem_size_mib,
                unit,
            });
        }
        Ok(())
    }

    /// The configuration with `update` applied, all of it or nothing.
    ///
    /// # Errors
    /// [`MachineConfigError`] when the result would not be valid.
    pub fn updated(&self, update: &MachineConfigUpdate) -> Result<Self, MachineConfigError> {
        let result = Self {
            vcpu_count: update.vcpu_count.unwrap_or(self.vcpu_count),
            mem_size_mib: update.mem_size_mib.unwrap_or(self.mem_size_mib),
            smt: update.smt.unwrap_or(self.smt),
            cpu_template: update
                .cpu_template
                .or(self.cpu_template)
                .filter(|&t| t != CpuTemplate::None),
            track_dirty_pages: update.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            huge_pages: update.huge_pages.unwrap_or(self.huge_pages),
            spare_devices: self.spare_devices,
        };
        result.validate().map(|()| result)
    }
}

const VCPU_COUNT: Number = Number {
    max: u8::MAX as u64,
    what: "a number of vCPUs, 1 to 32",
};
const MEM_SIZE_MIB: Number = Number {
    max: u64::MAX,
    what: "a memory size in MiB, a whole number from 1",
};

fn vcpu_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    narrow(VCPU_COUNT.read(deserializer)?, &VCPU_COUNT)
}

fn optional_vcpu_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    VCPU_COUNT
        .read_optional(deserializer)?
        .map(|count| narrow(count, &VCPU_COUNT))
        .transpose()
}

fn mem_size_mib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    MEM_SIZE_MIB.read(deserializer)
}

fn optional_mem_size_mib<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    MEM_SIZE_MIB.read_optional(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn machine(vcpu_count: u8, mem_size_mib: u64) -> MachineConfig {
        MachineConfig {
            vcpu_count,
            mem_size_mib,
            ..MachineConfig::default()
        }
    }

    #[test]
    fn defaults_are_one_vcpu_and_128_mib() {
        assert_eq!(
            serde_json::to_string(&MachineConfig::default()).unwrap(),
            r#"{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}"#
        );
    }

    #[test]
    fn ranges_are_checked() {
        for count in [1, 2, 31, 32] {
            assert_eq!(machine(count, 1).validate(), Ok(()));
        }
        for count in [0, 33, 255] {
            let err = machine(count, 1).validate().unwrap_err();
            assert_eq!(err, MachineConfigError::VcpuCount(count));
            assert!(err.to_string().contains("`vcpu_count`") && err.to_string().contains("1 to 32"));
        }
        assert!(machine(1, 0).validate().is_err());
        let smt = MachineConfig {
            smt: true,
            ..machine(3, 1)
        };
        assert_eq!(smt.validate(), Err(MachineConfigError::OddWithSmt(3)));
        let huge = MachineConfig {
            huge_pages: HugePages::TwoMib,
            ..machine(1, 3)
        };
        assert_eq!(
            huge.validate(),
            Err(MachineConfigError::MemorySize { mib: 3, unit: 2 })
        );
    }

    #[test]
    fn numbers_too_large_for_the_type_still_name_field_and_range() {
        for text in [
            "1000000",
            "18446744073709551615",
            "-1",
            "1.5",
            "1e300",
            "true",
            "\"2\"",
            "null",
        ] {
            let whole = format!(r#"{{"mem_size_mib":1,"vcpu_count":{text}}}"#);
            let err = json::from_slice::<MachineConfig>(whole.as_bytes()).unwrap_err();
            assert!(err.to_string().contains("1 to 32"), "{err}");
            assert_eq!(err.field(), "vcpu_count");
            if text != "null" {
                let part = format!(r#"{{"vcpu_count":{text}}}"#);
                let err = json::from_slice::<MachineConfigUpdate>(part.as_bytes()).unwrap_err();
                assert!(err.to_string().contains("1 to 32"), "{err}");
                assert_eq!(err.field(), "vcpu_count");
            }
        }
        let err =
            json::from_slice::<MachineConfigUpdate>(br#"{"mem_size_mib":18446744073709551616}"#).unwrap_err();
        assert!(err.message().starts_with("invalid type"), "{err}");
    }

    #[test]
    fn updates_change_what_they_name() {
        let base = MachineConfig {
            smt: true,
            ..machine(2, 256)
        };
        let update: MachineConfigUpdate =
            serde_json::from_str(r#"{"vcpu_count":4,"huge_pages":"2M","cpu_template":"None","smt":null}"#)
                .unwrap();
        let result = base.updated(&update).unwrap();
        assert_eq!(
            (result.vcpu_count, result.mem_size_mib, result.smt),
            (4, 256, true)
        );
        assert_eq!(
            (result.huge_pages, result.cpu_template),
            (HugePages::TwoMib, None)
        );
        let update = MachineConfigUpdate {
            mem_size_mib: Some(0),
            ..MachineConfigUpdate::default()
        };
        let text = base.updated(&update).unwrap_err().to_string();
        assert!(text.starts_with(
            "The memory size (MiB) is either 0, or not a multiple of the configured page size."
        ));
    }
}
