//! How a microVM begins: it boots, or goes on where a snapshot was made.

use std::sync::Arc;

use koya_api::config::{MachineConfig, Serial, SnapshotCreate, SnapshotLoad, VmConfig, WorkingSetNote};
use koya_api::{Action, ActionError, ActionHandler};

use super::{Monitor, Phase};
use crate::boot_timer::BootTimer;
use crate::ending::EndLine;
use crate::event_loop::Subscriber;
use crate::machine::{Frame, Running, StartError};
use crate::resources::Resources;
use crate::snapshot::{Loaded, SnapshotError};
use crate::vcpu::Gate;

impl Monitor {
    /// Does all that a config file says, and starts the microVM.
    ///
    /// # Errors
    /// The first action that failed.
    pub fn run_config(&mut self, config: VmConfig) -> Result<(), ActionError> {
        let loaded = config.snapshot.as_ref().map(Loaded::open).transpose();
        let loaded = loaded.map_err(|error| ActionError::LoadSnapshot(Box::new(error)))?;
        self.configure(config)?;
        match loaded {
            Some(loaded) => self.go_on(loaded),
            None => self.handle(Action::StartInstance).map(drop),
        }
    }

    fn configure(&mut self, config: VmConfig) -> Result<(), ActionError> {
        for action in config.into_actions() {
            self.handle(action)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<(), ActionError> {
        let resources = self.resources()?;
        if resources.boot.is_none() {
            return Err(ActionError::Start(Box::new(StartError::NoKernel)));
        }
        let config = Box::new(resources.describe());
        let retry = self.retry.then(|| config.clone());
        let timer = self.boot_timer.then(BootTimer::start);
        let started = self.launch(config, |resources, gate, end, confined| {
            Frame::new(&resources, None, gate, end)?
                .wire(*resources, None, timer)?
                .load()?
                .start(false, confined)
        });
        started.map_err(|error| {
            // What was opened went down with the attempt; a client of the API may mend the cause and try again.
            if let (Some(config), Phase::Configuring(resources)) = (retry, &mut self.phase) {
                **resources = Resources::reopen(&config);
            }
            ActionError::Start(Box::new(error))
        })
    }

    /// Loads a snapshot with the devices that it had.
    pub(super) fn load(&mut self, load: &SnapshotLoad) -> Result<(), ActionError> {
        let failed = |error: SnapshotError| ActionError::LoadSnapshot(Box::new(error));
        if !self.resources()?.is_untouched() {
            return Err(failed(SnapshotError::Configured));
        }
        let source = load.source().map_err(|error| failed(error.into()))?;
        let loaded = Loaded::open(&source).map_err(failed)?;
        let mut config = loaded.saved.devices_for(load).map_err(failed)?;
        config.snapshot = Some(source);
        config.machine_config = None;
        let serial = self.resources()?.serial.clone();
        if serial != Serial::default() {
            config.serial = Some(serial);
        }
        let result = self.configure(config).and_then(|()| {
            self.resources()?.machine.track_dirty_pages =
                load.track_dirty_pages || load.enable_diff_snapshots;
            self.go_on(Loaded {
                paused: !load.resume_vm,
                catch_up: load.clock_realtime,
                ..loaded
            })
        });
        // The client may mend the cause and try again.
        if result.is_err()
            && let Phase::Configuring(resources) = &mut self.phase
        {
            **resources = Resources::default();
        }
        result
    }

    /// Lets a saved guest go on, with the devices that have been configured.
    fn go_on(&mut self, loaded: Loaded) -> Result<(), ActionError> {
        let Loaded {
            saved,
            memory,
            paused,
            catch_up,
        } = loaded;
        let resources = self.resources()?;
        let track_dirty_pages = resources.machine.track_dirty_pages;
        resources.machine = MachineConfig {
            track_dirty_pages,
            ..saved.config.machine_config.clone().unwrap_or_default()
        };
        let config = Box::new(VmConfig {
            boot_source: saved.config.boot_source.clone(),
            ..resources.describe()
        });
        let launched = self.launch(config, |resources, gate, end, confined| {
            Frame::new(&resources, Some(memory), gate, end)?
                .wire(*resources, Some(&saved.devices), None)?
                .restore(&saved, catch_up)?
                .start(paused, confined)
        });
        launched.map_err(|error| ActionError::LoadSnapshot(Box::new(error)))
    }

    /// Has `build` make a guest of what has been configured. After an error nothing is configured any more.
    fn launch(
        &mut self,
        mut config: Box<VmConfig>,
        build: impl FnOnce(
            Box<Resources>,
            Arc<Gate>,
            Arc<EndLine>,
            bool,
        ) -> Result<(Running, Vec<Subscriber>), StartError>,
    ) -> Result<(), StartError> {
        let Phase::Configuring(resources) = &mut self.phase else {
            return Ok(());
        };
        let has_output_file = resources.serial_output.is_some();
        let resources = std::mem::take(resources);
        let (running, subscribers) = build(resources, self.gate.clone(), self.end.clone(), self.seccomp)?;
        Self::count_spare(&mut config, &running);
        self.arrivals.borrow_mut().extend(subscribers);
        let terminal = self.attach_console(&running, has_output_file);
        self.phase = Phase::Started {
            config,
            running: Box::new(running),
            terminal,
        };
        Ok(())
    }

    /// Writes the paused guest into files.
    pub(super) fn save(&mut self, wanted: &SnapshotCreate) -> Result<(), ActionError> {
        // The log and the metrics are this process's.
        let config = VmConfig {
            logger: None,
            metrics: None,
            ..self.config()
        };
        let (_, running) = self.started()?;
        running
            .save(config, &wanted.snapshot_path, &wanted.mem_file_path)
            .map_err(|error| ActionError::CreateSnapshot(Box::new(error)))
    }

    /// Writes down what the guest has written of its memory.
    pub(super) fn note_working_set(&mut self, wanted: &WorkingSetNote) -> Result<(), ActionError> {
        let (_, running) = self.started()?;
        running
            .note_working_set(&wanted.working_set_path)
            .map_err(|error| ActionError::WorkingSet(Box::new(error)))
    }
}
