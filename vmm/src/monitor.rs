//! The microVM as its controllers see it: configured, then running, then paused or running.

mod devices;
mod start;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use koya_api::action::WantedState;
use koya_api::config::{
    CpuTemplate, Logger, MachineConfig, MachineConfigError, MachineConfigUpdate, Metrics, VmConfig,
};
use koya_api::error::Cause;
use koya_api::{Action, ActionError, ActionHandler, InstanceInfo, InstanceState, Outcome, VersionInfo};
use koya_devices::legacy::Console;
use vmm_sys_util::timerfd::TimerFd;

use crate::cli::{Options, StartTimes};
use crate::console::{self, RawTerminal};
use crate::ending::EndLine;
use crate::event_loop::{self, Arrivals};
use crate::logger::{self, LoggerUpdate};
use crate::machine::Running;
use crate::metrics::{MetricsWriter, Report};
use crate::resources::Resources;
use crate::sink;
use crate::vcpu::Gate;

/// Everything that an [`Action`] can reach.
pub struct Monitor {
    id: String,
    boot_timer: bool,
    seccomp: bool,
    /// Whether a failed start can be tried again; without an API there is nobody to do it.
    retry: bool,
    phase: Phase,
    logger: Option<Logger>,
    metrics_config: Option<Metrics>,
    metrics: MetricsWriter,
    started: StartTimes,
    gate: Arc<Gate>,
    end: Arc<EndLine>,
    arrivals: Arrivals,
    /// This monitor, for the subscribers that it creates.
    itself: Weak<RefCell<Self>>,
}

enum Phase {
    /// Being described.
    Configuring(Box<Resources>),
    /// Started, with what it was started from.
    Started {
        config: Box<VmConfig>,
        running: Box<Running>,
        terminal: Option<RawTerminal>,
    },
}

impl Monitor {
    /// A monitor without a microVM yet. `gate` and `end` are what the guest will run behind and end on.
    pub fn new(
        options: &Options,
        gate: Arc<Gate>,
        end: Arc<EndLine>,
        arrivals: Arrivals,
    ) -> Rc<RefCell<Self>> {
        Rc::new_cyclic(|itself| {
            RefCell::new(Self {
                id: options.id.clone(),
                boot_timer: options.boot_timer,
                seccomp: options.seccomp,
                retry: options.config_file.is_none(),
                phase: Phase::Configuring(Box::default()),
                logger: None,
                metrics_config: None,
                metrics: MetricsWriter::default(),
                started: options.started,
                gate,
                end,
                arrivals,
                itself: itself.clone(),
            })
        })
    }

    /// The process can be talked to.
    pub fn process_started(&mut self) {
        self.metrics.process_started(self.started);
    }

    /// Opens the file that the metrics go to, now and then and when asked.
    pub fn open_metrics(&mut self, path: &Path) -> io::Result<()> {
        let flush = PeriodicFlush::new(self.itself.clone())?;
        self.metrics.open(sink::open(path)?);
        self.arrivals.borrow_mut().push(Box::new(flush));
        Ok(())
    }

    /// Writes the counters, if somebody wants them.
    pub fn flush_metrics(&mut self) -> io::Result<()> {
        if !self.metrics.is_open() {
            return Ok(());
        }
        let mut report = Report::default();
        if let Phase::Started { running, .. } = &self.phase {
            running.report(&mut report);
        }
        self.metrics.write(report)
    }

    /// The running guest, if there is one.
    pub fn running(&self) -> Option<&Running> {
        match &self.phase {
            Phase::Started { running, .. } => Some(running),
            Phase::Configuring(_) => None,
        }
    }

    fn is_started(&self) -> bool {
        self.running().is_some()
    }

    fn instance(&self) -> InstanceInfo {
        let state = match self.running() {
            None => InstanceState::NotStarted,
            Some(running) if running.is_paused() => InstanceState::Paused,
            Some(_) => InstanceState::Running,
        };
        InstanceInfo::new(self.id.as_str(), state)
    }

    fn config(&self) -> VmConfig {
        let config = match &self.phase {
            Phase::Configuring(resources) => resources.describe(),
            Phase::Started { config, .. } => config.as_ref().clone(),
        };
        VmConfig {
            logger: self.logger.clone(),
            metrics: self.metrics_config.clone(),
            ..config
        }
    }

