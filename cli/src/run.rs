//! `koya run` and `koya exec`.

use std::env;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use koya_image::ImageConfig;
use koya_proto::client::{AgentClient, ProcessId};
use koya_proto::v1;
use koya_sandbox::container::{ContainerSpec, ProcessSpec};
use koya_sandbox::instance::{Instance, Status, new_id};
use koya_sandbox::parts::Parts;
use koya_sandbox::{Disk, Sandbox, SandboxSpec, scratch};

use crate::args::{ExecArgs, ProcessArgs, RunArgs};
use crate::attach::{self, Attachment};
use crate::error::CliError;
use crate::home::{Home, agent_of};
use crate::images;
use crate::signals::{self, Relay};
use crate::terminal;

/// What asks a process to end, unless its image says otherwise.
const SIGTERM: u32 = 15;
/// Serials by which the agent finds the disks.
const IMAGE_DISK: &str = "image";
const SCRATCH_DISK: &str = "scratch";
/// The file of the first one in a container's folder.
const IMAGE_FILE: &str = "image.erofs";
/// The file of the second one in a container's folder.
const SCRATCH_FILE: &str = "scratch.ext4";

/// `koya run`
///
/// # Errors
/// [`CliError`]
pub fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    check_terminal(&args.process)?;
    let home = Home::find()?;
    let parts = Parts::find()?;
    let store = home.images()?;
    let image = images::find_or_load(&store, &args.image)?;
    let process = process(&args.process, command(args, image.config())?, image.config())?;
    let stop_signal = match &image.config().stop_signal {
        Some(name) => signals::parse(name).map_err(CliError::StopSignal)?,
        None => SIGTERM,
    };
    let disk = store.disk(&image)?;
    let containers = home.containers()?;
    let relay = Relay::start().map_err(CliError::Signals)?;
    let mut instance = containers.create(args.name.as_deref(), &args.image, &process, stop_signal)?;
    relay.made(instance.folder());
    let result = run_in(
        &mut instance,
        args,
        &parts,
        &disk,
        process,
        &home.shared(),
        &relay,
    );
    let code = result.as_ref().map_or_else(CliError::exit_code, |code| *code);
    if let Err(error) = finish(instance, args.rm, code) {
        crate::complain(&error);
    }
    Ok(ExitCode::from(result?))
}

/// Boots the microVM of an instance and stays until its container has ended; the exit code.
fn run_in(
    instance: &mut Instance,
    args: &RunArgs,
    parts: &Parts,
    disk: &Path,
    process: ProcessSpec,
    shared: &Path,
    relay: &Relay,
) -> Result<u8, CliError> {
    // Of its own, so that the image may be removed meanwhile. Another file system does not take a link.
    let linked = instance.folder().join(IMAGE_FILE);
    let disk = if fs::hard_link(disk, &linked).is_ok() {
        linked
    } else {
        disk.to_owned()
    };
    let scratch = instance.folder().join(SCRATCH_FILE);
    scratch::create(&scratch, args.storage)?;
    let spec = SandboxSpec {
        vcpus: args.vcpus,
        memory_mib: args.vm_memory >> 20,
        disks: vec![
            Disk {
                serial: IMAGE_DISK.into(),
                path: disk,
                read_only: true,
            },
            Disk {
                serial: SCRATCH_DISK.into(),
                path: scratch,
                read_only: false,
            },
        ],
    };
    let folder = instance.folder().to_owned();
    let sandbox = Sandbox::start(parts, &spec, &folder, shared, |pid| {
        instance.state.vmm_pid = Some(pid);
        // Without it the container runs all the same; only a hung guest is then harder to end.
        let _ = instance.save();
    })?;
    let id = instance.state.id.clone();
    let container = ContainerSpec {
        process,
        hostname: args.hostname.clone().unwrap_or_else(|| id.clone()),
        read_only: args.read_only,
    };
    let agent = sandbox.agent();
    let attachment = attachment(&args.process);
    let exit = attach::run(
        agent,
        &sandbox.vsock(),
        &id.as_str().into(),
        attachment,
        relay,
        |stdio| {
            begin(agent, &id, &container, stdio)?;
            // Not before: whoever sees it run may enter it.
            instance.state.status = Status::Running;
            Ok(instance.save()?)
        },
    )?;
    if !args.rm {
        // What the container wrote is to be on its disk.
        let _ = agent.delete(&id, true);
    }
    Ok(code(&exit))
}

fn begin(agent: &AgentClient, id: &str, container: &ContainerSpec, stdio: v1::Stdio) -> Result<(), CliError> {
    let disk = |serial: &str, filesystem: &str| v1::Disk {
        serial: serial.to_owned(),
        filesystem: filesystem.to_owned(),
        ..Default::default()
    };
    let overlay = v1::Overlay {
        lower: vec![disk(IMAGE_DISK, "erofs")],
        scratch: Some(disk(SCRATCH_DISK, "ext4")).into(),
        ..Default::default()
    };
    let mut root = v1::RootFilesystem::new();
    root.set_overlay(overlay);
    agent.create(v1::CreateRequest {
        id: id.to_owned(),
        root: Some(root).into(),
        config: container.to_json().to_string().into_bytes(),
        stdio: Some(stdio).into(),
        ..Default::default()
    })?;
    Ok(agent.start(id)?)
}

/// Keeps what is to be kept of an instance that has ended.
fn finish(mut instance: Instance, remove: bool, code: u8) -> Result<(), CliError> {
    if remove {
        return Ok(instance.remove()?);
    }
    instance.state.status = Status::Stopped;
    instance.state.vmm_pid = None;
    instance.state.exit_code = Some(code);
    instance.save()?;
    for file in ["vm.json", IMAGE_FILE] {
        let _ = fs::remove_file(instance.folder().join(file));
    }
    Ok(())
}

