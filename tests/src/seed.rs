//! Seeds of random tests.

/// A new seed, or the one that `GUITONG_SEED` gives to replay; printed, so that a failure can be replayed.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var("GUITONG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("GUITONG_SEED={seed}");
    seed
}
