//! `koya setup kubernetes`: the RuntimeClass, for whoever may speak to the cluster.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::error::SetupError;
use super::file;
use crate::args::KubernetesArgs;
use crate::error::CliError;

/// The class, as it is in the source tree.
const MANIFEST: &str = include_str!("../../../resources/kubernetes/runtimeclass-koya.yaml");

/// What is to be done besides.
const NODES: &str = "\
On each node that shall run such pods (KVM: koya doctor tells):
  make install                     # koya, koya-runtime, containerd-shim-koya-v2 and their parts
  koya setup containerd            # the handler koya; docs/kubernetes.md has the lines for CRI-O
  systemctl restart containerd
  kubectl label node NODE koya=yes # if not all nodes do, with a nodeSelector in the class's scheduling
Then, in a pod: runtimeClassName: koya
";

/// Prints the class, or writes it into a file.
///
/// # Errors
/// [`CliError`]
pub fn kubernetes(args: &KubernetesArgs) -> Result<ExitCode, CliError> {
    match &args.output {
        Some(path) => into(path)?,
        None => crate::print(MANIFEST.trim_end())?,
    }
    // Standard output is for kubectl alone.
    let _ = std::io::stderr().write_all(NODES.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn into(path: &Path) -> Result<(), CliError> {
    let there = file::read(path)?;
    if there.as_deref() == Some(MANIFEST) {
        return crate::print(&format!("{}: nothing to be done", path.display()));
    }
    if there.is_some() {
        return Err(CliError::Setup(SetupError::Unfit {
            path: path.to_owned(),
            is: "is there already and says something else",
        }));
    }
    file::write(path, MANIFEST, None)?;
    crate::print(&format!("kubectl apply -f {}", path.display()))
}
