//! The network of a container that has a microVM of its own: what is in the stand-in's namespace, taken over as it is.
//!
//! Engines make that namespace before the container, but where a user namespace is to own it: then they furnish what they
//! find when the container has been created. And `network connect` and `disconnect` change it while the container runs. Cards
//! for what has come join the microVM.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use koya_proto::v1;
use koya_sandbox::network::loopback::{Guest, Loopback};
use koya_sandbox::network::takeover::{Live, Watch, Within};
use koya_sandbox::network::{Namespace, VmNetwork, resolver};
use koya_sandbox::resident::forget_start;
use koya_sandbox::{rights, stdio};

use super::Monitor;
use crate::error::RuntimeError;
use crate::house::House;
use crate::log::Log;
use crate::threads;

/// This thread's network namespace, which is the stand-in's.
const NAMESPACE: &str = "/proc/self/ns/net";
/// Between two looks at what has changed, so that a namespace in which something changes all the time takes little.
const PAUSE: Duration = Duration::from_millis(200);

/// Until the next try after one that has failed, and twice as long after that.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// No longer, however many have failed.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is taken over.
pub(super) struct Network {
    live: Mutex<Live>,
    /// Whether there was nothing, and it may come later.
    awaited: AtomicBool,
    /// Says from when on something has changed, until somebody waits for it.
    watch: Mutex<Option<Watch>>,
    /// The file of the host that is the container's.
    resolv_conf: Option<PathBuf>,
    /// Whether a name server of the namespace's own is asked for the container.
    serves_names: AtomicBool,
}

/// Whom a network is for.
#[derive(Clone, Copy)]
pub(super) struct Tenant<'a> {
    /// Where the container is.
    pub house: &'a House,
    /// Which it is.
    pub id: &'a str,
    /// Where it is said what the container misses.
    pub log: &'a Log,
}

impl Tenant<'_> {
    fn warn(&self, what: &str, error: &RuntimeError) {
        self.log.warn(&format!("{what}: {}", error.one_line()));
    }
}

impl Network {
    /// Takes over what is there. If that is nothing, it may come `late`.
    pub fn take(late: bool, resolv_conf: Option<PathBuf>) -> Result<Self, RuntimeError> {
        // Before anything is looked at, so that nothing is missed.
        let watch = Watch::open().map_err(RuntimeError::system("watch the network namespace"))?;
        let live = Live::take(&namespace()?, within())?;
        Ok(Self {
            awaited: AtomicBool::new(late && live.taken().interfaces.is_empty()),
            live: Mutex::new(live),
            watch: Mutex::new(Some(watch)),
            resolv_conf,
            serves_names: AtomicBool::new(false),
        })
    }

    /// The microVM's cards.
    pub fn cards(&self, id: &str) -> VmNetwork {
        VmNetwork {
            vm: id.to_owned(),
            netns: NAMESPACE.into(),
            cards: lock(&self.live).cards(),
        }
    }

    /// Gives the container what is taken over. What goes beyond addresses it may lack: that is said where an engine keeps it.
    pub fn give(&self, tenant: Tenant<'_>) -> Result<(), RuntimeError> {
        let request = lock(&self.live).taken().request(tenant.id);
        tenant.house.agent().configure_network(&request)?;
        self.serve_names(tenant);
        if let Err(error) = join_loopback(tenant) {
            let what = "127.0.0.1 of the namespace does not lead to the container (kubectl port-forward)";
            tenant.warn(what, &error);
        }
        Ok(())
    }

    /// Gives it what has come before its start, if there was nothing.
    pub fn give_late(&self, tenant: Tenant<'_>) -> Result<(), RuntimeError> {
        match self.awaited.swap(false, Ordering::SeqCst) {
            true => self.look(tenant),
            false => Ok(()),
        }
    }

