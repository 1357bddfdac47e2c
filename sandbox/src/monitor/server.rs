//! The monitor itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::v1;

use super::SOCKET;
use super::boot::has_left;
use super::ends::{give_up, write_end_as};
use super::error::RequestError;
use super::output::{complain, lock};
use super::outside::Outside;
use super::protocol::{Answer, Request, receive, send};
use super::restart::status_after;
use super::room::{Furniture, Room, Visitor, delete, disk_bytes};
use super::slots::Slots;
use crate::resident::forget_start;
use crate::sandbox::Sandbox;
use crate::sockets;
use crate::state::{Container, Exit, Health, Records, Restarts, StateError, Status, Vm, now};
use crate::timeline::Timeline;

/// How long a client may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long somebody who is attached may take to read a piece of output.
const VISITOR_PATIENCE: Duration = Duration::from_secs(10);
/// How long the reader of a container that was killed may take for its last output.
const READER_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at a container that is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const SIGKILL: u32 = 9;
/// When a container that was started goes its own way, and the monitor only waits.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a container may take to end that was killed.
const END_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Table {
    /// By id; `None`: it is being started.
    pub(super) rooms: BTreeMap<String, Option<Arc<Room>>>,
    /// Requests that are being worked on, each of which may become a room.
    pending: usize,
    /// Containers that have ended and still have something of the host.
    leaving: usize,
    /// No more of them are taken.
    closing: bool,
}

impl Table {
    /// Whether a container still lives in this room.
    pub(super) fn holds(&self, id: &str, room: &Arc<Room>) -> bool {
        let found = self.rooms.get(id).and_then(Option::as_ref);
        found.is_some_and(|found| Arc::ptr_eq(found, room))
    }
}

/// A microVM that runs, and the containers in it.
pub(super) struct Monitor {
    pub(super) records: Records,
    pub(super) sandbox: Sandbox,
    slots: Slots,
    outside: Outside,
    timeline: Timeline,
    vm: Mutex<Vm>,
    pub(super) table: Mutex<Table>,
    /// Held by who changes limits.
    pub(super) changing: Mutex<()>,
    pub(super) changed: Condvar,
    next: AtomicU64,
    /// Nothing in the guest is to be kept.
    discarded: AtomicBool,
    /// Containers that are to be started again in another microVM, because this one has ended under them.
    pub(super) bereft: Mutex<Vec<String>>,
}

/// Whom to serve, and with what.
type Served = (Arc<Room>, Visitor);

impl Monitor {
    /// One whose microVM has booted, with the first place furnished.
    pub fn new(
        records: &Records,
        sandbox: Sandbox,
        slots: Slots,
        outside: Outside,
        vm: Vm,
        timeline: Timeline,
    ) -> Self {
        Self {
            records: records.clone(),
            sandbox,
            slots,
            outside,
            timeline,
            vm: Mutex::new(vm),
            table: Mutex::default(),
            changing: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU64::new(0),
            discarded: AtomicBool::new(false),
            bereft: Mutex::default(),
        }
    }

    /// Takes requests until no container is left; those are the answer that are to be started again, in another microVM.
    pub fn run(self: Arc<Self>, first: UnixStream, request: Request) -> Vec<String> {
        self.begin();
        self.spawn(move |monitor| monitor.answer(first, request, true));
        let socket = self.folder().join(SOCKET);
        match sockets::listen(&socket) {
            Ok(listener) => {
                let monitor = Arc::clone(&self);
                thread::spawn(move || {
                    for client in listener.incoming().flatten() {
                        if !monitor.begin() {
                            let _ = send(&client, &Answer::Busy {});
                            continue;
                        }
                        monitor.spawn(move |monitor| monitor.meet(client));
                    }
                });
            }
            Err(error) => complain(&format!("cannot listen at {socket:?}: {error}")),
        }
        let sweeper = {
            let monitor = Arc::clone(&self);
            thread::spawn(move || monitor.outside.sweep(&monitor.records))
        };
        self.wait_for_the_last().closing = true;
        // Whoever connects from now on waits for the lock.
        let _ = fs::remove_file(&socket);
        if !self.discarded.load(Ordering::SeqCst) {
            let _ = self
                .sandbox
                .agent()
                .shutdown(v1::ShutdownKind::SHUTDOWN_KIND_POWEROFF);
        }
        self.sandbox.end();
        self.outside.dismantle();
        let _ = sweeper.join();
        let mut vm = lock(&self.vm).clone();
        (vm.monitor_pid, vm.vmm_pid) = (None, None);
        if self.records.vm(&vm.id).is_some() {
            let _ = self.records.save_vm(&vm);
        }
        std::mem::take(&mut *lock(&self.bereft))
    }

