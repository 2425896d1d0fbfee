//! The section `store` of a sink `files`: a bucket of an object store that speaks S3.

use std::net::IpAddr;
use std::path::PathBuf;

use super::super::Secret;
use super::super::load::Surroundings;
use super::super::reading::scalar;
use super::super::reading::section::Section;

/// What stores that have no regions take.
const REGION: &str = "us-east-1";
/// S3's bounds of a bucket's name; and of a prefix, which leaves room for a file's name in the 1024 of a key.
const BUCKET: std::ops::RangeInclusive<usize> = 3..=63;
const PREFIX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// `https://host:port`; `http` on this machine alone.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    /// In front of files' names, without a slash at either end; may be empty.
    pub prefix: String,
    pub addressing: Addressing,
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    /// PEM file of the authorities that are trusted instead of the public ones.
    pub ca: Option<PathBuf>,
}

/// Where in an address the bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Host,
}

const ADDRESSINGS: [(&str, Addressing); 2] = [("path", Addressing::Path), ("host", Addressing::Host)];

pub(super) fn read(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<Bucket> {
    let endpoint = section.required("endpoint", |section, key| section.parsed(key, endpoint));
    let region = section.words("region").map_or_else(|| REGION.to_owned(), |found| found.value);
    let bucket = section.required("bucket", |section, key| section.parsed(key, bucket_name));
    let prefix = section.parsed("prefix", prefix);
    let wrong = section.has("prefix") && prefix.is_none();
    let addressing = section.choice("addressing", &ADDRESSINGS).map_or(Addressing::Path, |found| found.value);
    let secret = |key: &str| {
        section.required(key, |section, key| {
            let found = section.text(key)?;
            surroundings.secret(section, key, &found)
        })
    };
    let (access_key_id, secret_access_key) = (secret("access_key_id"), secret("secret_access_key"));
    let ca = section.words("ca").map(|found| surroundings.root.join(found.value));
    section.finish();
    let prefix = prefix.map(|found| found.value).unwrap_or_default();
    let read = Bucket {
        endpoint: endpoint?.value,
        region,
        bucket: bucket?.value,
        prefix,
        addressing,
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
        ca,
    };
    (!wrong).then_some(read)
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = scalar::http_url(text)?;
    let (scheme, authority) = url.split_once("://").unwrap_or_default();
    if authority.contains(['/', '?', '#']) {
        return Err("must end with its host and port: `bucket` and `prefix` say the rest".to_owned());
    }
    if scheme == "http" && !is_loopback(authority) {
        return Err("would send records in the clear: use https://; http:// is for this machine alone".to_owned());
    }
    Ok(url)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bucket_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if BUCKET.contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("must have 3 to 63 of the characters a-z, 0-9, `.` and `-`".to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        !part.is_empty() && part.bytes().all(allowed) && !part.bytes().all(|b| b == b'.')
    };
    if text.len() <= PREFIX && text.split('/').all(part) {
        return Ok(text.to_owned());
    }
    Err(format!("must have at most {PREFIX} of the characters a-z, A-Z, 0-9, `.`, `_` and `-`, its parts separated by one `/`"))
}