    /// Lets whoever is at the terminal type to the guest. A console without input is no reason not to run.
    fn attach_console(&self, running: &Running, has_output_file: bool) -> Option<RawTerminal> {
        if has_output_file {
            // Nobody could see what he types.
            self.arrivals
                .borrow_mut()
                .push(Box::new(Console::new(running.serial().clone(), None)));
            return None;
        }
        match console::attach(running.serial(), &self.end) {
            Ok((terminal, console)) => {
                self.arrivals.borrow_mut().push(Box::new(console));
                terminal
            }
            Err(error) => {
                log::warn!("the console has no input: {error}");
                None
            }
        }
    }

    /// Stops the guest and writes what is left of its output, if `drain` and its reader takes it soon.
    pub fn stop(&self, drain: bool) {
        if let Some(running) = self.running() {
            running.stop();
            if drain {
                running.drain_console();
            }
        }
    }

    /// Removes what the microVM's devices have put into the host's file system: the process ends without dropping them.
    pub fn remove_names(&mut self) {
        match &mut self.phase {
            Phase::Configuring(resources) => resources.vsock = None,
            Phase::Started { running, .. } => running.remove_names(),
        }
    }

    /// Gives the terminal back, if it was the guest's.
    pub fn release_terminal(&mut self) {
        if let Phase::Started { terminal, .. } = &mut self.phase {
            *terminal = None;
        }
    }

    /// The guest and its configuration, for actions that change it.
    fn started(&mut self) -> Result<(&mut VmConfig, &mut Running), ActionError> {
        match &mut self.phase {
            Phase::Started { config, running, .. } => Ok((config, running)),
            Phase::Configuring(_) => Err(ActionError::NotSupportedBeforeStart),
        }
    }

    fn resources(&mut self) -> Result<&mut Resources, ActionError> {
        match &mut self.phase {
            Phase::Configuring(resources) => Ok(resources),
            Phase::Started { .. } => Err(ActionError::NotSupportedAfterStart),
        }
    }

    fn update_machine(&mut self, update: &MachineConfigUpdate) -> Result<(), ActionError> {
        let config = self.resources()?.machine.updated(update)?;
        self.set_machine(config)
    }

    /// Takes a valid configuration, if it is one that can be had.
    fn set_machine(&mut self, config: MachineConfig) -> Result<(), ActionError> {
        if config
            .cpu_template
            .is_some_and(|template| template != CpuTemplate::None)
        {
            return Err(MachineConfigError::CpuTemplate.into());
        }
        self.resources()?.machine = config;
        Ok(())
    }

    fn change_state(&mut self, wanted: WantedState) -> Result<(), ActionError> {
        let (_, running) = self.started()?;
        match wanted {
            WantedState::Paused => running
                .pause()
                .map_err(|error| ActionError::Internal(Box::new(error))),
            WantedState::Resumed => {
                running.resume();
                Ok(())
            }
        }
    }

    fn set_logger(&mut self, config: Logger) -> Result<(), ActionError> {
        config
            .validate()
            .map_err(|error| ActionError::Logger(Box::new(error)))?;
        let update = LoggerUpdate {
            path: config.log_path.clone(),
            level: Some(logger::level_filter(config.level.unwrap_or_default())),
            module: config.module.clone(),
            show_level: config.show_level,
            show_origin: config.show_log_origin,
        };
        logger::update(update).map_err(|error| ActionError::Logger(Box::new(error)))?;
        self.logger = Some(config);
        Ok(())
    }

    fn set_metrics(&mut self, config: Metrics) -> Result<(), ActionError> {
        let refused = |error: Cause| ActionError::Metrics(error);
        config.validate().map_err(|error| refused(Box::new(error)))?;
        if self.metrics.is_open() {
            return Err(refused(Box::new(MetricsError::Twice)));
        }
        self.open_metrics(&config.metrics_path).map_err(|source| {
            refused(Box::new(MetricsError::Open {
                path: config.metrics_path.clone(),
                source,
            }))
        })?;
        self.metrics
            .describe(config.emit_id.then(|| self.id.clone()), config.properties.clone());
        self.metrics_config = Some(config);
        Ok(())
    }