    /// Waits until nobody lives here, nor is about to.
    fn wait_for_the_last(&self) -> MutexGuard<'_, Table> {
        let lives = |table: &Table| table.pending > 0 || !table.rooms.is_empty();
        let (table, wait) = self
            .changed
            .wait_timeout_while(lock(&self.table), SETTLED, |table| lives(table))
            .unwrap_or_else(PoisonError::into_inner);
        if !wait.timed_out() {
            return table;
        }
        drop(table);
        forget_start();
        self.wait_while(lives)
    }

    fn wait_while(&self, is_so: impl Fn(&Table) -> bool) -> MutexGuard<'_, Table> {
        self.changed
            .wait_while(lock(&self.table), |table| is_so(table))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self) -> PathBuf {
        self.records.vm_folder(&lock(&self.vm).id)
    }

    /// Counts a request in, unless the microVM goes down.
    fn begin(&self) -> bool {
        let mut table = lock(&self.table);
        if !table.closing {
            table.pending = table.pending.saturating_add(1);
        }
        !table.closing
    }

    /// Works on a request that was counted in.
    pub(super) fn spawn(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let monitor = Arc::clone(self);
        thread::spawn(move || {
            work(&monitor);
        });
    }

    /// The request is no longer pending.
    pub(super) fn settle(&self) {
        let mut table = lock(&self.table);
        table.pending = table.pending.saturating_sub(1);
        self.changed.notify_all();
    }

    fn meet(self: &Arc<Self>, client: UnixStream) {
        let request = client
            .set_read_timeout(Some(REQUEST_PATIENCE))
            .and_then(|()| receive(&client))
            .and_then(|request| client.set_read_timeout(None).map(|()| request));
        match request {
            Ok(request) => self.answer(client, request, false),
            Err(_) => self.settle(),
        }
    }

    fn answer(self: &Arc<Self>, client: UnixStream, request: Request, first: bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let done = match &request {
            Request::Start { container, attach } => self.start(container, *attach, number, &client, first),
            Request::Attach { container } => self.attach(container, number, &client),
            Request::HangUp { container } => self.room(container).map(|room| {
                room.hang_up();
                None
            }),
            Request::Freeze { container, frozen } => self.freeze(container, *frozen).map(|()| None),
            Request::Update { container, limits } => self.update(container, limits).map(|()| None),
            Request::Remove { container, force } => self.remove(container, *force).map(|()| None),
        };
        let answered = matches!(request, Request::Start { .. } | Request::Attach { .. });
        match &done {
            Ok(_) if answered => {}
            Ok(_) => _ = send(&client, &Answer::done()),
            Err(error) => _ = send(&client, &Answer::failed(error, error.code())),
        }
        self.settle();
        if let Ok(Some((room, visitor))) = done {
            room.serve(visitor);
        }
    }

    /// The room of a container that runs.
    pub(super) fn room(&self, id: &str) -> Result<Arc<Room>, RequestError> {
        let room = lock(&self.table).rooms.get(id).cloned().flatten();
        room.ok_or_else(|| RequestError::NotRunning(id.to_owned()))
    }

    fn attach(&self, id: &str, number: u64, client: &UnixStream) -> Result<Option<Served>, RequestError> {
        let room = self.room(id)?;
        let socket = client.try_clone().map_err(RequestError::Client)?;
        // He is a guest: the container waits for him, but not for ever.
        socket
            .set_write_timeout(Some(VISITOR_PATIENCE))
            .map_err(RequestError::Client)?;
        send(&socket, &Answer::done()).map_err(RequestError::Client)?;
        let visitor = Visitor { number, socket };
        room.attach(&visitor).map_err(RequestError::Client)?;
        Ok(Some((room, visitor)))
    }

    /// Starts a container; the room to serve if the client wants to be attached.
    pub(super) fn start(
        self: &Arc<Self>,
        id: &str,
        attach: bool,
        number: u64,
        client: &UnixStream,
        first: bool,
    ) -> Result<Option<Served>, RequestError> {
        let mut container = self.claim(id)?;
        let furnished = self.furnish(&container, first).and_then(|room| {
            let socket = client.try_clone().map_err(RequestError::Client)?;
            let visitor = Visitor { number, socket };
            if attach {
                room.attach(&visitor).map_err(RequestError::Client)?;
            }
            // Nobody waits for it any more.
            if has_left(client) {
                let _ = delete(self.sandbox.agent(), id, container.settings.auto_remove);
                self.vacate(id, room.slot);
                return Err(RequestError::Abandoned);
            }
            Ok((room, visitor))
        });
        let served = furnished.inspect_err(|error| {
            let mut table = lock(&self.table);
            give_up(&self.records, &container, error, error.code());
            table.rooms.remove(id);
            self.changed.notify_all();
        })?;
        container.status = Status::Running;
        container.started = now();
        container.pid = Some(served.0.pid);
        container.health = container.settings.health.is_some().then(Health::default);
        if let Err(error) = self.records.save(&container) {
            complain(&error.to_string());
        }
        self.timeline.mark("container runs");
        let room = Arc::clone(&served.0);
        lock(&self.table)
            .rooms
            .insert(container.id.clone(), Some(Arc::clone(&room)));
        // Before anything that it writes, which may follow at once.
        let marks = self.timeline.take();
        let _ = send(client, &Answer::Done { marks });
        if container.settings.health.is_some() {
            let (container, room) = (container.clone(), Arc::clone(&room));
            self.spawn(move |monitor| monitor.probe(&container, &room));
        }
        self.spawn(move |monitor| monitor.watch(container, &room));
        Ok(attach.then_some(served))
    }

    /// Takes a container that is to be started, unless it is or has been.
    fn claim(&self, id: &str) -> Result<Container, RequestError> {
        // Places, addresses and ports of one that has ended are promised to the next.
        let mut table = self.wait_while(|table| table.leaving > 0);
        let container = self.records.look(id);
        let container = container.filter(|container| container.vm == lock(&self.vm).id);
        let mut container = container.ok_or_else(|| StateError::Unknown(id.to_owned()))?;
        if table.rooms.contains_key(id) {
            return Err(RequestError::Runs(container.name));
        }
        if container.status != Status::Restarting {
            container.restarts = Restarts::default();
            self.records.forget_stay(id);
        }
        container.status = Status::Creating;
        container.exit = None;
        self.discarded.store(false, Ordering::SeqCst);
        self.records.save(&container)?;
        table.rooms.insert(id.to_owned(), None);
        Ok(container)
    }

    /// Finds a place for a container and starts it there.
    fn furnish(&self, container: &Container, first: bool) -> Result<Arc<Room>, RequestError> {
        let folder = self.records.folder(&container.id);
        let path = self.records.image(&container.id);
        let image_bytes = match disk_bytes(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(RequestError::Image { path, source }),
        };
        let (mounts, shares) = self.outside.mounts(container)?;
        let slot = match first {
            true => 0,
            false => self.slots.take(&path)?,
        };
        let room = self
            .outside
            .attach(container)
            .map_err(RequestError::from)
            .and_then(|attached| {
                self.outside.join(&attached, &self.sandbox.devices())?;
                self.timeline.mark("networks are attached");
                let furniture = Furniture {
                    slot,
                    image_bytes,
                    attached,
                    mounts,
                    shares,
                };
                Ok(Room::start(&self.sandbox, &folder, container, &furniture)?)
            });
        match room {
            Ok(room) => Ok(Arc::new(room)),
            Err(error) => {
                self.vacate(&container.id, slot);
                Err(error)
            }
        }
    }

    /// Gives back what a container had that is no longer in the guest.
    fn vacate(&self, container: &str, slot: usize) {
        self.outside.detach(container);
        self.slots.free(slot);
    }

    /// Stays with a container until it has ended, tells everybody, and clears up behind it.
    fn watch(self: &Arc<Self>, mut container: Container, room: &Arc<Room>) {
        let exit = room.watch(self.sandbox.agent());
        let remove = container.settings.auto_remove;
        // What goes with the whole microVM need not be removed in it; but what it wrote to the host is to arrive there.
        let goes_with_all = remove && container.settings.volumes.is_empty() && self.is_last(&container);
        if goes_with_all {
            self.discarded.store(true, Ordering::SeqCst);
        } else if let Err(error) = delete(self.sandbox.agent(), &container.id, remove) {
            complain(&format!("cannot remove {} in the guest: {error}", container.id));
        }
        // From here on it has ended for everybody. Its networks take long, and nobody waits for them who does not need
        // what it had: whoever does, waits or takes them down himself, wherever this process may die.
        self.outside.leave(&container.id);
        container.exit = Some(exit.clone());
        let mut table = lock(&self.table);
        // Its limits may have been changed since it was started.
        if let Some(now) = self.records.look(&container.id) {
            (container.settings, container.health) = (now.settings, now.health);
        }
        self.write_down(&mut container, &exit, remove);
        table.rooms.remove(&container.id);
        table.leaving = table.leaving.saturating_add(1);
        // Until everything is done.
        table.pending = table.pending.saturating_add(1);
        drop(table);
        self.changed.notify_all();
        // Not before: whoever is told looks at the state next.
        room.end(&exit);
        self.outside.detach(&container.id);
        self.slots.free(room.slot);
        let mut table = lock(&self.table);
        table.leaving = table.leaving.saturating_sub(1);
        drop(table);
        self.changed.notify_all();
        self.go_on(&container, &exit);
    }

    /// Writes down how a container ended, and whether it is to be started again; or removes it.
    fn write_down(&self, container: &mut Container, exit: &Exit, remove: bool) {
        if remove {
            match self.records.forget(container) {
                Ok(()) => return,
                Err(error) => complain(&error.to_string()),
            }
        }
        let status = status_after(&self.records, container, exit);
        write_end_as(&self.records, container, status);
    }

    /// Whether nobody else lives in the microVM, or is about to, or could be started in it.
    fn is_last(&self, container: &Container) -> bool {
        let table = lock(&self.table);
        let alone = table.pending == 0 && table.rooms.len() == 1;
        let mut all = self.records.list().unwrap_or_default().into_iter();
        alone && !all.any(|other| other.vm == container.vm && other.id != container.id)
    }

    fn remove(&self, id: &str, force: bool) -> Result<(), RequestError> {
        let container = self.records.look(id);
        let container = container.ok_or_else(|| StateError::Unknown(id.to_owned()))?;
        let begun = Instant::now();
        let mut table = lock(&self.table);
        while let Some(room) = table.rooms.get(id).cloned() {
            if !force {
                return Err(RequestError::Running(container.name));
            }
            if begun.elapsed() >= END_PATIENCE {
                return Err(RequestError::Lingers(container.name));
            }
            drop(table);
            if let Some(room) = room {
                let _ = self.sandbox.agent().signal_all(id, SIGKILL);
                if begun.elapsed() >= READER_PATIENCE {
                    room.dismiss();
                }
            }
            table = lock(&self.table);
            let waited = self.changed.wait_timeout(table, LOOK_AGAIN);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match self.records.look(id) {
            Some(container) => Ok(self.records.forget(&container)?),
            None => Ok(()),
        }
    }
}
