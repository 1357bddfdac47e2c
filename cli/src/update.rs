//! `koya update`: other limits for containers that are there.

use std::process::ExitCode;

use koya_sandbox::container::Resources;
use koya_sandbox::monitor;
use koya_sandbox::state::{Container, Records};

use crate::args::UpdateArgs;
use crate::error::CliError;
use crate::lifecycle::each;
use crate::limits;

/// Bytes in a MiB, and billionths of a processor in one.
const MIB: u64 = 1 << 20;
const NANO: u64 = 1_000_000_000;

/// `koya update`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn update(args: &UpdateArgs) -> Result<ExitCode, CliError> {
    let new = limits::shares(&args.shares);
    if new == Resources::default() {
        return Err(CliError::NothingToUpdate);
    }
    each(&args.containers, |records, container| {
        check(records, container, &new)?;
        Ok(monitor::update(records, container, &new)?)
    })
}

/// A microVM has the processors and the memory with which it was made, and swap is counted with memory.
fn check(records: &Records, container: &Container, new: &Resources) -> Result<(), CliError> {
    if let Some(vm) = records.vm(&container.vm) {
        let whole = u64::from(vm.settings.vcpus).saturating_mul(NANO);
        if new.nano_cpus.is_some_and(|wanted| wanted > whole) {
            let has = format!("{} processors", vm.settings.vcpus);
            return Err(CliError::SmallVm("--cpus", has, container.name.clone()));
        }
        let memory = vm.settings.memory_mib;
        if new.memory.is_some_and(|wanted| wanted.div_ceil(MIB) > memory) {
            return Err(CliError::SmallVm(
                "--memory",
                format!("{memory}m"),
                container.name.clone(),
            ));
        }
    }
    match container
        .settings
        .spec
        .resources
        .updated(new)
        .has_swap_below_memory()
    {
        true => Err(CliError::SwapBelowMemory),
        false => Ok(()),
    }
}
