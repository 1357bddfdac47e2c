//! From a command line and an image to what a container is.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use koya_image::{Image, ImageConfig};
use koya_sandbox::container::{ContainerSpec, Mount, ProcessSpec, Seccomp};
use koya_sandbox::network::NetworkRequest;
use koya_sandbox::state::{HealthCheck, LogSettings, RestartPolicy, Settings, Vm, VmSettings, new_id};
use koya_sandbox::volumes::Volume;

use crate::args::{HealthArgs, HostArgs, ProcessArgs, RightsArgs, RunArgs};
use crate::error::CliError;
use crate::{limits, signals, size};

/// What asks a process to end, unless its image says otherwise.
const SIGTERM: u32 = 15;
/// What asks systemd to end, with all its services (systemd(1), "Signals").
const SIGRTMIN_3: u32 = 37;
/// The first process of a distribution.
const INIT: &str = "/sbin/init";
/// Memory of a microVM in MiB, unless somebody needs more.
const MEMORY: u64 = 512;
/// What kernel and agent need beside the containers' memory, in MiB.
const BESIDE: u64 = 96;
/// Longest file of variables.
const MAX_ENV_FILE: u64 = 1 << 20;

/// What the user asked for, with what the image says.
///
/// # Errors
/// [`CliError`], naming the option that is wrong.
pub fn settings(args: &RunArgs, name: &str, image: &Image, home: &Path) -> Result<Settings, CliError> {
    if args.rm && args.restart != RestartPolicy::No {
        return Err(CliError::RemoveOrRestart);
    }
    let config = image.config();
    let mut process = process(&args.process, command(args, config)?, config)?;
    process.system = args.system;
    // An init wants a console, whether somebody is at it or not.
    process.terminal |= args.system;
    rights(&mut process, &args.rights)?;
    process.ulimits.clone_from(&args.limits.ulimit);
    process.oom_score_adj = args.limits.oom_score_adj;
    let stop_signal = match (&args.stop_signal, &config.stop_signal) {
        (Some(signal), _) => *signal,
        (None, Some(name)) => signals::parse(name).map_err(CliError::StopSignal)?,
        (None, None) if args.system => SIGRTMIN_3,
        (None, None) => SIGTERM,
    };
    let spec = ContainerSpec {
        process,
        hostname: args.hostname.clone().unwrap_or_default(),
        read_only: args.read_only,
        resources: limits::resources(&args.limits),
        sysctls: pairs("--sysctl", &args.rights.sysctl)?,
        seccomp: seccomp(&args.rights)?,
        mounts: args.rights.tmpfs.iter().map(|text| tmpfs(text)).collect(),
        uuid: args.system.then(machine_id).transpose()?,
        ..ContainerSpec::default()
    };
    let interactive = args.process.interactive;
    Ok(Settings {
        image: name.to_owned(),
        image_id: image.id().to_string(),
        spec,
        user: user(&args.process, config),
        init: args.init,
        network: network(&args.host)?,
        volumes: volumes(&args.host, home)?,
        stop_signal,
        stop_timeout: args.stop_timeout,
        open_stdin: interactive || args.system,
        stdin_once: interactive && !args.detach && !args.process.tty && !args.system,
        auto_remove: args.rm,
        restart: args.restart,
        health: health(&args.health, config),
        labels: args.label.iter().map(|label| split(label)).collect(),
        log: log(args)?,
    })
}

/// What the user says of a health check, where the image says something else or nothing.
fn health(args: &HealthArgs, config: &ImageConfig) -> Option<HealthCheck> {
    if args.no_healthcheck {
        return None;
    }
    let image = config.health.clone().unwrap_or_default();
    let command = args.health_cmd.as_deref().map(koya_image::HealthCheck::shell);
    let command = command.unwrap_or(image.command);
    let milliseconds = |wanted: Option<Duration>, image: u64, usual: u64| {
        let wanted = wanted.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        // 0 is docker's word for whatever is usual.
        let found = wanted.filter(|time| *time > 0).unwrap_or(image);
        if found > 0 { found } else { usual }
    };
    let retries = args.health_retries.unwrap_or(image.retries);
    (!command.is_empty()).then(|| HealthCheck {
        command,
        interval_ms: milliseconds(args.health_interval, image.interval_ms, HealthCheck::USUAL_MS),
        timeout_ms: milliseconds(args.health_timeout, image.timeout_ms, HealthCheck::USUAL_MS),
        start_period_ms: milliseconds(args.health_start_period, image.start_period_ms, 0),
        retries: if retries > 0 {
            retries
        } else {
            HealthCheck::USUAL_RETRIES
        },
    })
}

/// How large the microVM of a container is.
pub fn vm(args: &RunArgs) -> VmSettings {
    let place = &args.place;
    let needed = args
        .limits
        .shares
        .memory
        .map_or(0, |bytes| bytes.div_ceil(1 << 20));
    let memory = needed.saturating_add(BESIDE).max(MEMORY);
    VmSettings {
        vcpus: place
            .vcpus
            .unwrap_or_else(|| limits::vcpus(args.limits.shares.cpus)),
        memory_mib: place.vm_memory.map_or(memory, |bytes| bytes >> 20),
        storage: place.storage,
        rooms: place.rooms.into(),
        cards: cards(args),
    }
}

