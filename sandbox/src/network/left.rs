//! Containers that have ended while their networks are still to be taken down, which takes long.
//!
//! ```text
//!  attached ──leave──► left ──detach──► gone          ID.json, and ID.left beside it
//! ```
//!
//! Whoever waits for a container need not wait for that. But what it had is promised to whoever comes next: he who needs
//! its ports, its name, its cards or its addresses takes down himself what is left, or waits for him who does.

use std::fs::{self, File};
use std::path::PathBuf;

use super::records::{Lock, forget};
use super::{Attached, NetworkError, NetworkRequest, Networks};

impl Networks {
    /// Notes that a container has ended: nobody needs what it has any more. [`Networks::detach`] is to follow; should it
    /// not, [`Networks::sweep`] does the same. Waits for nobody.
    ///
    /// # Errors
    /// [`NetworkError::File`]
    pub fn leave(&self, id: &str) -> Result<(), NetworkError> {
        let path = self.mark(id);
        let record = path.with_extension("json");
        if !record.exists() {
            return Ok(());
        }
        File::create(&path).map_err(super::error::file(&path))?;
        // Somebody may have taken everything down meanwhile.
        if !record.exists() {
            let _ = fs::remove_file(&path);
        }
        Ok(())
    }

    /// Removes notes of what is not there: whoever was to take them away was killed.
    pub(super) fn forget_marks(&self, _: &Lock) {
        let entries = fs::read_dir(self.containers()).into_iter().flatten().flatten();
        for mark in entries.map(|entry| entry.path()) {
            let is_mark = mark.extension().is_some_and(|extension| extension == "left");
            if is_mark && !mark.with_extension("json").exists() {
                let _ = fs::remove_file(mark);
            }
        }
    }

    /// Notes the same of all containers whose microVM is not `alive`: its processes were killed. Waits for others only if
    /// there are such.
    ///
    /// # Errors
    /// [`NetworkError::File`], [`NetworkError::Record`]
    pub fn abandon(&self, alive: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let is_lost = |container: &Attached| !self.has_left(&container.id) && !alive(&container.vm);
        if !self.all_attached()?.iter().any(is_lost) {
            return Ok(());
        }
        let _lock = self.lock()?;
        for lost in self.all_attached()?.into_iter().filter(is_lost) {
            self.leave(&lost.id)?;
        }
        Ok(())
    }

    pub(super) fn has_left(&self, id: &str) -> bool {
        self.mark(id).exists()
    }

    /// Takes down what is left of containers and in the way of a new one; all others that have something.
    pub(super) fn make_way(
        &self,
        lock: &Lock,
        vm: &str,
        request: &NetworkRequest,
    ) -> Result<Vec<Attached>, NetworkError> {
        self.clear(lock, |left| is_in_the_way(left, vm, request))?;
        self.all_attached()
    }

    /// Takes down what is left of containers, of those that are `meant`.
    pub(super) fn clear(&self, lock: &Lock, meant: impl Fn(&Attached) -> bool) -> Result<(), NetworkError> {
        for attached in self.all_attached()? {
            if self.has_left(&attached.id) && meant(&attached) {
                self.detach_known(lock, &attached)?;
            }
        }
        Ok(())
    }

    /// Nothing is left of a container.
    pub(super) fn forget_attached(&self, id: &str) -> Result<(), NetworkError> {
        forget(&self.containers(), id)?;
        // What stays of it means nothing without the other file.
        let _ = fs::remove_file(self.mark(id));
        Ok(())
    }

    fn mark(&self, id: &str) -> PathBuf {
        self.containers().join(format!("{id}.left"))
    }
}

fn is_in_the_way(left: &Attached, vm: &str, request: &NetworkRequest) -> bool {
    let is_wanted = |name: &String| *name == request.name || request.aliases.contains(name);
    let has_name = is_wanted(&left.request.name) || left.request.aliases.iter().any(is_wanted);
    // Which ports of the host will be wanted shows only when they are chosen.
    let has_port = !left.ports.is_empty() && !request.ports.is_empty();
    left.vm == vm || has_port || has_name
}
