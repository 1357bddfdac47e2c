//! Where engines look for their runtimes, and what they have to be told.

use std::path::{Path, PathBuf};

use koya_sandbox::parts::Parts;
use serde_json::{Value, json};

use super::error::{SetupError, SyntaxError};
use super::plan::{Setting, Syntax};
use super::{file, toml};
use crate::args::EngineArgs;
use crate::error::CliError;

/// What the runtime, the handler and the class are called.
pub const NAME: &str = "koya";
/// containerd makes the shim's name of it: containerd-shim-koya-v2.
const SHIM_TYPE: &str = "io.containerd.koya.v2";
/// containerd's own for runc, which is its default handler.
const RUNC_TYPE: &str = "io.containerd.runc.v2";
/// The shim's file.
const SHIM: &str = "containerd-shim-koya-v2";
/// Where containerd looks for shims when systemd starts it.
const SHIM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// An engine, its file, and what that is to say.
pub struct Engine {
    /// What people and the record call it.
    pub name: &'static str,
    /// Its file.
    pub path: &'static str,
    /// What that is written in.
    pub syntax: Syntax,
    /// What it is to say.
    pub settings: Vec<Setting>,
    /// What to do then.
    pub next: &'static str,
    /// What to do when it was taken back.
    pub after_undo: &'static str,
    /// What to know besides.
    pub warnings: Vec<String>,
}

/// podman reads a folder beside its own file, and adds runtimes to those that it knows.
pub fn podman(settings: Vec<Setting>) -> Engine {
    Engine {
        name: "podman",
        path: "/etc/containers/containers.conf.d/koya.conf",
        syntax: Syntax::Toml,
        settings,
        next: "podman --runtime koya run --rm IMAGE uname -r",
        after_undo: "",
        warnings: Vec::new(),
    }
}

/// What podman is to be told.
pub fn podman_settings(runtime: &str, default: bool) -> Vec<Setting> {
    let mut settings = vec![Setting::new(["engine", "runtimes", NAME], json!([runtime]))];
    settings.extend(default.then(|| Setting::new(["engine", "runtime"], NAME)));
    settings
}

/// docker's engine has one file.
pub fn docker(settings: Vec<Setting>) -> Engine {
    Engine {
        name: "docker",
        path: "/etc/docker/daemon.json",
        syntax: Syntax::Json,
        settings,
        next: "systemctl reload docker     # no container is stopped by it\n\
               docker run --rm --runtime koya IMAGE uname -r",
        after_undo: "systemctl restart docker     # a reload keeps a runtime that is gone from the file",
        warnings: Vec::new(),
    }
}

/// What docker is to be told.
pub fn docker_settings(runtime: &str, default: bool) -> Vec<Setting> {
    let mut settings = vec![Setting::new(["runtimes", NAME, "path"], runtime)];
    settings.extend(default.then(|| Setting::new(["default-runtime"], NAME)));
    settings
}

/// containerd's CRI plugin has a list of handlers.
pub fn containerd(settings: Vec<Setting>) -> Engine {
    Engine {
        name: "containerd",
        path: "/etc/containerd/config.toml",
        syntax: Syntax::Toml,
        settings,
        next: "systemctl restart containerd     # no pod is stopped by it\n\
               koya setup kubernetes | kubectl apply -f -",
        after_undo: "systemctl restart containerd",
        warnings: Vec::new(),
    }
}