/// How many network devices a microVM has: one for each container that it can hold, and one for each further network
/// of the first.
fn cards(args: &RunArgs) -> usize {
    let networks = args.host.network.len();
    if args.host.network == ["none"] {
        return 0;
    }
    usize::from(args.place.rooms)
        .saturating_add(networks.saturating_sub(1))
        .min(Vm::MAX_CARDS)
}

fn network(args: &HostArgs) -> Result<NetworkRequest, CliError> {
    if let Some(refused) = args
        .network
        .iter()
        .find(|name| name.as_str() == "host" || name.contains(':'))
    {
        return Err(CliError::ForeignNetwork(refused.clone()));
    }
    let hosts = args.add_host.iter().map(|text| {
        let wrong = || CliError::Pair("--add-host", text.clone());
        let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
        Ok((name.to_owned(), address.parse().map_err(|_| wrong())?))
    });
    Ok(NetworkRequest {
        networks: args.network.clone(),
        ports: args.publish.clone(),
        aliases: args.network_alias.clone(),
        dns: args.dns.clone(),
        dns_search: args.dns_search.clone(),
        hosts: hosts.collect::<Result<_, CliError>>()?,
        ..NetworkRequest::default()
    })
}

fn volumes(args: &HostArgs, home: &Path) -> Result<Vec<Volume>, CliError> {
    let current = env::current_dir()?;
    let short = args.volume.iter().map(|text| Volume::parse(text, &current, home));
    let long = args
        .mount
        .iter()
        .map(|text| Volume::parse_mount(text, &current, home));
    let volumes = short.chain(long).collect::<Result<Vec<_>, _>>()?;
    for volume in volumes.iter().filter(|volume| !volume.named) {
        if !volume.source.exists() {
            return Err(CliError::NoSource(volume.source.clone()));
        }
    }
    Ok(volumes)
}

/// What to run: the user's command behind the image's entry point, or the image's own.
fn command(args: &RunArgs, config: &ImageConfig) -> Result<Vec<String>, CliError> {
    let (entrypoint, default) = match &args.entrypoint {
        Some(program) => (vec![program.clone()], Vec::new()),
        None => (config.entrypoint.clone(), config.cmd.clone()),
    };
    let given = args.command();
    let rest = if given.is_empty() { default } else { given };
    let command: Vec<String> = entrypoint.into_iter().chain(rest).collect();
    match command.is_empty() {
        false => Ok(command),
        true if args.system => Ok(vec![INIT.to_owned()]),
        true => Err(CliError::NoCommand),
    }
}

/// A process, with the image's settings where the user has none.
///
/// # Errors
/// [`CliError`], if a file of variables is wrong.
pub fn process(
    args: &ProcessArgs,
    command: Vec<String>,
    config: &ImageConfig,
) -> Result<ProcessSpec, CliError> {
    let folder = args.workdir.as_deref().unwrap_or(&config.working_dir);
    let mut env = config.env.clone();
    for path in &args.env_file {
        let wrong = |source| CliError::EnvFile(path.clone(), source);
        if fs::metadata(path).map_err(wrong)?.len() > MAX_ENV_FILE {
            return Err(wrong(std::io::ErrorKind::FileTooLarge.into()));
        }
        let text = fs::read_to_string(path).map_err(wrong)?;
        let lines = text.lines().map(str::trim_start);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        env.extend(lines.filter_map(variable));
    }
    env.extend(args.env.iter().filter_map(|text| variable(text)));
    Ok(ProcessSpec {
        args: command,
        env,
        cwd: if folder.is_empty() { "/" } else { folder }.to_owned(),
        terminal: args.tty,
        privileged: args.privileged,
        ..ProcessSpec::default()
    })
}

/// A variable; one without value has the one that it has here, if it has one.
fn variable(text: &str) -> Option<String> {
    match text.split_once('=') {
        Some(_) => Some(text.to_owned()),
        None => env::var(text).ok().map(|value| format!("{text}={value}")),
    }
}

/// Whose process it is, in the words of the container's own files.
pub fn user(args: &ProcessArgs, config: &ImageConfig) -> String {
    args.user
        .clone()
        .or_else(|| config.user.clone())
        .unwrap_or_default()
}

fn rights(process: &mut ProcessSpec, args: &RightsArgs) -> Result<(), CliError> {
    process.cap_add.clone_from(&args.cap_add);
    process.cap_drop.clone_from(&args.cap_drop);
    process.groups.clone_from(&args.group_add);
    for option in &args.security_opt {
        match option.as_str() {
            "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                process.no_new_privileges = true;
            }
            "no-new-privileges=false" | "no-new-privileges:false" => process.no_new_privileges = false,
            other if other.starts_with("seccomp") => {}
            other => return Err(CliError::SecurityOption(other.to_owned())),
        }
    }
    Ok(())
}

