//! `koya port`: which ports of the host lead into a container.

use std::net::SocketAddr;
use std::process::ExitCode;

use koya_sandbox::network::Published;

use crate::args::PortArgs;
use crate::error::CliError;
use crate::home::Home;

/// `koya port`
///
/// # Errors
/// [`CliError`]; [`CliError::NoPort`] if nothing leads to the port that was asked for.
pub fn port(args: &PortArgs) -> Result<ExitCode, CliError> {
    let home = Home::find()?;
    let container = home.records()?.find(&args.container)?;
    if !container.is_active() {
        return Err(CliError::NotRunning(container.name));
    }
    let attached = home.networks()?.attached(&container.id)?;
    let all = attached.iter().flat_map(|attached| &attached.ports);
    let mut lines = all.flat_map(lines);
    let Some(wanted) = &args.port else {
        for (inside, outside) in lines {
            crate::print(&format!("{inside} -> {outside}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let wanted = match wanted.contains('/') {
        true => wanted.clone(),
        false => format!("{wanted}/tcp"),
    };
    match lines.find(|(inside, _)| *inside == wanted) {
        Some((_, outside)) => crate::print(&outside.to_string())?,
        None => return Err(CliError::NoPort(container.name, wanted)),
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each port: the container's, as `80/tcp`, and the host's.
fn lines(published: &Published) -> impl Iterator<Item = (String, SocketAddr)> {
    let Published {
        host_ip,
        host_port,
        container_port,
        count,
        protocol,
    } = *published;
    let address = host_ip.unwrap_or([0, 0, 0, 0].into());
    (0..count).filter_map(move |number| {
        let (inside, outside) = (
            container_port.checked_add(number)?,
            host_port.checked_add(number)?,
        );
        Some((format!("{inside}/{protocol}"), SocketAddr::new(address, outside)))
    })
}

#[cfg(test)]
mod tests {
    use koya_sandbox::network::Protocol;

    use super::*;

    #[test]
    fn a_range_is_a_line_for_each_port() {
        let mut published = Published {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            count: 2,
            protocol: Protocol::Tcp,
        };
        let shown = |published: &Published| -> Vec<_> {
            lines(published)
                .map(|(inside, outside)| format!("{inside} {outside}"))
                .collect()
        };
        assert_eq!(shown(&published), ["80/tcp 0.0.0.0:8080", "81/tcp 0.0.0.0:8081"]);
        published.host_ip = Some("::1".parse().unwrap());
        published.protocol = Protocol::Udp;
        published.host_port = u16::MAX;
        assert_eq!(shown(&published), ["80/udp [::1]:65535"]);
    }
}
