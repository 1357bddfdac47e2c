//! Templates: microVMs that are frozen once their agent is ready, and go on in any number of others, which have no kernel to
//! boot.
//!
//! ```text
//!  shared/templates/
//!    lock                  held by whoever makes one
//!    new/                  what he makes it in
//!    KEY/snapshot, memory  a template; its time is that of its last use
//!    KEY/working-set       what its forks write first: the VMM copies that in one go
//!    KEY.wanted            somebody has booted what it could have been forked from
//!    KEY.failed            there cannot be one for a while, and why
//! ```
//!
//! The first start of its kind boots and says that a template is wanted, the second makes it, and from then on all fork it.
//! A template costs nobody a start: without one, whatever the reason, a microVM boots.

mod key;
mod make;
mod room;
#[cfg(test)]
mod tests;
mod tidy;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, utimensat};

use crate::monitor::one_line;
use crate::parts::Parts;
use crate::sandbox::{Progress, SandboxSpec, StartError, config};
use make::MakeError;

/// The word on the kernel's command line by which the agent waits to be forked.
const WORD: &str = "koya.template";
/// Folder of all templates.
const FOLDER: &str = "templates";
const LOCK: &str = "lock";
const NEW: &str = "new";
/// State of the devices and processors.
const SNAPSHOT: &str = "snapshot";
/// Memory of the guest: as long as that, with holes.
const MEMORY: &str = "memory";
/// What forks have written by the time that their container runs, once one has been asked.
const WORKING_SET: &str = "working-set";
const WANTED: &str = "wanted";
const FAILED: &str = "failed";
/// After a failure there is none for so long: what was wrong with the host may have been mended.
const RESPITE: Duration = Duration::from_secs(3600);

/// The templates of a user, and which of them it has to be.
pub(crate) struct Templates<'a> {
    parts: &'a Parts,
    spec: &'a SandboxSpec,
    shared: &'a Path,
    folder: PathBuf,
    boot: String,
    template: Template,
}

impl<'a> Templates<'a> {
    /// Those for microVMs of this kind; `None` if they are not to be forked, or cannot be.
    pub fn of(parts: &'a Parts, spec: &'a SandboxSpec, shared: &'a Path) -> Option<Self> {
        if !spec.templates || config::devices(spec) > config::SPARE {
            return None;
        }
        let boot = key::boot_id().ok()?;
        // A part that is missing is told by whoever needs it.
        let key = key::of(parts, spec.vcpus, spec.memory_mib, &boot_args(), &boot).ok()?;
        let folder = shared.join(FOLDER);
        let template = Template {
            path: folder.join(key),
        };
        Some(Self {
            parts,
            spec,
            shared,
            folder,
            boot,
            template,
        })
    }

    /// The template, made if there is none and this is not the first start that could have used it.
    ///
    /// # Errors
    /// [`StartError::Abandoned`]
    pub fn choose(
        &self,
        abandoned: &impl Fn() -> bool,
        tell: &mut impl FnMut(Progress),
    ) -> Result<Option<Template>, StartError> {
        if self.template.touch() {
            return Ok(Some(self.template.clone()));
        }
        if !self.is_wanted()
            || self.template.has_failed()
            || !room::has_room(&self.folder, self.spec.memory_mib)
        {
            return Ok(None);
        }
        let Some(_lock) = self.lock() else { return Ok(None) };
        // Somebody may have been quicker.
        if self.template.touch() {
            return Ok(Some(self.template.clone()));
        }
        let begun = |pid| tell(Progress::TemplateBegun(pid));
        match self.make(abandoned, begun) {
            Ok(()) => {
                tell(Progress::TemplateMade);
                Ok(Some(self.template.clone()))
            }
            Err(MakeError::Start(StartError::Abandoned)) => Err(StartError::Abandoned),
            Err(error) => {
                let words = one_line(&error);
                let words = format!("there is no template for this microVM, which boots: {words}");
                self.template.fail(&words);
                tell(Progress::NoTemplate(words));
                Ok(None)
            }
        }
    }

    /// Whether another start could have used it before; from now on one has.
    fn is_wanted(&self) -> bool {
        let mark = self.template.beside(WANTED);
        // Whoever cannot write this boots.
        let is_wanted = mark.exists();
        if !is_wanted {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
            let _ = made.and_then(|()| write(&mark, ""));
        }
        is_wanted
    }

    /// The right to make one; `None` if somebody else does.
    fn lock(&self) -> Option<File> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.folder.join(LOCK)).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    }

    fn make(&self, abandoned: &impl Fn() -> bool, begun: impl FnOnce(u32)) -> Result<(), MakeError> {
        tidy::remove_stale(&self.folder, &key::prefix(&self.boot));
        let (new, template) = (self.folder.join(NEW), &self.template.path);
        make::make(
            self.parts,
            self.spec,
            self.shared,
            &new,
            template,
            abandoned,
            begun,
        )?;
        for mark in [WANTED, FAILED] {
            let _ = fs::remove_file(self.template.beside(mark));
        }
        tidy::keep_newest(&self.folder, template);
        Ok(())
    }
}

/// A microVM that others go on from.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    path: PathBuf,
}

impl Template {
    pub fn snapshot(&self) -> PathBuf {
        self.path.join(SNAPSHOT)
    }

    pub fn memory(&self) -> PathBuf {
        self.path.join(MEMORY)
    }

    /// What its forks write first; nothing if none has been asked yet.
    pub fn working_set(&self) -> Option<PathBuf> {
        let path = self.working_set_path();
        path.exists().then_some(path)
    }

    /// Where that is to be kept.
    pub fn working_set_path(&self) -> PathBuf {
        self.path.join(WORKING_SET)
    }

    /// This one did not go on from it; others may.
    pub fn blame(&self, error: StartError) -> StartError {
        let template = self.path.clone();
        let source = Box::new(error);
        StartError::Fork { template, source }
    }

    /// Nobody goes on from it any more: somebody could not, for this reason.
    pub fn reject(&self, error: StartError) -> StartError {
        let error = self.blame(error);
        self.fail(&one_line(&error));
        tidy::remove(&self.path);
        error
    }

    /// Whether it is there; it is the one that was used last.
    fn touch(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        utimensat(CWD, &self.path, &times, AtFlags::empty()).is_ok()
    }

    fn fail(&self, words: &str) {
        // Otherwise the next one tries it again.
        let _ = write(&self.beside(FAILED), &format!("{words}\n"));
    }

    fn has_failed(&self) -> bool {
        let known = fs::metadata(self.beside(FAILED)).and_then(|mark| mark.modified());
        // A time to come is one of a clock that was wrong.
        known.is_ok_and(|time| time.elapsed().is_ok_and(|passed| passed < RESPITE))
    }

    /// A mark of this name.
    fn beside(&self, name: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(".");
        path.push(name);
        path.into()
    }
}

/// The command line of a kernel whose agent waits to be forked.
fn boot_args() -> String {
    format!("{} {WORD}", config::BOOT_ARGS)
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}