    /// Gives it what has come, and takes away what has gone.
    fn look(&self, tenant: Tenant<'_>) -> Result<(), RuntimeError> {
        let Some(devices) = tenant.house.devices() else {
            return Ok(());
        };
        let mut live = lock(&self.live);
        let mut refused = None;
        let change = live.look(&namespace()?, &mut |card| {
            let added = devices.add_card(card);
            let has = added.is_ok();
            refused = added.err().or(refused.take());
            has
        })?;
        if !change.is_empty() {
            tenant
                .house
                .agent()
                .configure_network(&change.request(tenant.id))?;
            live.settle(change);
        }
        let lacks_cards = live.lacks_cards();
        drop(live);
        self.serve_names(tenant);
        match refused {
            Some(error) if lacks_cards => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Has an engine's name server in the namespace answer the guest, once that is where the container is to ask.
    fn serve_names(&self, tenant: Tenant<'_>) {
        let Some(server) = self.resolv_conf.as_deref().and_then(resolver::on_loopback) else {
            return;
        };
        if self.serves_names.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = namespace().and_then(|namespace| Ok(lock(&self.live).keep_answers(&namespace)?)) {
            tenant.warn("the container finds names of containers only", &error);
        }
        if let Err(error) = ask_for(tenant, server) {
            // When something changes, it is tried again.
            self.serves_names.store(false, Ordering::SeqCst);
            tenant.warn("the container will not find names", &error);
        }
    }
}

impl Monitor {
    /// Follows what comes into the container's network and goes, in a thread that lives as long as this process.
    pub(super) fn follow_network(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let Some(watch) = self
            .network
            .as_ref()
            .and_then(|network| lock(&network.watch).take())
        else {
            return Ok(());
        };
        let monitor = Arc::clone(self);
        let work = move || {
            let log = &monitor.context.log;
            let (mut said, mut retry) = (String::new(), None);
            let end = loop {
                if let Err(error) = watch.wait(retry) {
                    break error;
                }
                let error = monitor.look_at_network().err().map(|error| error.one_line());
                retry = error.as_ref().map(|_| {
                    let next = retry.map_or(FIRST_RETRY, |last: Duration| last.saturating_mul(2));
                    next.min(LAST_RETRY)
                });
                let error = error.unwrap_or_default();
                if !error.is_empty() && error != said {
                    log.warn(&format!("the container's network does not follow: {error}"));
                }
                said = error;
                // Most of the time nothing changes.
                forget_start();
                thread::sleep(PAUSE);
            };
            log.warn(&format!("the container stays on the networks that it has: {end}"));
        };
        threads::spawn("network", work)
            .map(drop)
            .map_err(threads::refused)
    }

    fn look_at_network(&self) -> Result<(), RuntimeError> {
        let id = self.id();
        match &self.network {
            Some(network) => network.look(self.tenant(&id)),
            None => Ok(()),
        }
    }

    /// The container, as its network knows it.
    pub(super) fn tenant<'a>(&'a self, id: &'a str) -> Tenant<'a> {
        Tenant {
            house: &self.house,
            id,
            log: &self.context.log,
        }
    }
}

/// Has the agent take the container's questions to this address of its loopback device, and answers them.
fn ask_for(tenant: Tenant<'_>, server: std::net::Ipv4Addr) -> Result<(), RuntimeError> {
    let mut request = v1::ServeNamesRequest {
        id: tenant.id.to_owned(),
        address: server.to_string(),
        ..Default::default()
    };
    let stream = stdio::connect(&tenant.house.vsock(), &mut request.stream)
        .map_err(RuntimeError::system("connect a stream for names"))?;
    tenant.house.agent().serve_names(&request)?;
    threads::spawn("resolver", move || resolver::serve(stream, server))
        .map(drop)
        .map_err(threads::refused)
}

/// Joins connections to the namespace's loopback device to the container's, in a thread that lives as long as this process.
fn join_loopback(tenant: Tenant<'_>) -> Result<(), RuntimeError> {
    let guest = Guest {
        vsock: tenant.house.vsock(),
        agent: tenant.house.agent().clone(),
        id: tenant.id.to_owned(),
    };
    let loopback = Loopback::take().map_err(RuntimeError::system(
        "take connections to 127.0.0.1 (the kernel needs the module nft_nat)",
    ))?;
    threads::spawn("loopback", move || loopback.serve(guest))
        .map(drop)
        .map_err(threads::refused)
}

fn namespace() -> Result<Namespace, RuntimeError> {
    Ok(Namespace::open(Path::new(NAMESPACE))?)
}

/// Engines of ordinary users forward ports by connecting from the namespace.
fn within() -> Within {
    match rights::is_root_of_host() {
        true => Within::Nobody,
        false => Within::Programs,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
