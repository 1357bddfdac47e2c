//! The API: Firecracker's paths, texts and habits, against the real server with a real guest.

mod config;
mod http;
mod observe;
mod openapi;
mod phases;
