//! The sink `webhook` of a subscription: an endpoint of the subscriber that is called over HTTPS.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Secret;
use super::load::World;
use super::reading::document::Found;
use super::reading::scalar;
use super::reading::section::Section;

/// Keys of one endpoint: each makes every request larger.
const MOST_KEYS: usize = 4;

const MODES: [(&str, Mode); 3] = [("binary", Mode::Binary), ("structured", Mode::Structured), ("batch", Mode::Batch)];

#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// May hold a token.
    pub url: Secret,
    pub mode: Mode,
    /// Each signs every request.
    pub signing_keys: Vec<Secret>,
    /// Events of one request at most, in batches.
    pub batch: usize,
    /// Requests under way at once.
    pub concurrency: usize,
    /// For a whole request.
    pub timeout: Duration,
    /// Networks that may be called: over HTTPS beside the public internet, in the clear alone.
    pub allow: Vec<Network>,
    /// PEM file of the authorities that are trusted instead of the public ones.
    pub ca: Option<PathBuf>,
    /// PEM file of a certificate and its key, to be shown to the endpoint.
    pub client_certificate: Option<PathBuf>,
}

/// Content mode of the CloudEvents HTTP binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One event in a request, its attributes in headers.
    Binary,
    /// One event in a request, all of it in the body.
    Structured,
    /// Many events in a request.
    Batch,
}

