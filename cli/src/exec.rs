//! `koya exec`.

mod turn;

use std::process::ExitCode;
use std::time::Duration;

use koya_image::ImageConfig;
use koya_proto::client::ProcessId;
use koya_proto::v1;
use koya_sandbox::state::{Container, new_id};

use crate::args::ExecArgs;
use crate::attach::{Attachment, direct};
use crate::error::CliError;
use crate::home::{Home, agent_of};
use crate::settings;
use crate::signals::Relay;
use turn::Turn;

/// How long a guest may take to start a process. One that is busy, with hundreds of them at once, takes longer than for
/// anything else; one that hangs has been found out by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// `koya exec`
///
/// # Errors
/// [`CliError`]
pub fn exec(args: &ExecArgs) -> Result<ExitCode, CliError> {
    let attachment = Attachment {
        interactive: args.process.interactive,
        tty: args.process.tty,
    };
    if !args.detach {
        attachment.check()?;
    }
    let records = Home::find()?.records()?;
    let container = records.find(&args.container)?;
    let turn = Turn::wait(&records.vm_folder(&container.vm), PATIENCE);
    let agent = agent_of(&records, &container)?.with_deadline(PATIENCE);
    let exec_id = new_id().map_err(CliError::Streams)?;
    let request = request(args, &container, &exec_id)?;
    if args.detach {
        agent.exec(request)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = ProcessId::exec(&container.id, &exec_id);
    let relay = Relay::start().map_err(CliError::Signals)?;
    let vsock = records.vsock(&container);
    let exit = direct::run(&agent, &vsock, &id, attachment, &relay, |stdio| {
        agent.exec(v1::ExecRequest {
            stdio: Some(stdio).into(),
            ..request
        })?;
        // All connections are there.
        drop(turn);
        Ok(())
    })?;
    Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX)))
}

/// Another process in a container: as its first one is, but for what the user says.
fn request(args: &ExecArgs, container: &Container, exec_id: &str) -> Result<v1::ExecRequest, CliError> {
    let first = &container.settings.spec.process;
    let config = ImageConfig {
        env: first.env.clone(),
        working_dir: first.cwd.clone(),
        user: Some(container.settings.user.clone()),
        ..ImageConfig::default()
    };
    let mut process = settings::process(&args.process, args.command.clone(), &config)?;
    process.system = first.system;
    process.privileged |= first.privileged;
    process.cap_add.clone_from(&first.cap_add);
    process.cap_drop.clone_from(&first.cap_drop);
    process.no_new_privileges = first.no_new_privileges;
    process.ulimits.clone_from(&first.ulimits);
    process.groups.clone_from(&first.groups);
    Ok(v1::ExecRequest {
        id: container.id.clone(),
        exec_id: exec_id.to_owned(),
        process: process.to_json().to_string().into_bytes(),
        user: settings::user(&args.process, &config),
        ..Default::default()
    })
}
