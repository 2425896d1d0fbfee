//! The token by which a subscriber is known: 256 random bits, of which only the hash is kept.

use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{OutboxFile, micros_now};
use crate::sink::SinkError;
use crate::sql::sqlite::sink_error;

/// What tokens begin with, so that one that lies where it should not is recognised.
const PREFIX: &str = "gt_";

const PUT: &str = "INSERT INTO guitong_tokens (subscription, holder, hash, expires_us) VALUES ($1, $2, $3, $4)
    ON CONFLICT (subscription) DO UPDATE SET holder = excluded.holder, hash = excluded.hash, expires_us = excluded.expires_us";
const GET: &str = "SELECT hash, expires_us FROM guitong_tokens WHERE subscription = $1 AND holder = $2";

/// A new token; it is shown once and prints as `***` in between.
pub struct Token(String);

impl Token {
    /// The token itself, for the one place that hands it out.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl OutboxFile {
    /// Gives a subscription of the department `holder` a new token; the one before is void at once. With the moment at which it
    /// ends, microseconds since 1970-01-01T00:00Z.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn issue(&self, subscription: &str, holder: &str, valid: Duration) -> Result<(Token, i64), SinkError> {
        self.make().await?;
        // The thread's generator is a cryptographic one, seeded by the operating system.
        let token = Token(format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>())));
        let expires_us = micros_now().saturating_add(i64::try_from(valid.as_micros()).unwrap_or(i64::MAX));
        let put = sqlx::query(PUT).bind(subscription.to_owned()).bind(holder.to_owned());
        let put = put.bind(hash(token.reveal()).to_vec()).bind(expires_us);
        put.execute(&self.writer.pool).await.map_err(sink_error)?;
        Ok((token, expires_us))
    }

    /// Whether `token` is the subscription's, given to `holder`, and valid now. The answer takes as long for a subscription that has
    /// none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn admits(&self, subscription: &str, holder: &str, token: &str) -> Result<bool, SinkError> {
        if !self.exists() {
            return Ok(false);
        }
        self.make().await?;
        let get = sqlx::query_as::<_, (Vec<u8>, i64)>(GET).bind(subscription.to_owned()).bind(holder.to_owned());
        let stored = get.fetch_optional(&self.readers).await.map_err(sink_error)?;
        let known = stored.is_some();
        let (stored, expires_us) = stored.unwrap_or_else(|| (vec![0; 32], 0));
        let same = bool::from(hash(token).as_slice().ct_eq(&stored));
        Ok(same & known & (micros_now() < expires_us))
    }
}

/// Of a random token a plain hash keeps everything: there is nothing to guess.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
