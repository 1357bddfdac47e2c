//! Drives and network interfaces: described before the guest starts, changed and added while it runs.

use koya_api::ActionError;
use koya_api::config::{
    Drive, DriveUpdate, NetworkInterface, NetworkInterfaceUpdate, RateLimiter, TokenBucket, VmConfig,
};
use koya_api::error::Cause;

use super::{Monitor, Phase};
use crate::machine::{Running, UpdateError};
use crate::resources::{self, OpenDrive, OpenNetwork, ResourceError};

impl Monitor {
    /// Adds a drive, or replaces one of a microVM that has not been started.
    pub(super) fn put_drive(&mut self, drive: Drive) -> Result<(), ActionError> {
        let refused = |error: Cause| ActionError::Drive(error);
        if let Phase::Configuring(resources) = &mut self.phase {
            return resources
                .set_drive(drive)
                .map_err(|error| refused(Box::new(error)));
        }
        let (config, running) = self.started_with_room()?;
        running
            .check_drive(&drive)
            .map_err(|error| refused(Box::new(error)))?;
        let backend = resources::open_drive(&drive).map_err(|error| refused(Box::new(error)))?;
        let open = OpenDrive {
            config: drive.clone(),
            backend,
        };
        let subscriber = running
            .add_drive(open)
            .map_err(|error| refused(Box::new(error)))?;
        config.drives.push(drive);
        Self::count_spare(config, running);
        self.arrivals.borrow_mut().push(subscriber);
        Ok(())
    }

    /// Adds a network interface, or replaces one of a microVM that has not been started.
    pub(super) fn put_network(&mut self, interface: NetworkInterface) -> Result<(), ActionError> {
        let refused = |error: Cause| ActionError::Network(error);
        if let Phase::Configuring(resources) = &mut self.phase {
            return resources
                .set_network(interface)
                .map_err(|error| refused(Box::new(error)));
        }
        let (config, running) = self.started_with_room()?;
        running
            .check_network(&interface)
            .map_err(|error| refused(Box::new(error)))?;
        let mut all = config.network_interfaces.clone();
        interface
            .clone()
            .insert_into(&mut all)
            .map_err(|error| refused(Box::new(ResourceError::from(error))))?;
        let tap = resources::open_tap(&interface).map_err(|error| refused(Box::new(error)))?;
        let open = OpenNetwork {
            config: interface,
            tap,
        };
        let subscriber = running
            .add_network(open)
            .map_err(|error| refused(Box::new(error)))?;
        config.network_interfaces = all;
        Self::count_spare(config, running);
        self.arrivals.borrow_mut().push(subscriber);
        Ok(())
    }

    /// Says in its configuration how many devices may still join the guest.
    pub(super) fn count_spare(config: &mut VmConfig, running: &Running) {
        if let Some(machine) = &mut config.machine_config {
            machine.spare_devices = running.spare_devices();
        }
    }

    /// The guest and its configuration, if devices may join it: if it was made so.
    fn started_with_room(&mut self) -> Result<(&mut VmConfig, &mut Running), ActionError> {
        match &mut self.phase {
            Phase::Started { config, running, .. } if running.takes_devices() => Ok((config, running)),
            _ => Err(ActionError::NotSupportedAfterStart),
        }
    }

    /// Changes a drive of the guest.
    pub(super) fn update_drive(&mut self, update: &DriveUpdate) -> Result<(), ActionError> {
        let (config, running) = self.started()?;
        let refused = |error: Cause| ActionError::Drive(error);
        let known = config
            .drives
            .iter_mut()
            .find(|drive| drive.drive_id == update.drive_id);
        let Some(known) = known else {
            return Err(refused(Box::new(UpdateError::UnknownDrive(
                update.drive_id.clone(),
            ))));
        };
        let mut changed = known.clone();
        changed.path_on_host = update.path_on_host.clone().or(changed.path_on_host);
        changed.rate_limiter = merged(changed.rate_limiter, update.rate_limiter);
        let backend = match update.path_on_host {
            Some(_) => Some(resources::open_drive(&changed).map_err(|error| refused(Box::new(error)))?),
            None => None,
        };
        running
            .update_drive(update, backend)
            .map_err(|error| refused(Box::new(error)))?;
        *known = changed;
        Ok(())
    }

    /// Changes a network interface of the guest.
    pub(super) fn update_network(&mut self, update: &NetworkInterfaceUpdate) -> Result<(), ActionError> {
        let (config, running) = self.started()?;
        running
            .update_network(update)
            .map_err(|error| ActionError::Network(Box::new(error)))?;
        for known in config
            .network_interfaces
            .iter_mut()
            .filter(|known| known.iface_id == update.iface_id)
        {
            known.rx_rate_limiter = merged(known.rx_rate_limiter, update.rx_rate_limiter);
            known.tx_rate_limiter = merged(known.tx_rate_limiter, update.tx_rate_limiter);
        }
        Ok(())
    }
}

/// The limits in force after a change: what it does not name stays, a bucket without limits is gone.
fn merged(old: Option<RateLimiter>, update: Option<RateLimiter>) -> Option<RateLimiter> {
    let (old, update) = (old.unwrap_or_default(), update.unwrap_or_default());
    let result = RateLimiter {
        bandwidth: update.bandwidth.or(old.bandwidth).filter(TokenBucket::limits),
        ops: update.ops.or(old.ops).filter(TokenBucket::limits),
    };
    result.limits().then_some(result)
}
