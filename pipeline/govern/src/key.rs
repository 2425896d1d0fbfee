//! Keys: the canonical form of an entity's key, and the keyed hashes that stand for what must not be shown.

use std::fmt;

use guitong_schemas::standard::StandardValue;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Canonical bytes of an entity key: for each part its length as a big-endian `u32`, then its UTF-8 text. No two keys share them.
#[must_use]
pub(crate) fn canonical(parts: &[StandardValue<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for part in parts {
        // Key parts are texts by the standard's rule; an absent conditional part is the empty text.
        let text = part.as_text().unwrap_or_default().as_bytes();
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(text);
    }
    out
}

/// A subscription's secret, ready to hash with.
#[derive(Clone)]
pub(crate) struct HashKey(Hmac<Sha256>);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}

impl HashKey {
    pub(crate) fn new(secret: &str) -> Self {
        Self(new_hmac(secret.as_bytes()))
    }

    /// `guitong_key`: the first 16 bytes of HMAC-SHA256 over the canonical key.
    pub(crate) fn key(&self, canonical: &[u8]) -> [u8; 16] {
        self.hash(canonical)
    }

    /// What the mask `hash` shows of a value. The leading byte keeps it apart from every canonical key, whose first byte is the
    /// high byte of a length below 2^24.
    pub(crate) fn value(&self, value: &[u8]) -> [u8; 16] {
        let mut hmac = self.0.clone();
        hmac.update(&[0xFF]);
        hmac.update(value);
        first_half(&hmac.finalize().into_bytes().into())
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 16] {
        let mut hmac = self.0.clone();
        hmac.update(bytes);
        first_half(&hmac.finalize().into_bytes().into())
    }
}

fn first_half(whole: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&whole[..16]);
    out
}

#[allow(clippy::expect_used)]
fn new_hmac(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length (RFC 2104)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_share_their_canonical_form() {
        let of = |parts: &[&str]| canonical(&parts.iter().map(|part| StandardValue::Text((*part).into())).collect::<Vec<_>>());
        assert_ne!(of(&["a/b", "c"]), of(&["a", "b/c"]));
        assert_ne!(of(&["ab", ""]), of(&["a", "b"]));
        assert_eq!(of(&["ab"]), [0, 0, 0, 2, b'a', b'b']);
    }

    /// RFC 4231, test case 2, cut to its first half.
    #[test]
    fn the_hash_is_hmac_sha256() {
        assert_eq!(hex::encode(HashKey::new("Jefe").key(b"what do ya want for nothing?")), "5bdcc146bf60754e6a042426089575c7");
    }
}
