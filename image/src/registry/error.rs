//! What can go wrong with a registry.

use std::error::Error;
use std::path::PathBuf;

use crate::{CredentialsError, Digest};

/// A registry does not give an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It has nothing of that name.
    #[error("{registry} has no image {repository}; check its name, or push it first")]
    NoImage {
        /// Host, with port if one was given.
        registry: String,
        /// Path within the registry.
        repository: String,
    },
    /// It has the image, but not this tag or digest.
    #[error("{registry} has {repository}, but not {wanted}; {known}")]
    NoTag {
        /// Host.
        registry: String,
        /// Path within the registry.
        repository: String,
        /// Tag or digest.
        wanted: String,
        /// Tags that there are, in words.
        known: String,
    },
    /// The manifest names something that the registry does not have.
    #[error("{registry} has lost a part of {repository}: {what} is missing; push the image again")]
    NoPart {
        /// Host.
        registry: String,
        /// Path within the registry.
        repository: String,
        /// Digest.
        what: String,
    },
    /// It wants to know who asks, or does not let them.
    #[error("{registry} refuses {repository} to {who}; {hint}")]
    Unauthorized {
        /// Host.
        registry: String,
        /// Path within the registry.
        repository: String,
        /// User, or that there is none.
        who: String,
        /// What would be right.
        hint: String,
    },
    /// No connection, or one that broke before an answer came.
    #[error("{registry} cannot be reached ({url}); is it up, is its name right, does it speak {scheme}?")]
    Unreachable {
        /// Host.
        registry: String,
        /// What was asked for.
        url: String,
        /// `https` or `http`.
        scheme: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answered, but with an error of its own.
    #[error("{registry} answers {status} for {what}{told}; try again later")]
    Status {
        /// Host.
        registry: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its own words, if there were some.
        told: String,
    },
    /// The connection ended in the middle, again and again.
    #[error("{registry} cut {what} off after {got} of {size} bytes; pull again to continue from there")]
    Cut {
        /// Host.
        registry: String,
        /// Digest.
        what: String,
        /// Bytes that are here.
        got: u64,
        /// Bytes that there should be.
        size: u64,
        /// Why.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The bytes have another digest than what was asked for.
    #[error("{registry} sent something else for {expected}: it has the digest {actual}; do not trust it")]
    Digest {
        /// Host.
        registry: String,
        /// Asked for.
        expected: Digest,
        /// Of the bytes.
        actual: Digest,
    },
    /// More bytes than the manifest says.
    #[error("{registry} sends more than the {size} bytes that {what} should have")]
    Long {
        /// Host.
        registry: String,
        /// Digest.
        what: String,
        /// In the manifest.
        size: u64,
    },
    /// A document or answer is larger than its cap.
    #[error("{registry} sends more than {limit} bytes for {what}, which no registry needs")]
    Large {
        /// Host.
        registry: String,
        /// What was asked for.
        what: String,
        /// The cap.
        limit: u64,
    },
    /// Layers that are larger together than an image may be.
    #[error("its layers have {size} bytes together, more than {limit}, the largest size that is pulled")]
    Total {
        /// In the manifest.
        size: u64,
        /// The cap.
        limit: u64,
    },
    /// The disk is full, or would be.
    #[error("{path} has no space for the layers: {needed} bytes are missing; remove images or make space")]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes.
        needed: u64,
    },
    /// Its token service cannot be used.
    #[error("{registry} wants a token of {realm}, which cannot be had: {why}")]
    Token {
        /// Host.
        registry: String,
        /// URL of the service.
        realm: String,
        /// Why, in a few words.
        why: &'static str,
    },
    /// Certificate authorities cannot be read.
    #[error("{path}: no certificate authorities can be read from it, so {registry} cannot be trusted")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Host.
        registry: String,
        /// Why, if it is not empty.
        source: Option<std::io::Error>,
    },
    /// The user's credentials cannot be read.
    #[error("the credentials for {registry} cannot be used")]
    Credentials {
        /// Host.
        registry: String,
        /// Why.
        source: CredentialsError,
    },
    /// A part of the work was broken off because another part failed.
    #[error("the download was broken off")]
    BrokenOff,
}
