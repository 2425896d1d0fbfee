//! Which addresses may be called. A name is resolved, what it resolves to is held against the rule, and only what passed is
//! connected to: a name that points into the exchange's own network, now or later, leads nowhere.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use guitong_schemas::contract::webhook::Network;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The rule of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    /// Networks that may be called whatever they are.
    networks: Arc<[Network]>,
    /// Addresses of the public internet may be called as well.
    public: bool,
}

/// No address of a host may be called.
#[derive(Debug)]
pub(crate) struct NotAllowed {
    host: String,
    first: Option<IpAddr>,
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some(address) => write!(f, "{} is at {address}, an address that the sink's `allow` does not name", self.host),
            None => write!(f, "{} has no address", self.host),
        }
    }
}

impl Error for NotAllowed {}

impl Allowed {
    pub(crate) fn new(networks: &[Network], public: bool) -> Self {
        Self { networks: networks.into(), public }
    }

    fn takes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        (self.public && is_public(address)) || self.networks.iter().any(|network| network.contains(address))
    }

    /// Checks an address that stands in a URL itself. Names are checked where they are resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(literal) => self.among(host, vec![literal]).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Those of `addresses` that may be called; an error where there is none.
    fn among(&self, host: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, NotAllowed> {
        let first = addresses.first().copied();
        let taken: Vec<_> = addresses.into_iter().filter(|address| self.takes(*address)).collect();
        if taken.is_empty() { Err(NotAllowed { host: host.to_owned(), first }) } else { Ok(taken) }
    }
}

impl Resolve for Allowed {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let addresses = tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect();
            let taken = allowed.among(host, addresses)?;
            // The port of the address that is called takes the place of 0.
            let addresses: Addrs = Box::new(taken.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok::<_, Box<dyn Error + Send + Sync>>(addresses)
        })
    }
}

/// Whether an address belongs to the public internet (IANA special-purpose address registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!((a, b, c), (0 | 10 | 127 | 224.., _, _) | (100, 64..=127, _) | (169, 254, _) | (172, 16..=31, _))
        || matches!(
            (a, b, c),
            (192, 0, 0 | 2) | (192, 88, 99) | (192, 168, _) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113)
        );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Global unicast is 2000::/3; of it, 2001::/23 is for protocols, 2001:db8::/32 for documentation, 2002::/16 leads to IPv4.
    let [first, second, ..] = address.segments();
    (first & 0xE000 == 0x2000) && !(first == 0x2001 && (second < 0x200 || second == 0xDB8)) && first != 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_and_what_is_named_is_called() {
        let public = ["8.8.8.8", "114.114.114.114", "2408:8000::1", "100.63.0.1", "172.32.0.1"];
        let private = [
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::",
        ];
        let rule = Allowed::new(&[], true);
        let takes = |rule: &Allowed, text: &str| rule.takes(text.parse().unwrap());
        assert!(public.iter().all(|text| takes(&rule, text)));
        let taken: Vec<_> = private.iter().filter(|text| takes(&rule, text)).collect();
        assert!(taken.is_empty(), "{taken:?}");
        let url = |text: &str| Url::parse(text).unwrap();
        // However an address is written, the URL holds it in one form.
        for text in
            ["https://127.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/"]
        {
            assert!(rule.check(&url(text)).is_err(), "{text}");
        }
        assert!(rule.check(&url("https://8.8.8.8/")).is_ok() && rule.check(&url("https://hall.example/")).is_ok());
        let named = Allowed::new(&["10.1.0.0/16".parse().unwrap()], false);
        assert!(takes(&named, "10.1.2.3") && takes(&named, "::ffff:10.1.9.9"));
        assert!(!takes(&named, "10.2.0.1") && !takes(&named, "8.8.8.8"));
    }
}
