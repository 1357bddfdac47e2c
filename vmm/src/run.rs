//! From the command line to the end of the process.

use std::cell::RefCell;
use std::error::Error;
use std::io::{self, Write};
use std::panic;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use koya_api::config::{ConfigFileError, VmConfig};
use koya_api::server::BindError;
use koya_api::{Action, ActionError, ActionHandler, ApiServer, Limits, Outcome};

use log::LevelFilter;

use crate::cli::Options;
use crate::console;
use crate::ending::{EndLine, Ending};
use crate::event_loop::{self, Arrivals, EndSubscriber, SignalSubscriber};
use crate::exit::ExitCode;
use crate::logger::{self, LoggerError, LoggerUpdate};
use crate::monitor::Monitor;
use crate::signals::{self, SignalRequests};
use crate::vcpu::Gate;

/// How long the end of the process waits for somebody to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The process cannot do what its command line says.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Logger(#[from] LoggerError),
    #[error("cannot open the metrics file {path:?}")]
    Metrics { path: PathBuf, source: io::Error },
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    #[error(transparent)]
    Socket(#[from] BindError),
    #[error("the microVM of the config file does not start")]
    Start(#[from] ActionError),
    #[error("cannot take over signals")]
    Signals(#[source] io::Error),
    #[error("the event loop failed")]
    EventLoop(#[source] io::Error),
}

impl RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Logger(LoggerError::Level(_)) => ExitCode::BadConfiguration,
            _ => ExitCode::GenericError,
        }
    }
}

/// The monitor, shared by the API server and the start of the process.
#[derive(Clone)]
struct Shared(Rc<RefCell<Monitor>>);

impl ActionHandler for Shared {
    fn handle(&mut self, action: Action) -> Result<Outcome, ActionError> {
        let result = self.0.borrow_mut().handle(action);
        if let Err(error) = &result {
            log::info!("refused: {}", koya_api::one_line(error));
        }
        result
    }
}

/// Runs a microVM to its end. Errors are on standard error, in one line.
pub fn run(options: &Options) -> ExitCode {
    match try_run(options) {
        Ok(Ending::Signal(libc::SIGHUP)) => ExitCode::Sighup,
        Ok(Ending::Signal(signal)) => signals::die_of(signal),
        Ok(ending) => {
            let code = ending.exit_code();
            match &ending {
                Ending::Fault(fault) => tell(&fault.to_string()),
                Ending::TripleFault { vcpu } => tell(&format!("vCPU {vcpu}: the guest triple-faulted")),
                Ending::Unconfined(error) => tell(&format!(
                    "cannot install the system call filter: {error}; --no-seccomp does without"
                )),
                // The cursor stands where the guest left it, with the shell's prompt to come.
                Ending::Escape => _ = io::stderr().write_all(b"\n"),
                ending => log::info!("the microVM ended: {ending:?}"),
            }
            code
        }
        Err(error) => {
            let code = error.exit_code();
            fail(&error, code)
        }
    }
}

/// Tells the error in one line.
pub fn fail(error: &dyn Error, code: ExitCode) -> ExitCode {
    tell(&koya_api::one_line(error));
    code
}

/// Says why the process ends: on standard error whatever the log's settings are, and in the log's file if it has one.
fn tell(reason: &str) {
    if logger::has_file() {
        log::error!("{reason}");
    }
    // Nobody may be there to read it, and a pipe may be full of what the guest has caused.
    if logger::stderr_takes_a_line(LAST_WORDS) {
        let _ = writeln!(io::stderr(), "koya-vmm: {reason}");
    }
}

fn try_run(options: &Options) -> Result<Ending, RunError> {
    set_up_log(options)?;
    let config = options
        .config_file
        .as_deref()
        .map(VmConfig::from_file)
        .transpose()?;
    let requests = SignalRequests::install().map_err(RunError::Signals)?;
    let gate = Arc::new(Gate::new(false));
    let end = Arc::new(EndLine::new(gate.clone()).map_err(RunError::EventLoop)?);
    let arrivals = Arrivals::default();
    let monitor = Shared(Monitor::new(options, gate, end.clone(), arrivals.clone()));
    if let Some(path) = &options.metrics_path {
        let opened = monitor.0.borrow_mut().open_metrics(path);
        opened.map_err(|source| RunError::Metrics {
            path: path.clone(),
            source,
        })?;
    }
    // Bound before the guest starts, so that a socket that cannot be had does not cost a running guest.
    let server = match &options.api_socket {
        Some(path) => {
            let limits = Limits {
                payload: options.max_payload,
                ..Limits::default()
            };
            Some(ApiServer::bind(path, limits, monitor.clone())?)
        }
        None => None,
    };
    monitor.0.borrow_mut().process_started();
    if let Some(config) = config {
        monitor.0.borrow_mut().run_config(config)?;
    }
    arrivals.borrow_mut().push(Box::new(EndSubscriber(end.clone())));
    arrivals.borrow_mut().push(Box::new(SignalSubscriber {
        requests,
        end: end.clone(),
    }));
    if let Some(server) = server {
        arrivals.borrow_mut().push(Box::new(server));
    }
    // The process ends with the VM still in place: whoever waits for it is told before the kernel takes it down.
    std::mem::forget(monitor.clone());
    let ending = event_loop::run(&arrivals, &end).map_err(RunError::EventLoop);
    // Whoever sends a signal wants the process gone, not its output complete.
    monitor.0.borrow().stop(!matches!(ending, Ok(Ending::Signal(_))));
    monitor.0.borrow_mut().release_terminal();
    monitor.0.borrow_mut().remove_names();
    if let Err(error) = monitor.0.borrow_mut().flush_metrics() {
        log::warn!("cannot write the metrics: {error}");
    }
    ending
}

fn set_up_log(options: &Options) -> Result<(), RunError> {
    logger::init(&options.id);
    panic::set_hook(Box::new(|panic| {
        console::restore();
        tell(&format!("internal error: {panic}").replace('\n', " "));
    }));
    let log = &options.log;
    logger::update(LoggerUpdate {
        path: log.path.clone(),
        level: match &log.level {
            Some(level) => Some(logger::parse_level(level)?),
            // On a terminal the console's lines are what counts.
            None if log.path.is_none() && !options.boot_timer => Some(LevelFilter::Warn),
            None => None,
        },
        module: log.module.clone(),
        show_level: Some(log.show_level),
        show_origin: Some(log.show_origin),
    })?;
    if log.path.is_some() {
        log::info!("Running Koya v{}", env!("CARGO_PKG_VERSION"));
    }
    Ok(())
}
