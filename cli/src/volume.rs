//! `koya volume`: folders of `koya` that containers share and that outlive them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use koya_sandbox::state::{Container, Records};
use koya_sandbox::volumes::Volume;
use serde_json::{Value, json};

use crate::args::{ListArgs, NamesArgs, VolumeCommand};
use crate::error::CliError;
use crate::home::Home;
use crate::list;
use crate::show::{self, Form};

/// Where a volume's files are, in its folder.
const DATA: &str = "_data";
/// What a volume that is being removed is called begins with this, which no name does.
const GONE: &str = ".gone-";
/// How many this process has removed.
static REMOVED: AtomicU32 = AtomicU32::new(0);

/// `koya volume`
///
/// # Errors
/// [`CliError`]
pub fn volume(command: &VolumeCommand) -> Result<ExitCode, CliError> {
    let home = Home::find()?;
    let (volumes, records) = (Volumes::of(&home), home.records()?);
    match command {
        VolumeCommand::Create { name } => {
            volumes.create(name)?;
            crate::print(name)?;
            Ok(ExitCode::SUCCESS)
        }
        VolumeCommand::Ls(args) => show_all(args, &volumes),
        VolumeCommand::Inspect(args) => inspect(args, &volumes, &records),
        VolumeCommand::Rm(args) => each(args, |name| {
            volumes.remove(name, &records)?;
            crate::print(name)
        }),
    }
}

fn show_all(args: &ListArgs, volumes: &Volumes) -> Result<ExitCode, CliError> {
    let form = Form::parse(&args.format)?;
    let names = volumes.names()?;
    if args.quiet {
        for name in &names {
            crate::print(name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<_> = names.iter().map(|name| volumes.describe(name)).collect();
    let columns = [
        ("DRIVER", "Driver"),
        ("VOLUME NAME", "Name"),
        ("MOUNTPOINT", "Mountpoint"),
    ];
    show::list(&form, columns, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &NamesArgs, volumes: &Volumes, records: &Records) -> Result<ExitCode, CliError> {
    let containers = records.list()?;
    let mut all = Vec::new();
    let code = each(args, |name| {
        let mut found = volumes.describe(volumes.find(name)?);
        let users = volumes.users(name, &containers);
        let users: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        if let Value::Object(fields) = &mut found {
            fields.insert("Containers".to_owned(), json!(users));
        }
        all.push(found);
        Ok(())
    })?;
    crate::print(&serde_json::to_string_pretty(&all).map_err(io::Error::from)?)?;
    Ok(code)
}

/// Goes through all names; the exit code is 1 if something could not be done for one.
fn each(args: &NamesArgs, mut act: impl FnMut(&str) -> Result<(), CliError>) -> Result<ExitCode, CliError> {
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        if let Err(error) = act(name) {
            crate::complain(&error);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// The volumes of a user.
pub struct Volumes {
    home: PathBuf,
    folder: PathBuf,
}

impl Volumes {
    /// Those of this home.
    pub fn of(home: &Home) -> Self {
        Self {
            home: home.folder().to_owned(),
            folder: home.folder().join("volumes"),
        }
    }

    /// Their names, in order.
    pub fn names(&self) -> Result<Vec<String>, CliError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("listing", &self.folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("listing", &self.folder))?;
            let name = entry.file_name().into_string().ok();
            names.extend(name.filter(|name| self.data(name).is_some_and(|data| data.is_dir())));
        }
        names.sort();
        Ok(names)
    }

    /// Where the files of a volume of this name are; `None` if no volume can be called so.
    fn data(&self, name: &str) -> Option<PathBuf> {
        let volume = Volume::parse(&format!("{name}:/volume"), &self.home, &self.home).ok()?;
        volume.named.then_some(volume.source)
    }

    /// A volume that is there.
    fn find<'a>(&self, name: &'a str) -> Result<&'a str, CliError> {
        match self.data(name).is_some_and(|data| data.is_dir()) {
            true => Ok(name),
            false => Err(CliError::NoVolume(name.to_owned())),
        }
    }

    /// Makes a volume, unless there is one.
    fn create(&self, name: &str) -> Result<(), CliError> {
        let data = self
            .data(name)
            .ok_or_else(|| CliError::VolumeName(name.to_owned()))?;
        let above = data.parent().unwrap_or(&self.folder);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(above);
        made.map_err(failed("making", above))?;
        // As it would be made for a container.
        match DirBuilder::new().mode(0o755).create(&data) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("making", &data)(error)),
            _ => Ok(()),
        }
    }

    /// Removes a volume that no container has, running or not.
    pub fn remove(&self, name: &str, records: &Records) -> Result<(), CliError> {
        self.find(name)?;
        self.sweep();
        let volume = self.folder.join(name);
        // At once for everybody else, by another name, which is short whatever its own is.
        let number = REMOVED.fetch_add(1, Ordering::Relaxed);
        let gone = self.folder.join(format!("{GONE}{}-{number}", process::id()));
        let still = records.still()?;
        if let Some(user) = self.users(name, &still.containers).first() {
            return Err(CliError::VolumeInUse(name.to_owned(), user.name.clone()));
        }
        fs::rename(&volume, &gone).map_err(failed("removing", &volume))?;
        drop(still);
        fs::remove_dir_all(&gone).map_err(failed("removing", &volume))
    }

    /// Removes what killed processes were removing.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let remover = name
                .to_str()
                .and_then(|name| name.strip_prefix(GONE)?.split('-').next());
            let is_lost =
                |pid: u32| pid == process::id() || !Path::new("/proc").join(pid.to_string()).exists();
            if remover.is_some_and(|pid| pid.parse().is_ok_and(is_lost)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Containers that have a volume, running or not.
    pub fn users<'a>(&self, name: &str, containers: &'a [Container]) -> Vec<&'a Container> {
        let data = self.data(name);
        let has = |container: &&Container| {
            let mut volumes = container.settings.volumes.iter();
            volumes.any(|volume| volume.named && Some(&volume.source) == data.as_ref())
        };
        containers.iter().filter(has).collect()
    }

    fn describe(&self, name: &str) -> Value {
        let made =
            fs::metadata(self.folder.join(name)).and_then(|found| found.created().or(found.modified()));
        let since = made
            .ok()
            .and_then(|made| made.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanoseconds = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        json!({
            "Name": name,
            "Driver": "local",
            "Mountpoint": self.folder.join(name).join(DATA),
            "CreatedAt": list::date(nanoseconds.unwrap_or_default()),
        })
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::VolumeFolder(act, path, source)
}
