//! `koya inspect`: what is known of a container, under the names that docker has for it.

use std::process::ExitCode;

use koya_sandbox::network::Networks;
use koya_sandbox::state::{Container, Health, Records, RestartPolicy, Status};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::error::CliError;
use crate::home::Home;
use crate::list::{date, word};
use crate::template::Template;

/// `koya inspect`
///
/// # Errors
/// [`CliError`]
pub fn inspect(args: &InspectArgs) -> Result<ExitCode, CliError> {
    let template = args.format.as_deref().filter(|&format| format != "json");
    let template = template.map(Template::parse).transpose()?;
    let home = Home::find()?;
    let (records, networks) = (home.records()?, home.networks()?);
    let mut code = ExitCode::SUCCESS;
    let mut all = Vec::new();
    for name in &args.containers {
        match records.find(name) {
            Ok(container) => all.push(describe(&records, &networks, &container)),
            Err(error) => {
                crate::complain(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    match template {
        Some(template) => {
            for container in &all {
                crate::print(&template.fill(container)?)?;
            }
        }
        None => crate::print(&serde_json::to_string_pretty(&all).map_err(std::io::Error::from)?)?,
    }
    Ok(code)
}

fn describe(records: &Records, networks: &Networks, container: &Container) -> Value {
    let settings = &container.settings;
    let spec = &settings.spec;
    let process = &spec.process;
    let vm = records.vm(&container.vm);
    json!({
        "Id": container.id,
        "Name": container.name,
        "Created": date(container.created),
        "Path": process.args.first(),
        "Args": process.args.get(1..).unwrap_or_default(),
        "State": state(container),
        "RestartCount": container.restarts.count,
        "Image": settings.image_id,
        "LogPath": records.folder(&container.id).join("log"),
        "Config": {
            "Image": settings.image,
            "Hostname": if spec.hostname.is_empty() { &container.id } else { &spec.hostname },
            "User": settings.user,
            "Env": process.env,
            "Cmd": process.args,
            "WorkingDir": process.cwd,
            "Tty": process.terminal,
            "OpenStdin": settings.open_stdin,
            "StdinOnce": settings.stdin_once,
            "StopSignal": settings.stop_signal,
            "StopTimeout": settings.stop_timeout,
            "Labels": settings.labels,
            "Healthcheck": settings.health,
        },
        "HostConfig": {
            "AutoRemove": settings.auto_remove,
            "RestartPolicy": restart(settings.restart),
            "Privileged": process.privileged,
            "ReadonlyRootfs": spec.read_only,
            "Init": settings.init,
            "CapAdd": process.cap_add,
            "CapDrop": process.cap_drop,
            "NanoCpus": spec.resources.nano_cpus,
            "CpuShares": spec.resources.cpu_shares,
            "CpusetCpus": spec.resources.cpuset_cpus,
            "Memory": spec.resources.memory,
            "MemorySwap": spec.resources.memory_swap,
            "MemoryReservation": spec.resources.memory_reservation,
            "PidsLimit": spec.resources.pids_limit,
            "Ulimits": process.ulimits,
            "LogConfig": { "MaxSize": settings.log.max_size, "MaxFiles": settings.log.max_files },
        },
        "System": process.system,
        "Mounts": settings.volumes,
        "NetworkSettings": network(networks, container),
        "Vm": vm.as_ref().map(|vm| json!({
            "Id": vm.id,
            "Vcpus": vm.settings.vcpus,
            "MemoryMib": vm.settings.memory_mib,
            "Storage": vm.settings.storage,
            "Rooms": vm.settings.rooms,
            "Pid": vm.vmm_pid.filter(|_| container.is_active()),
            "MonitorPid": vm.monitor_pid.filter(|_| container.is_active()),
        })),
    })
}

fn network(networks: &Networks, container: &Container) -> Value {
    let Some(attached) = networks.attached(&container.id).ok().flatten() else {
        return json!({ "IPAddress": "", "Ports": [], "Networks": {} });
    };
    let links = attached.links.iter().map(|link| {
        let link_value = json!({
            "Interface": link.name,
            "MacAddress": link.mac,
            "Addresses": link.addresses,
            "Gateways": link.gateways,
        });
        (link.network.clone(), link_value)
    });
    json!({
        "IPAddress": attached.address(),
        "Ports": attached.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Networks": links.collect::<serde_json::Map<_, _>>(),
    })
}

fn restart(policy: RestartPolicy) -> Value {
    let most = match policy {
        RestartPolicy::OnFailure { most } => most,
        _ => 0,
    };
    json!({ "Name": policy.to_string(), "MaximumRetryCount": most })
}

fn state(container: &Container) -> Value {
    let exit = container.exit.clone().unwrap_or_default();
    json!({
        "Status": word(container.status),
        "Running": matches!(container.status, Status::Running | Status::Paused | Status::Restarting),
        "Paused": container.status == Status::Paused,
        "Restarting": container.status == Status::Restarting,
        "OOMKilled": exit.oom_killed,
        "Dead": container.status == Status::Dead,
        "Pid": container.pid.unwrap_or(0),
        "ExitCode": exit.code,
        "Error": exit.error,
        "StartedAt": date(container.started),
        "FinishedAt": date(container.finished),
        "Health": container.health.as_ref().map(health),
    })
}

fn health(health: &Health) -> Value {
    let log = health.log.iter().map(|probe| {
        json!({
            "Start": date(probe.start),
            "End": date(probe.end),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        })
    });
    json!({
        "Status": health.status.word(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}