/// What containerd is to be told, in the words of the version that its file is of.
///
/// # Errors
/// [`SyntaxError`], also for a version whose words are others.
pub fn containerd_settings(text: &str) -> Result<Vec<Setting>, SyntaxError> {
    let version = Setting {
        stays: true,
        ..Setting::new(["version"], 2)
    };
    let plugin = match toml::get(text, &version.keys)? {
        // The second one is that of a file without anything.
        Some(Value::Number(number)) if number.as_u64() == Some(2) => "io.containerd.grpc.v1.cri",
        None if is_empty(text)? => "io.containerd.grpc.v1.cri",
        Some(Value::Number(number)) if number.as_u64() == Some(3) => "io.containerd.cri.v1.runtime",
        found => return Err(foreign_version(found)),
    };
    let handler = |name, key, value: Value| {
        Setting::new(["plugins", plugin, "containerd", "runtimes", name, key], value)
    };
    let mut settings = Vec::from_iter(is_empty(text)?.then_some(version));
    if !has_handlers(text, plugin)? {
        // A list takes the place of the one that containerd has by itself, and without its default handler the plugin does
        // not start.
        settings.push(Setting {
            stays: true,
            ..handler("runc", "runtime_type", RUNC_TYPE.into())
        });
    }
    settings.push(handler(NAME, "runtime_type", SHIM_TYPE.into()));
    // A privileged container has the guest's devices. The host's are not even asked for.
    settings.push(handler(NAME, "privileged_without_host_devices", true.into()));
    Ok(settings)
}

/// Whether the file has handlers of its own, or names one as the default.
fn has_handlers(text: &str, plugin: &str) -> Result<bool, SyntaxError> {
    let at = |key: &str| ["plugins", plugin, "containerd", key].map(str::to_owned);
    let handlers = toml::get(text, &at("runtimes"))?;
    let others = |handlers: &serde_json::Map<String, Value>| handlers.keys().any(|name| name != NAME);
    let has_others = handlers.as_ref().and_then(Value::as_object).is_some_and(others);
    Ok(has_others || toml::get(text, &at("default_runtime_name"))?.is_some())
}

fn is_empty(text: &str) -> Result<bool, SyntaxError> {
    Ok(toml::get(text, &[])? == Some(json!({})))
}

fn foreign_version(found: Option<Value>) -> SyntaxError {
    let found = found.map_or("1, as there is none".to_owned(), |found| found.to_string());
    SyntaxError::at(
        "\"version\"",
        format!(
            "this is version {found}; koya knows 2 and 3 (containerd config migrate prints the file in a newer one)"
        ),
    )
}

/// What else keeps containerd from finding koya.
pub fn containerd_warnings(text: &str, root: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let plugins = toml::get(text, &["disabled_plugins".to_owned()]);
    let is_cri = |name: &Value| matches!(name.as_str(), Some("cri" | "io.containerd.grpc.v1.cri"));
    if let Ok(Some(Value::Array(names))) = plugins
        && names.iter().any(is_cri)
    {
        let said = "the CRI plugin is among disabled_plugins: Kubernetes cannot use this containerd until you take it out";
        warnings.push(said.to_owned());
    }
    let there = |folder: &&str| file::below(root, &Path::new(folder).join(SHIM)).is_file();
    if !SHIM_FOLDERS.iter().any(there) {
        let folders = SHIM_FOLDERS.join(", ");
        warnings.push(format!(
            "{SHIM} is in none of {folders}, where containerd looks for it"
        ));
    }
    warnings
}

/// Where the runtime is, as an engine is to be told.
///
/// # Errors
/// [`CliError`]
pub fn runtime(args: &EngineArgs) -> Result<String, CliError> {
    let path = match &args.runtime {
        None => Parts::find_runtime()?,
        Some(path) => checked(path, &args.file.root)?,
    };
    let text = path.into_os_string().into_string();
    Ok(text.map_err(|path| SetupError::Runtime {
        path: path.into(),
        is: "is not text in UTF-8, which engines read",
    })?)
}

fn checked(path: &Path, root: &Path) -> Result<PathBuf, SetupError> {
    let unfit = |is| SetupError::Runtime {
        path: path.to_owned(),
        is,
    };
    if !path.is_absolute() {
        return Err(unfit("is relative: engines run in folders of their own"));
    }
    match file::below(root, path).is_file() {
        true => Ok(path.to_owned()),
        false => Err(unfit("is no file there")),
    }
}
