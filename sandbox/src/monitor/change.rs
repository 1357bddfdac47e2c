//! What is changed about a container that is there: whether it is frozen, and its limits.

use super::output::lock;
use super::room::StartRoomError;
use super::server::{Monitor, RequestError};
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
        let unknown = || RequestError::NotRunning(id.to_owned());
        let room = lock(&self.table).rooms.get(id).cloned();
        match room {
            Some(None) => return Err(RequestError::Starts(id.to_owned())),
            Some(Some(_)) => {
                let known = self.records.look(id).ok_or_else(unknown)?;
                let limits = known.settings.spec.resources.updated(new).to_json();
                let done = self.sandbox.agent().update(id, limits.to_string().into_bytes());
                done.map_err(StartRoomError::from)?;
            }
            None => {}
        }
        // What has happened to it meanwhile has been written down under the same lock.
        let _table = lock(&self.table);
        let mut container = self.records.look(id).ok_or_else(unknown)?;
        container.settings.spec.resources = container.settings.spec.resources.updated(new);
        Ok(self.records.save(&container)?)
    }
}
