//! From a bundle's plan to a created container in a microVM.

use std::fs;
use std::sync::Mutex;

use koya_proto::v1;
use koya_proto::v1::root_filesystem::Source;
use koya_sandbox::stdio;
use koya_sandbox::volumes::{TAG, Volumes};
use koya_sandbox::{Lent, Progress, Sandbox, SandboxSpec};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::network::{Network, Tenant};
use super::{Guest, share};
use crate::create::Birth;
use crate::error::RuntimeError;
use crate::house::House;
use crate::record::{Process, Record};

/// Whether IPv6 is turned off in the stand-in's network namespace, which is this thread's.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// Creates the container, in a microVM that is booted for it unless it is to be in another one's. To be called by a thread
/// that lives as long as both shall.
pub(super) fn create(birth: &Birth) -> Result<Guest, RuntimeError> {
    let (house, network) = match &birth.plan.house {
        None => {
            let network = Network::take(birth.plan.late, birth.plan.resolv_conf.clone())?;
            let house = match boot(birth, &network, birth.templates) {
                // A guest that gives up by itself has a second chance.
                Err(RuntimeError::Start(error)) if error.is_by_chance() => {
                    let error = RuntimeError::Start(error).one_line();
                    birth
                        .context
                        .log
                        .warn(&format!("{error}; it is booted once more"));
                    boot(birth, &network, false)?
                }
                outcome => outcome?,
            };
            (house, Some(network))
        }
        Some(first) => {
            let plan = &birth.plan;
            let house = House::join(
                &birth.context.store,
                &birth.record,
                first,
                &plan.volumes,
                &plan.disks,
            )?;
            remember(birth, |record| {
                record.helpers = processes(&[std::process::id()]);
            });
            (house, None)
        }
    };
    let (named, streams) = stdio::open(&house.vsock(), birth.own.wanted())
        .map_err(RuntimeError::system("connect the streams"))?;
    house.agent().create(request(birth, named, house.lent()))?;
    if let Some(network) = &network {
        network.give(Tenant {
            house: &house,
            id: &birth.record.id,
            log: &birth.context.log,
        })?;
    }
    let outputs = birth.own.connect(streams)?;
    Ok(Guest {
        house,
        network,
        outputs,
    })
}

/// Boots a microVM with this network, or forks one if it may.
fn boot(birth: &Birth, network: &Network, templates: bool) -> Result<House, RuntimeError> {
    let folder = birth.context.store.folder(&birth.record.id);
    let mut volumes = Volumes::start(&folder, &birth.plan.volumes, None, &birth.virtiofsd)?;
    let spec = SandboxSpec {
        vcpus: birth.plan.size.vcpus,
        memory_mib: birth.plan.size.memory_mib,
        disks: birth.plan.disks.clone(),
        share: Some(volumes.share()),
        network: Some(network.cards(&birth.record.id)),
        templates,
    };
    let abandoned = || has_left(&birth.creator);
    let note = |progress| match progress {
        Progress::TemplateBegun(pid) | Progress::Spawned(pid) => remember(birth, |record| {
            record.server = Process::of(volumes.pid());
            record.helpers = processes(&[pid, volumes.pid(), std::process::id()]);
        }),
        Progress::NoTemplate(reason) => birth.context.log.warn(&reason),
        Progress::TemplateMade | Progress::Forked => {}
    };
    let sandbox = Sandbox::start(
        &birth.parts,
        &spec,
        &folder,
        &birth.context.store.parts(),
        abandoned,
        note,
    );
    match sandbox {
        Ok(sandbox) => Ok(House::Own {
            sandbox,
            volumes: Mutex::new(Some(volumes)),
        }),
        Err(error) => {
            // A guest that waits for its files for ever, or does not get to that.
            volumes.check()?;
            Err(error.into())
        }
    }
}

fn request(birth: &Birth, mut stdio: v1::Stdio, lent: &[Lent]) -> v1::CreateRequest {
    // A process whose reader has gone gets to know that.
    stdio.hang_up = true;
    let root = v1::RootFilesystem {
        source: Some(Source::Folder(birth.plan.served_at(0))),
        ..Default::default()
    };
    v1::CreateRequest {
        id: birth.record.id.clone(),
        root: Some(root).into(),
        config: config(birth, lent).to_string().into_bytes(),
        stdio: Some(stdio).into(),
        shares: vec![share(TAG)],
        ..Default::default()
    }
}

/// `config.json` for the agent, with the disks that were `lent`. What an engine has turned off in the namespace is
/// off in the guest's as well.
fn config(birth: &Birth, lent: &[Lent]) -> Value {
    let mut config = birth.plan.config_with(lent);
    let off = fs::read_to_string(NO_IPV6).is_ok_and(|value| value.trim() == "1");
    if off && let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        let sysctl = linux.entry("sysctl").or_insert(Value::Null);
        if sysctl.is_null() {
            *sysctl = json!({});
        }
        if let Some(sysctl) = sysctl.as_object_mut() {
            let name = "net.ipv6.conf.all.disable_ipv6";
            sysctl.entry(name).or_insert_with(|| "1".into());
        }
    }
    config
}

/// Writes down what has to go if this process cannot see to it.
fn remember(birth: &Birth, note: impl FnOnce(&mut Record)) {
    // What `create` has added since.
    if let Ok(mut record) = birth.context.store.load(&birth.record.id) {
        note(&mut record);
        // Without it the container runs all the same; only what is left of it is then harder to find.
        let _ = birth.context.store.save(&record);
    }
}

fn processes(pids: &[u32]) -> Vec<Process> {
    pids.iter().filter_map(|pid| Process::of(*pid)).collect()
}

/// Whether nobody waits for the container any more.
fn has_left(creator: &std::os::unix::net::UnixStream) -> bool {
    let mut fds = [PollFd::new(creator, PollFlags::RDHUP)];
    let none = rustix::event::Timespec::default();
    poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0)
}
