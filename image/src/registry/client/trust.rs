//! Whom a connection trusts: certificate authorities, and this machine itself.

use std::path::Path;

use ureq::tls::{PemItem, RootCerts, parse_pem};

use crate::registry::RegistryError;

/// Where systems keep the certificate authorities they trust.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whether a registry is on this machine, where docker, too, does without TLS.
pub(super) fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whom to trust: `SSL_CERT_FILE` counts, as for other programs.
pub(super) fn authorities(given: Option<&Path>, registry: &str) -> Result<RootCerts, RegistryError> {
    let set = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let path = given.map(Path::to_owned).or(set).unwrap_or_else(|| {
        let mut known = AUTHORITIES.iter().map(Path::new);
        known
            .find(|path| path.is_file())
            .unwrap_or(Path::new(AUTHORITIES[0]))
            .to_owned()
    });
    let fault = |source| RegistryError::Authorities {
        path: path.clone(),
        registry: registry.to_owned(),
        source,
    };
    let bytes = std::fs::read(&path).map_err(|error| fault(Some(error)))?;
    let certificates: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(fault(None));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_this_machine_are_asked_without_tls() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
            "a.localhost",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "docker.io",
            "localhost.org",
            "10.0.0.1:5000",
            "[::2]",
            "notlocalhost:5000",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