    fn change(&mut self, action: Action) -> Result<(), ActionError> {
        match action {
            Action::PutMachineConfig(config) => {
                config.validate()?;
                self.set_machine(config)
            }
            Action::PatchMachineConfig(update) => self.update_machine(&update),
            Action::PutBootSource(config) => self
                .resources()?
                .set_boot(config)
                .map_err(|error| ActionError::BootSource(Box::new(error))),
            Action::PutDrive(config) => self.put_drive(config),
            Action::PutNetworkInterface(config) => self.put_network(config),
            Action::PutSharedFolder(config) => self
                .resources()?
                .set_shared_folder(config)
                .map_err(|error| ActionError::SharedFolder(Box::new(error))),
            Action::PutEntropy(config) => self
                .resources()?
                .set_entropy(config)
                .map_err(|error| ActionError::Entropy(Box::new(error))),
            Action::PutVsock(config) => self
                .resources()?
                .set_vsock(config)
                .map_err(|error| ActionError::Vsock(Box::new(error))),
            Action::PutSerial(config) => self
                .resources()?
                .set_serial(config)
                .map_err(|error| ActionError::Serial(Box::new(error))),
            Action::PutLogger(config) => self.set_logger(config),
            Action::PutMetrics(config) => self.set_metrics(config),
            Action::StartInstance => self.start(),
            Action::LoadSnapshot(load) => self.load(&load),
            Action::CreateSnapshot(wanted) => self.save(&wanted),
            Action::NoteWorkingSet(wanted) => self.note_working_set(&wanted),
            Action::PatchDrive(update) => self.update_drive(&update),
            Action::PatchNetworkInterface(update) => self.update_network(&update),
            Action::PatchVm(change) => self.change_state(change.state),
            Action::SendCtrlAltDel => {
                let (_, running) = self.started()?;
                running
                    .send_ctrl_alt_del()
                    .map_err(|error| ActionError::Internal(Box::new(error)))
            }
            Action::FlushMetrics => self
                .flush_metrics()
                .map_err(|error| ActionError::Metrics(Box::new(error))),
            Action::GetInstance | Action::GetVersion | Action::GetMachineConfig | Action::GetVmConfig => {
                Ok(())
            }
        }
    }
}

impl ActionHandler for Monitor {
    fn handle(&mut self, action: Action) -> Result<Outcome, ActionError> {
        action.check_phase(self.is_started())?;
        match action {
            Action::GetInstance => Ok(Outcome::Instance(self.instance())),
            Action::GetVersion => Ok(Outcome::Version(VersionInfo::default())),
            Action::GetMachineConfig => Ok(Outcome::MachineConfig(
                self.config().machine_config.unwrap_or_default(),
            )),
            Action::GetVmConfig => Ok(Outcome::VmConfig(Box::new(self.config()))),
            action => self.change(action).map(|()| Outcome::Empty),
        }
    }
}

/// Writes the metrics every minute, as Firecracker does.
struct PeriodicFlush {
    timer: TimerFd,
    monitor: Weak<RefCell<Monitor>>,
}

impl PeriodicFlush {
    const PERIOD: Duration = Duration::from_secs(60);

    fn new(monitor: Weak<RefCell<Monitor>>) -> io::Result<Self> {
        let io_error = |error: vmm_sys_util::errno::Error| io::Error::from_raw_os_error(error.errno());
        let mut timer = TimerFd::new().map_err(io_error)?;
        timer.reset(Self::PERIOD, Some(Self::PERIOD)).map_err(io_error)?;
        Ok(Self { timer, monitor })
    }
}

impl MutEventSubscriber for PeriodicFlush {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        event_loop::watch(ops, self.timer.as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // Readable, so this does not wait.
        let _ = self.timer.wait();
        if let Some(monitor) = self.monitor.upgrade()
            && let Err(error) = monitor.borrow_mut().flush_metrics()
        {
            log::warn!("cannot write the metrics: {error}");
        }
    }
}

/// The metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
enum MetricsError {
    #[error("Reinitialization of metrics not allowed: they go to the file that was named first")]
    Twice,
    #[error("cannot open metrics_path {path:?}")]
    Open { path: PathBuf, source: io::Error },
}
