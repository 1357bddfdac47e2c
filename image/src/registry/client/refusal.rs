//! What a registry says when it does not give what is asked for, in words for people.

use std::io::Read;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::Client;
use crate::registry::RegistryError;

/// Bytes of an error page that are looked at.
const PAGE_MAX: u64 = 64 << 10;

impl Client<'_> {
    pub(super) fn unreachable(
        &self,
        path: &str,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.registry().to_owned(),
            url: format!("{}/{path}", self.base),
            scheme: if self.plain { "http" } else { "https" },
            source,
        }
    }

    pub(super) fn no_part(&self, what: &str) -> RegistryError {
        RegistryError::NoPart {
            registry: self.registry().to_owned(),
            repository: self.name.repository().to_owned(),
            what: what.to_owned(),
        }
    }

    /// Whether it is the image that is missing, or only this tag or digest.
    pub(super) fn missing(&self, wanted: &str) -> RegistryError {
        let (registry, repository) = (self.registry().to_owned(), self.name.repository().to_owned());
        let tags = self.send("tags/list?n=1000", 0);
        let Some(mut response) = tags.ok().filter(|response| response.status().as_u16() == 200) else {
            return RegistryError::NoImage { registry, repository };
        };
        let mut bytes = Vec::new();
        let read = response
            .body_mut()
            .as_reader()
            .take(PAGE_MAX)
            .read_to_end(&mut bytes);
        let known = match read
            .ok()
            .and_then(|_| serde_json::from_slice::<Tags>(&bytes).ok())
        {
            Some(Tags { tags: Some(tags) }) if !tags.is_empty() => known_tags(&tags),
            _ => "it has no tags that could be listed".to_owned(),
        };
        RegistryError::NoTag {
            registry,
            repository,
            wanted: wanted.to_owned(),
            known,
        }
    }
}

#[derive(serde::Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

/// The last ones, which are mostly the newest.
fn known_tags(tags: &[String]) -> String {
    const SHOWN: usize = 10;
    let some: Vec<_> = tags
        .iter()
        .rev()
        .take(SHOWN)
        .rev()
        .map(|tag| shown(tag))
        .collect();
    match tags.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("it has {}, and {more} more", some.join(", ")),
        _ => format!("it has {}", some.join(", ")),
    }
}

/// Without what a terminal would obey.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(128)
        .collect()
}

/// The registry's own words for an error (distribution specification §error codes).
pub(super) fn told(response: &mut Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Page {
        errors: Vec<Fault>,
    }
    #[derive(serde::Deserialize)]
    struct Fault {
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    let read = response
        .body_mut()
        .as_reader()
        .take(PAGE_MAX)
        .read_to_end(&mut bytes);
    let page = read
        .ok()
        .and_then(|_| serde_json::from_slice::<Page>(&bytes).ok());
    let message = page
        .and_then(|page| page.errors.into_iter().next())
        .map(|fault| fault.message);
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!(" (\"{}\")", shown(&message)),
        None => String::new(),
    }
}

/// How long the registry asks to wait (RFC 9110 §10.2.3), where it says so in seconds.
pub(super) fn seconds(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tags_are_listed_and_none_of_them_steers_a_terminal() {
        let tags = |count: usize| (0..count).map(|n| format!("{n}\u{1b}[2J")).collect::<Vec<_>>();
        assert_eq!(known_tags(&tags(2)), "it has 0?[2J, 1?[2J");
        let many = known_tags(&tags(500));
        assert!(many.contains("499?") && many.ends_with("and 490 more"), "{many}");
    }
}
