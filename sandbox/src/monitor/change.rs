//! What is changed about a container that is there: whether it is frozen, and its limits.

use super::error::RequestError;
use super::output::lock;
use super::room::StartRoomError;
use super::server::Monitor;
use crate::container::Resources;
use crate::state::Status;

impl Monitor {
    /// Freezes a container that runs, or lets it go on.
    pub(super) fn freeze(&self, id: &str, frozen: bool) -> Result<(), RequestError> {
        self.room(id)?;
        let agent = self.sandbox.agent();
        let done = if frozen { agent.pause(id) } else { agent.resume(id) };
        done.map_err(StartRoomError::from)?;
        let table = lock(&self.table);
        // It may have ended meanwhile, and that has been written down.
        if let (true, Some(mut container)) = (table.rooms.contains_key(id), self.records.look(id)) {
            container.status = if frozen { Status::Paused } else { Status::Running };
            self.records.save(&container)?;
        }
        Ok(())
    }

    /// Gives a container other limits, at once if it runs.
    pub(super) fn update(&self, id: &str, new: &Resources) -> Result<(), RequestError> {
        // One after the other: the guest is told all limits, those that stay, too.
        let _changing = lock(&self.changing);
        let unknown = || RequestError::NotRunning(id.to_owned());
        let mut container = self.records.look(id).ok_or_else(unknown)?;
        let limits = container.settings.spec.resources.updated(new);
        if limits.has_swap_below_memory() {
            return Err(RequestError::SwapBelowMemory);
        }
        let before = self.is_claimed(id);
        if before {
            // Fails for one that is being started, or has ended meanwhile.
            self.room(id)?;
            let told = self
                .sandbox
                .agent()
                .update(id, limits.to_json().to_string().into_bytes());
            told.map_err(StartRoomError::from)?;
        }
        let table = lock(&self.table);
        if !before && table.rooms.contains_key(id) {
            return Err(RequestError::Starts(id.to_owned()));
        }
        // Whatever else has happened to it was written down under the same lock.
        container = self.records.look(id).ok_or_else(unknown)?;
        container.settings.spec.resources = limits;
        Ok(self.records.save(&container)?)
    }

    /// Whether a container runs or is being started.
    fn is_claimed(&self, id: &str) -> bool {
        lock(&self.table).rooms.contains_key(id)
    }
}