/// `koya exec`
///
/// # Errors
/// [`CliError`]
pub fn exec(args: &ExecArgs) -> Result<ExitCode, CliError> {
    check_terminal(&args.process)?;
    let containers = Home::find()?.containers()?;
    let state = containers.find(&args.container)?;
    let agent = agent_of(&containers, &state)?;
    let process = another(&args.process, args.command.clone(), &state.process)?;
    let exec_id = new_id().map_err(CliError::Streams)?;
    let id = ProcessId::exec(&state.id, &exec_id);
    let relay = Relay::start().map_err(CliError::Signals)?;
    let (vsock, attachment) = (containers.vsock(&state), attachment(&args.process));
    let exit = attach::run(&agent, &vsock, &id, attachment, &relay, |stdio| {
        agent.exec(v1::ExecRequest {
            id: state.id.clone(),
            exec_id: exec_id.clone(),
            process: process.to_json().to_string().into_bytes(),
            stdio: Some(stdio).into(),
            ..Default::default()
        })?;
        Ok(())
    })?;
    Ok(ExitCode::from(code(&exit)))
}

/// A terminal needs somebody at one.
fn check_terminal(args: &ProcessArgs) -> Result<(), CliError> {
    if args.tty && args.interactive && !terminal::is_there() {
        return Err(CliError::NoTerminal);
    }
    Ok(())
}

/// Another process in a container: as its first one is, but for what the user says.
fn another(args: &ProcessArgs, command: Vec<String>, first: &ProcessSpec) -> Result<ProcessSpec, CliError> {
    let config = ImageConfig {
        env: first.env.clone(),
        working_dir: first.cwd.clone(),
        user: Some(format!("{}:{}", first.user.0, first.user.1)),
        ..ImageConfig::default()
    };
    process(args, command, &config)
}

fn attachment(args: &ProcessArgs) -> Attachment {
    Attachment {
        interactive: args.interactive,
        tty: args.tty,
    }
}

/// An exit code as a process can have it.
fn code(exit: &v1::Exit) -> u8 {
    if exit.oom {
        let _ = writeln!(
            std::io::stderr(),
            "koya: the kernel killed a process of the container: out of memory"
        );
    }
    u8::try_from(exit.code).unwrap_or(u8::MAX)
}

/// What to run: the user's command behind the image's entry point, or the image's own.
fn command(args: &RunArgs, config: &ImageConfig) -> Result<Vec<String>, CliError> {
    let (entrypoint, default) = match &args.entrypoint {
        Some(program) => (vec![program.clone()], Vec::new()),
        None => (config.entrypoint.clone(), config.cmd.clone()),
    };
    let rest = if args.command.is_empty() {
        default
    } else {
        args.command.clone()
    };
    let command: Vec<String> = entrypoint.into_iter().chain(rest).collect();
    if command.is_empty() {
        return Err(CliError::NoCommand);
    }
    Ok(command)
}

fn process(args: &ProcessArgs, command: Vec<String>, config: &ImageConfig) -> Result<ProcessSpec, CliError> {
    let user = args
        .user
        .as_deref()
        .or(config.user.as_deref())
        .unwrap_or_default();
    let folder = config.working_dir.as_str();
    let folder = args
        .workdir
        .as_deref()
        .unwrap_or(if folder.is_empty() { "/" } else { folder });
    let given = args
        .env
        .iter()
        .filter_map(|variable| match variable.split_once('=') {
            Some(_) => Some(variable.clone()),
            None => env::var(variable).ok().map(|value| format!("{variable}={value}")),
        });
    Ok(ProcessSpec {
        args: command,
        env: config.env.iter().cloned().chain(given).collect(),
        cwd: folder.to_owned(),
        user: parse_user(user)?,
        terminal: args.tty,
        privileged: args.privileged,
    })
}

fn parse_user(text: &str) -> Result<(u32, u32), CliError> {
    let wrong = || CliError::User(text.to_owned());
    let number = |text: &str| match text {
        "" | "root" => Ok(0),
        number => number.parse().map_err(|_| wrong()),
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    Ok((number(user)?, number(group)?))
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
        let error = command(&run_args("image"), &config(&[], &[])).unwrap_err();
        assert!(matches!(error, CliError::NoCommand));
    }

    #[test]
    fn the_users_settings_win_over_the_images() {
        let image = ImageConfig {
            env: vec!["A=image".into()],
            working_dir: "/image".into(),
            user: Some("7:8".into()),
            ..ImageConfig::default()
        };
        let made = |line| process(&run_args(line).process, vec!["sh".into()], &image).unwrap();
        let spec = made("image");
        assert_eq!((spec.cwd.as_str(), spec.user), ("/image", (7, 8)));
        let spec = made("-e A=mine -w /mine -u 1000 -t image");
        assert_eq!(
            (spec.cwd.as_str(), spec.user, spec.terminal),
            ("/mine", (1000, 0), true)
        );
        assert_eq!(spec.env, ["A=image", "A=mine"]);
        assert!(matches!(parse_user("nobody"), Err(CliError::User(_))));
        // Whoever enters the container is what its first process is.
        let entered = another(&run_args("-e B=2 image").process, vec!["id".into()], &spec).unwrap();
        assert_eq!((entered.cwd.as_str(), entered.user), ("/mine", (1000, 0)));
        assert_eq!(entered.env, ["A=image", "A=mine", "B=2"]);
    }
}