/// Addresses that share their first bits, as `10.1.0.0/16`; one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// An address as bits from the left, and how many it has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl Network {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (bits(self.address), bits(address));
        // Of no bits at all everything is left.
        let differing = (own ^ other).checked_shr(128 - u32::from(self.bits)).unwrap_or(0);
        width == other_width && differing == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = || "must be a network as 10.1.0.0/16, or an address".to_owned();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| unreadable())?;
        let (own, width) = bits(address);
        let bits = prefix.map_or(Ok(width), str::parse).map_err(|_| unreadable())?;
        if bits > width {
            return Err(unreadable());
        }
        if own.checked_shl(u32::from(bits)).unwrap_or(0) != 0 {
            return Err(format!("names an address within the network: {address}/{width}, or the network's first address"));
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A key of Standard Webhooks, decoded.
#[derive(Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// `whsec_…`: known to both sides.
    Shared(Vec<u8>),
    /// `whsk_…`: the seed of an ed25519 key; the receiver has `whpk_…`.
    Own([u8; 32]),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// Reads a key; the error completes "a key …" and holds nothing of it.
///
/// # Errors
/// When it is none.
pub fn signing_key(text: &str) -> Result<SigningKey, String> {
    let decoded = |text: &str| STANDARD.decode(text).map_err(|_| "is not in base64 after its prefix".to_owned());
    if let Some(rest) = text.strip_prefix("whsec_") {
        let key = decoded(rest)?;
        return match key.len() {
            24..=64 => Ok(SigningKey::Shared(key)),
            length => Err(format!("has {length} bytes after `whsec_`, not 24 to 64")),
        };
    }
    let Some(rest) = text.strip_prefix("whsk_") else {
        return Err("begins with neither `whsec_` nor `whsk_`".to_owned());
    };
    let key = decoded(rest)?;
    // The seed alone, or with the public key behind it.
    match (key.len(), key.first_chunk::<32>()) {
        (32 | 64, Some(seed)) => Ok(SigningKey::Own(*seed)),
        (length, _) => Err(format!("has {length} bytes after `whsk_`, not 32 or 64")),
    }
}

/// Every key of the section.
pub(super) const KEYS: [&str; 9] =
    ["url", "mode", "signing_keys", "batch", "concurrency", "timeout", "allow", "ca", "client_certificate"];

pub(super) fn read(section: &Section<'_>, world: &World<'_>) -> Option<Webhook> {
    let url = section.required("url", |section, key| {
        let found = section.text(key)?;
        let url = world.surroundings.secret(section, key, &found)?;
        world.surroundings.check_url(section, key, &found, url, endpoint)
    });
    let mode = section.choice("mode", &MODES).map_or(Mode::Binary, |found| found.value);
    let signing_keys = section.required("signing_keys", |section, key| read_keys(section, key, world));
    let allow = section.texts("allow").map_or_else(Vec::new, |found| read_networks(section, found.value));
    if url.as_ref().is_some_and(|url| url.reveal().starts_with("http://")) && allow.is_empty() {
        let help = "use https://, or name in `allow` the network that the endpoint is in".to_owned();
        section.problem(&section.value_at("url"), "in-the-clear", "`url` would send records in the clear", Some(help));
    }
    let batch = section.number("batch", 1..1_001);
    if let (Some(batch), false) = (&batch, mode == Mode::Batch) {
        let help = "add mode = \"batch\", or leave it out".to_owned();
        section.problem(&batch.at, "no-batches", "`batch` is for the mode \"batch\" alone", Some(help));
    }
    let number = |found: Option<Found<u32>>, usual| found.map_or(usual, |found| usize::try_from(found.value).unwrap_or(usual));
    let concurrency = number(section.number("concurrency", 1..65), 8);
    let timeout = section.parsed("timeout", limit).map_or(Duration::from_secs(15), |found| found.value);
    let file = |key: &str| section.words(key).map(|found| world.surroundings.root.join(found.value));
    let (ca, client_certificate) = (file("ca"), file("client_certificate"));
    let (url, signing_keys, batch) = (url?, signing_keys?, number(batch, 100));
    Some(Webhook { url, mode, signing_keys, batch, concurrency, timeout, allow, ca, client_certificate })
}

/// An address that can be called: what of it is wrong, without showing any of it.
fn endpoint(url: &str) -> Result<(), String> {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if authority.contains('@') {
        return Err("must not hold a user or password: the signatures say who calls".to_owned());
    }
    scalar::http_url(url).map(drop)
}

/// How long a request may take. A longer one would hold up what follows, a shorter one has no chance.
fn limit(text: &str) -> Result<Duration, String> {
    let limit = scalar::duration(text)?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(300);
    if bounds.contains(&limit) { Ok(limit) } else { Err("must be from 100 ms to 5 min".to_owned()) }
}

fn read_networks(section: &Section<'_>, texts: Vec<Found<String>>) -> Vec<Network> {
    let network = |text: Found<String>| match text.value.parse() {
        Ok(network) => Some(network),
        Err(why) => {
            section.problem(&text.at, "bad-value", format_args!("`allow` {why}"), None);
            None
        }
    };
    texts.into_iter().filter_map(network).collect()
}

fn read_keys(section: &Section<'_>, key: &str, world: &World<'_>) -> Option<Vec<Secret>> {
    let found = section.texts(key)?;
    if found.value.is_empty() {
        let help = "one, and a second one while they change".to_owned();
        section.problem(&found.at, "empty", "`signing_keys` names no key", Some(help));
        return None;
    }
    if found.value.len() > MOST_KEYS {
        let message = format!("`signing_keys` names {} keys; at most {MOST_KEYS}", found.value.len());
        section.problem(&found.at, "bad-value", message, Some("remove those that no receiver knows any more".to_owned()));
        return None;
    }
    let mut keys = Vec::with_capacity(found.value.len());
    for text in found.value {
        let Some(secret) = world.surroundings.secret(section, key, &text) else { continue };
        // Only an unset secret leaves it empty, where that is tolerated.
        if !secret.reveal().is_empty()
            && let Err(why) = signing_key(secret.reveal())
        {
            let help = "make one with: echo whsec_$(openssl rand -base64 32)".to_owned();
            section.problem(&text.at, "bad-value", format_args!("a key of `signing_keys` {why}"), Some(help));
            continue;
        }
        keys.push(secret);
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.1.0.0/16", "10.1.255.1") && !holds("10.1.0.0/16", "10.2.0.0"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        for wrong in ["10.1.0.0/33", "10.1.2.3/16", "ten", "10.0.0.0/x", "/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_told_apart_and_wrong_ones_say_nothing_of_themselves() {
        let seed = STANDARD.encode([7; 32]);
        assert_eq!(signing_key(&format!("whsk_{seed}")), Ok(SigningKey::Own([7; 32])));
        assert_eq!(signing_key(&format!("whsec_{seed}")), Ok(SigningKey::Shared(vec![7; 32])));
        for wrong in ["whsec_c2VjcmV0", "geheim", "whsk_c2VjcmV0", "whsec_!secret!"] {
            let why = signing_key(wrong).unwrap_err();
            assert!(!why.contains("c2Vj") && !why.contains("geheim") && !why.contains("secret!"), "{why}");
        }
    }
}
