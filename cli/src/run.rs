//! `koya run`, `create`, `start` and `attach`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use koya_image::Image;
use koya_sandbox::monitor::{self, Connection, Program};
use koya_sandbox::state::{Container, NewContainer, Place, Records, Status};
use koya_sandbox::timeline::{Mark, Timeline};

use crate::args::{AttachArgs, RunArgs, StartArgs};
use crate::attach::{Attachment, framed};
use crate::error::CliError;
use crate::home::{Home, agent_of};
use crate::images;
use crate::lifecycle;
use crate::settings;
use crate::signals::Relay;
use crate::table::Table;

/// How long a monitor may take to give up a microVM that boots.
const GIVING_UP: Duration = Duration::from_secs(10);
/// How long a start of somebody else's may take: a boot, on a slow host.
const SETTLING: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);

/// `koya run`
///
/// # Errors
/// [`CliError`]
pub fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    let attachment = Attachment {
        interactive: args.process.interactive,
        tty: args.process.tty,
    };
    if !args.detach {
        attachment.check()?;
    }
    let timeline = Timeline::default();
    timeline.mark("koya begins");
    let home = Home::find()?;
    let records = home.records()?;
    let (name, image) = image(&home, args)?;
    timeline.mark("image is found");
    let new = new_container(&home, &records, args, &name, &image)?;
    let disk = home.images()?.disk(&image)?;
    let relay = Relay::start().map_err(CliError::Signals)?;
    let container = records.create(new)?;
    let made = (records.clone(), container.clone());
    relay.made(move || unmake(&made.0, &made.1));
    place_image(&records, &container, &disk)?;
    let connection = start(&records, &container, !args.detach, &relay, unmake)?;
    if args.detach {
        relay.pass_on(|_| {});
        crate::print(&container.id)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.timings {
        return follow(&records, &container, connection, attachment, &relay);
    }
    let mut marks = timeline.take();
    marks.extend(connection.marks().iter().cloned());
    let ended = follow(&records, &container, connection, attachment, &relay);
    timeline.mark("container has ended");
    marks.extend(timeline.take());
    tell(&mut marks)?;
    ended
}

/// Tells when what was done, in milliseconds since the first of it.
fn tell(marks: &mut [Mark]) -> Result<(), CliError> {
    marks.sort_by_key(|mark| mark.at);
    let mut before = marks.first().map_or(0, |first| first.at);
    let begun = before;
    let mut table = Table::new(["AT MS", "TOOK MS", "WHAT"]);
    for mark in marks {
        let milliseconds = |since: u64| format!("{:.2}", mark.at.saturating_sub(since) as f64 / 1e6);
        table.add([milliseconds(begun), milliseconds(before), mark.what.clone()]);
        before = mark.at;
    }
    Ok(writeln!(io::stderr(), "{table}")?)
}

/// `koya create`
///
/// # Errors
/// [`CliError`]
pub fn create(args: &RunArgs) -> Result<ExitCode, CliError> {
    let home = Home::find()?;
    let records = home.records()?;
    let (name, image) = image(&home, args)?;
    let container = records.create(new_container(&home, &records, args, &name, &image)?)?;
    place_image(&records, &container, &home.images()?.disk(&image)?)?;
    crate::print(&container.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `koya start`
///
/// # Errors
/// [`CliError`]
pub fn start_again(args: &StartArgs) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            return Err(CliError::AttachToOne);
        };
        let container = settled(&records, records.find(name)?);
        let attachment = Attachment {
            interactive: args.interactive,
            tty: container.settings.spec.process.terminal,
        };
        let relay = Relay::start().map_err(CliError::Signals)?;
        let connection = match container.is_active() {
            true if !waits(&container) => monitor::attach(&records, &container)?,
            // It was there before, and stays.
            _ => start(&records, &container, true, &relay, |_, _| {})?,
        };
        return follow(&records, &container, connection, attachment, &relay);
    }
    lifecycle::each(&args.containers, |records, container| {
        let container = settled(records, container.clone());
        if container.is_active() && !waits(&container) {
            return Ok(());
        }
        start_detached(records, &container)
    })
}

/// Whether it will be started in a while, for which nobody has to wait who wants it now.
fn waits(container: &Container) -> bool {
    container.status == Status::Restarting
}

/// A container that somebody else is starting, or has just given up, when that is over.
fn settled(records: &Records, mut container: Container) -> Container {
    let begun = Instant::now();
    while container.status == Status::Creating && begun.elapsed() < SETTLING {
        thread::sleep(PAUSE);
        match records.look(&container.id) {
            Some(now) => container = now,
            None => break,
        }
    }
    container
}

/// A container that was to be started again and has been asked to stay: as it runs, if it was too late for that; `None` once
/// it stays as it is. Others are what they are.
pub fn woken(records: &Records, container: &Container) -> Option<Container> {
    let mut container = container.clone();
    let begun = Instant::now();
    while container.status == Status::Restarting && begun.elapsed() < SETTLING {
        thread::sleep(PAUSE);
        container = records.look(&container.id)?;
        if !container.is_active() {
            return None;
        }
    }
    Some(settled(records, container))
}

