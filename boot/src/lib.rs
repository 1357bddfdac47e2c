//! Koya.