fn seccomp(args: &RightsArgs) -> Result<Seccomp, CliError> {
    let mut seccomp = Seccomp::Default;
    for option in &args.security_opt {
        match option.split_once(['=', ':']) {
            Some(("seccomp", "unconfined")) => seccomp = Seccomp::Unconfined,
            Some(("seccomp", _)) => return Err(CliError::SecurityOption(option.clone())),
            _ => {}
        }
    }
    Ok(seccomp)
}

/// Who a system container is, for as long as it exists: 32 random digits.
fn machine_id() -> Result<String, CliError> {
    let mut digits = String::new();
    while digits.len() < 32 {
        digits.push_str(&new_id()?);
    }
    digits.truncate(32);
    Ok(digits)
}

fn tmpfs(text: &str) -> Mount {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let usual = ["nosuid", "nodev", "noexec"].map(str::to_owned);
    let given = options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned);
    Mount {
        destination: path.to_owned(),
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: usual.into_iter().chain(given).collect(),
    }
}

fn log(args: &RunArgs) -> Result<LogSettings, CliError> {
    let mut log = LogSettings::default();
    for option in &args.log_opt {
        let wrong = || CliError::LogOption(option.clone());
        match option.split_once('=') {
            Some(("max-size", size)) => {
                log.max_size = size::parse(size).map_err(|_| wrong())?;
            }
            Some(("max-file", number)) => log.max_files = number.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
        if log.max_files == 0 || log.max_files > 1000 || log.max_size < 1 << 10 {
            return Err(wrong());
        }
    }
    if args.log_driver == "none" {
        log.max_size = 0;
    }
    Ok(log)
}

fn split(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

fn pairs(option: &'static str, given: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CliError::Pair(option, text.clone())),
    };
    given.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn run_args(line: &str) -> RunArgs {
        let cli = Cli::try_parse_from(["koya", "run"].into_iter().chain(line.split_whitespace())).unwrap();
        match cli.command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn config(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn entry_point_and_command_are_joined_as_docker_does() {
        let image = config(&["/entry"], &["default"]);
        let joined = |line| command(&run_args(line), &image).unwrap().join(" ");
        assert_eq!(joined("image"), "/entry default");
        assert_eq!(joined("image a -b"), "/entry a -b");
        assert_eq!(joined("--entrypoint sh image"), "sh");
        assert_eq!(joined("--entrypoint sh image -c x"), "sh -c x");
        assert_eq!(joined("--directory ./rootfs a b"), "/entry a b");
        let error = command(&run_args("image"), &config(&[], &[])).unwrap_err();
        assert!(matches!(error, CliError::NoCommand));
        let init = command(&run_args("--boot -D ./rootfs"), &config(&[], &[])).unwrap();
        assert_eq!(init, [INIT]);
    }

    #[test]
    fn the_users_settings_win_over_the_images() {
        let image = ImageConfig {
            env: vec!["A=image".into()],
            working_dir: "/image".into(),
            user: Some("www-data".into()),
            ..ImageConfig::default()
        };
        let made = |line| process(&run_args(line).process, vec!["sh".into()], &image).unwrap();
        assert_eq!(made("image").cwd, "/image");
        assert_eq!(user(&run_args("image").process, &image), "www-data");
        assert_eq!(user(&run_args("-u 7:8 image").process, &image), "7:8");
        let spec = made("-e A=mine -w /mine -t image");
        assert_eq!((spec.cwd.as_str(), spec.terminal), ("/mine", true));
        assert_eq!(spec.env, ["A=image", "A=mine"]);
    }

    #[test]
    fn the_house_is_as_large_as_its_room_needs() {
        let vm = |line| vm(&run_args(line));
        assert_eq!((vm("image").vcpus, vm("image").memory_mib), (1, 512));
        assert_eq!(vm("--cpus 2.5 image").vcpus, 3);
        assert_eq!(vm("--cpus 2.5 --vcpus 1 image").vcpus, 1);
        assert_eq!(vm("-m 1g image").memory_mib, 1024 + 96);
        assert_eq!(vm("-m 1g --vm-memory 2g image").memory_mib, 2048);
    }

    #[test]
    fn options_that_nobody_knows_are_named() {
        let wrong = run_args("--security-opt apparmor=x image");
        let error = rights(&mut ProcessSpec::default(), &wrong.rights).unwrap_err();
        assert!(error.to_string().contains("apparmor=x"), "{error}");
        for option in ["max-size=x", "max-file=0", "size=3", "max-size"] {
            let error = log(&run_args(&format!("--log-opt {option} image"))).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
        let settings = log(&run_args("--log-opt max-size=1m --log-opt max-file=3 image")).unwrap();
        assert_eq!((settings.max_size, settings.max_files), (1 << 20, 3));
        assert_eq!(log(&run_args("--log-driver none image")).unwrap().max_size, 0);
    }
}
