//! Koya's control plane as plain data: what a microVM is configured with, what can be asked of it, and how both
//! travel.
//!
//! ```text
//!  config file ─► config::VmConfig ─┐
//!                                   ├─► action::Action ─► ActionHandler (the VMM) ─► Outcome | ActionError
//!  unix socket ─► http ─► endpoints ┘                                                    │
//!       ▲                                                                                │
//!       └───────────────────────── server ◄──────── Response | Fault ◄───────────────────┘
//! ```
//!
//! The paths, fields, defaults, status codes and fault bodies are Firecracker's, so that its clients work unchanged;
//! `openapi.yaml` beside this crate describes them. Nothing here knows KVM, devices or guest memory, and nothing here
//! opens a kernel, a disk or a tap: validation that needs the file system happens where those are opened.

#![forbid(unsafe_code)]

pub mod action;
pub mod client;
pub mod config;
pub mod endpoints;
pub mod error;
pub mod http;
pub mod instance;
pub mod json;
pub mod server;

pub use action::{Action, ActionHandler, Outcome, VmStateChange};
pub use config::VmConfig;
pub use error::{ActionError, Cause, Fault, one_line};
pub use instance::{FIRECRACKER_API_VERSION, InstanceInfo, InstanceState, VersionInfo};
pub use server::{ApiServer, BindError, Limits};
