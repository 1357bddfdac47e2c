//! A monitor that is driven through its API socket.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_api::client::{Client, ClientResponse};
use koya_api::http::Method;
use koya_tests::vm::{self, PATIENCE, Scratch, Vm};
use serde_json::{Value, json};

use super::boot;

/// A `koya-vmm` with an API socket in a folder of its own.
pub struct Monitor {
    /// Its process.
    pub vm: Vm,
    socket: PathBuf,
    /// The folder.
    pub scratch: Scratch,
}

impl Monitor {
    /// A monitor that waits for instructions.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A monitor with more arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::within(Command::new(vm::vmm_binary()), Scratch::new(), arguments)
    }

    /// A monitor that `command` runs: the program itself, or a prefix of it such as `nsenter … koya-vmm`.
    pub fn within(command: Command, scratch: Scratch, arguments: &[&str]) -> Self {
        Self::launch(command, scratch, arguments, Vm::spawn)
    }

    /// As [`Self::within`], with streams that `command` has already.
    pub fn with_streams_of(command: Command, scratch: Scratch, arguments: &[&str]) -> Self {
        Self::launch(command, scratch, arguments, Vm::spawn_as_it_is)
    }

    fn launch(
        mut command: Command,
        scratch: Scratch,
        arguments: &[&str],
        spawn: impl FnOnce(Command) -> Vm,
    ) -> Self {
        let socket = scratch.path("api.sock");
        command
            .args([OsStr::new("--api-sock"), socket.as_os_str()])
            .args(arguments);
        let monitor = Self {
            vm: spawn(command),
            socket,
            scratch,
        };
        monitor.client();
        monitor
    }

    /// A monitor whose guest, one of the tiny ones, runs.
    pub fn running(guest: &str, args: &str) -> Self {
        let monitor = Self::start();
        monitor.boot(guest, args);
        monitor
    }

    /// Boots a tiny guest.
    pub fn boot(&self, guest: &str, args: &str) {
        self.done(Method::Put, "/boot-source", &boot(guest, args));
        self.act("InstanceStart");
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection; waits for a socket that is not there yet.
    pub fn client(&self) -> Client {
        let start = Instant::now();
        loop {
            match Client::connect(&self.socket, PATIENCE) {
                Ok(client) => return client,
                Err(_) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("{error:?}\n{}", self.vm.transcript()),
            }
        }
    }

    /// Sends one request on a connection of its own.
    pub fn request(&self, method: Method, path: &str, body: Option<&str>) -> ClientResponse {
        match self.client().request(method, path, body) {
            Ok(response) => response,
            Err(error) => panic!("{method:?} {path}: {error:?}\n{}", self.vm.transcript()),
        }
    }

    /// What `GET path` answers.
    pub fn get(&self, path: &str) -> Value {
        let response = self.request(Method::Get, path, None);
        assert_eq!(response.status, 200, "GET {path}");
        response.json().unwrap()
    }

    /// The state in `GET /`.
    pub fn state(&self) -> String {
        self.get("/")["state"].as_str().unwrap().to_owned()
    }

    /// Sends a request that has to succeed.
    pub fn done(&self, method: Method, path: &str, body: &Value) {
        let response = self.request(method, path, Some(&body.to_string()));
        assert_eq!(
            (response.status, String::from_utf8_lossy(&response.body).as_ref()),
            (204, ""),
            "{method:?} {path} {body}\n{}",
            self.vm.transcript()
        );
    }

    /// `PUT /actions`
    pub fn act(&self, action: &str) {
        self.done(Method::Put, "/actions", &json!({ "action_type": action }));
    }

    /// `PATCH /vm`
    pub fn change_state(&self, state: &str) {
        self.done(Method::Patch, "/vm", &json!({ "state": state }));
    }

    /// Sends a request that has to be refused with status 400; its `fault_message`.
    pub fn refused(&self, method: Method, path: &str, body: &str) -> String {
        let response = self.request(method, path, Some(body));
        assert_eq!(response.status, 400, "{method:?} {path} {body}: {response:?}");
        response.fault_message().unwrap()
    }

    /// Ends the monitor by SIGTERM, and sees to it that it is gone.
    pub fn terminate(mut self) {
        self.vm.signal(libc::SIGTERM);
        self.vm.wait();
        self.assert_no_socket();
    }

    /// Sees to it that the socket's file is gone.
    pub fn assert_no_socket(&self) {
        assert!(!self.socket.exists(), "{} is still there", self.socket.display());
    }
}
