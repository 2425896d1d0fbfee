//! Signatures of Standard Webhooks 1.0.0 over `<id>.<timestamp>.<body>`: `v1` (HMAC-SHA256) for keys `whsec_…`, `v1a` (ed25519)
//! for keys `whsk_…`. Every key signs, so that a receiver that knows the old or the new one of a rotation takes the request.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::webhook::{SigningKey, signing_key};
use ring::hmac;
use ring::signature::Ed25519KeyPair;

use crate::sink::{SinkError, SinkErrorKind};

/// The keys of one endpoint.
pub(crate) struct Signer(Vec<Key>);

enum Key {
    Hmac(hmac::Key),
    Ed25519(Box<Ed25519KeyPair>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.0.len())
    }
}

impl Signer {
    pub(crate) fn new(keys: &[Secret]) -> Result<Self, SinkError> {
        let unusable = |why: String| SinkError::new(SinkErrorKind::Shape, format!("a key of `signing_keys` {why}"));
        let key = |secret: &Secret| -> Result<Key, SinkError> {
            Ok(match signing_key(secret.reveal()).map_err(unusable)? {
                SigningKey::Shared(bytes) => Key::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
                SigningKey::Own(seed) => {
                    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| unusable(error.to_string()))?;
                    Key::Ed25519(Box::new(pair))
                }
            })
        };
        Ok(Self(keys.iter().map(key).collect::<Result<_, _>>()?))
    }

    /// The header `webhook-signature`. `timestamp`: seconds since 1970-01-01T00:00Z.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let one = |key: &Key| match key {
            Key::Hmac(key) => format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed))),
            Key::Ed25519(pair) => format!("v1a,{}", STANDARD.encode(pair.sign(&signed))),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The sample of the Standard Webhooks libraries.
    #[test]
    fn a_shared_key_signs_as_standard_webhooks_says() {
        let signer = Signer::new(&[Secret::new(SHARED.into())]).unwrap();
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_of_a_rotation_signs_and_none_is_printed() {
        let own = format!("whsk_{}", STANDARD.encode([7; 32]));
        let signer = Signer::new(&[Secret::new(SHARED.into()), Secret::new(own)]).unwrap();
        let signature = signer.sign("evt_1", 1, b"{}");
        let kinds: Vec<_> = signature.split(' ').map(|one| one.split(',').next().unwrap_or_default()).collect();
        assert_eq!(kinds, ["v1", "v1a"]);
        assert_eq!(format!("{signer:?}"), "Signer(2 keys)");
    }
}