/// Starts a container and leaves it running.
///
/// # Errors
/// [`CliError::Monitor`]
pub fn start_detached(records: &Records, container: &Container) -> Result<(), CliError> {
    monitor::start(records, &program()?, container, false, |_| {})?;
    Ok(())
}

/// `koya attach`
///
/// # Errors
/// [`CliError`]
pub fn attach(args: &AttachArgs) -> Result<ExitCode, CliError> {
    let records = Home::find()?.records()?;
    let container = records.find(&args.container)?;
    if !container.is_active() {
        return Err(CliError::NotRunning(container.name));
    }
    let attachment = Attachment {
        interactive: container.settings.open_stdin && !args.no_stdin,
        tty: container.settings.spec.process.terminal,
    };
    let relay = Relay::start().map_err(CliError::Signals)?;
    let connection = monitor::attach(&records, &container)?;
    follow(&records, &container, connection, attachment, &relay)
}

/// The program that becomes the monitor: this one.
///
/// # Errors
/// When the kernel does not tell its path.
pub fn program() -> Result<Program, CliError> {
    Ok(Program {
        path: std::env::current_exe()?,
        arguments: vec!["monitor".to_owned()],
    })
}

/// Starts a container; a signal until then gives up what boots, and then does `abandon`.
fn start(
    records: &Records,
    container: &Container,
    attach: bool,
    relay: &Relay,
    abandon: fn(&Records, &Container),
) -> Result<Connection, CliError> {
    let connection = monitor::start(records, &program()?, container, attach, |socket| {
        let made = (records.clone(), container.clone(), socket.try_clone());
        relay.made(move || {
            if let Ok(socket) = &made.2 {
                leave(socket);
            }
            abandon(&made.0, &made.1);
        });
    });
    if connection.is_err() {
        relay.yield_to_end();
    }
    Ok(connection?)
}

/// Leaves a monitor that has not answered yet, and waits until it has given up, or has started the container after all.
fn leave(mut socket: &UnixStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(GIVING_UP));
    let _ = socket.read(&mut [0; 1]);
}

/// Removes a container that was made for nothing, whatever has become of it.
fn unmake(records: &Records, container: &Container) {
    let _ = lifecycle::remove(records, container, true);
}

/// Stays with a container until it has ended, or the user detaches; its exit code.
fn follow(
    records: &Records,
    container: &Container,
    connection: Connection,
    attachment: Attachment,
    relay: &Relay,
) -> Result<ExitCode, CliError> {
    let (known, id) = (records.clone(), container.id.clone());
    // One that has ended already needs no signals any more.
    let agent = move || agent_of(&known, &known.look(&id)?).ok();
    framed::pass_signals_on(agent, &container.id.as_str().into(), relay, attachment);
    framed::follow(&connection, attachment, || {
        let _ = monitor::hang_up(records, container);
    })
}

fn image(home: &Home, args: &RunArgs) -> Result<(String, Image), CliError> {
    let name = args.image();
    let image = images::find_or_fetch(&home.images()?, &name, &args.pull)?;
    Ok((name, image))
}

fn new_container(
    home: &Home,
    records: &Records,
    args: &RunArgs,
    name: &str,
    image: &Image,
) -> Result<NewContainer, CliError> {
    let mut settings = settings::settings(args, name, image, home.folder())?;
    let place = match &args.place.vm {
        Some(other) => Place::Vm(records.find(other)?.vm),
        None => Place::New(settings::vm(args)),
    };
    let cards = match &place {
        Place::Vm(vm) => records.vm(vm).map_or(0, |vm| vm.settings.cards),
        Place::New(vm) => vm.cards,
    };
    let mut new = NewContainer {
        name: args.name.clone(),
        place,
        settings: settings.clone(),
    };
    if args.host.network.is_empty() && args.host.publish.is_empty() {
        let missing = match cards {
            0 => Some("the microVM was made without one".to_owned()),
            _ => home.networks()?.unavailable().map(|error| error.to_string()),
        };
        if let Some(reason) = missing {
            // Nobody asked for one: what works without shall work.
            crate::warn(&format!("the container has no network: {reason}"));
            settings.network.networks = vec!["none".to_owned()];
            new.settings = settings;
            if let Place::New(vm) = &mut new.place {
                vm.cards = 0;
            }
        }
    }
    Ok(new)
}

/// Puts the disk of an image into a container's folder, so that the image may be removed meanwhile. Another file system
/// does not take a link of that kind.
fn place_image(records: &Records, container: &Container, disk: &Path) -> Result<(), CliError> {
    let path = records.image(&container.id);
    let placed = fs::hard_link(disk, &path).or_else(|_| std::os::unix::fs::symlink(disk, &path));
    placed.map_err(|error| {
        let _ = records.forget(container);
        CliError::Output(error)
    })
}
