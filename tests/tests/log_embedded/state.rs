//! Keyed state beyond what is gathered in memory: it goes into its table meanwhile, and nothing of that shows.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_log::{Batch, ExchangeLog, OwnedLog, StateChange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, SqliteConnection};

use super::{open, owner};

const MAPS: [&str; 2] = ["source", "entity"];

type Model = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// Entries are changed and removed again and again, far more than memory gathers; the log is closed in the middle of writing them
/// into the table, and opened again.
#[tokio::test(flavor = "multi_thread")]
async fn state_that_outgrows_memory_is_what_was_committed() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for _ in 0..4 {
        let log = open(&dir).await;
        let mut hold = log.open(&owner("state")).await.unwrap();
        compare(&*hold, &model, &mut random).await;
        for _ in 0..20 {
            hold.append(batch(&mut model, &mut random)).await.unwrap();
            if random.random_bool(0.2) {
                compare(&*hold, &model, &mut random).await;
            }
        }
        drop(hold);
        log.close().await;
    }
    let log = open(&dir).await;
    let hold = log.open(&owner("state")).await.unwrap();
    compare(&*hold, &model, &mut random).await;
    log.close().await;
    // Most of it is in the table, none of it only in memory.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(log.path());
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM state").fetch_one(&mut conn).await.unwrap();
    let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM state_run").fetch_one(&mut conn).await.unwrap();
    assert!(rows > 1000 && runs < 60, "{rows} entries in the table, {runs} runs not in it");
}

fn batch(model: &mut Model, random: &mut StdRng) -> Batch {
    let mut state = Vec::new();
    for _ in 0..500 {
        let map = MAPS[random.random_range(0..2)];
        let key = format!("{:05}", random.random_range(0..20_000)).into_bytes();
        let value = random.random_bool(0.8).then(|| vec![random.random::<u8>(); random.random_range(0..4000)]);
        match &value {
            Some(value) => model.insert((map, key.clone()), value.clone()),
            None => model.remove(&(map, key.clone())),
        };
        state.push(StateChange { map: map.into(), key: key.into(), value: value.map(Into::into) });
    }
    Batch { state, ..Batch::default() }
}

async fn compare(hold: &dyn OwnedLog, model: &Model, random: &mut StdRng) {
    for map in MAPS {
        let prefix = [&b""[..], b"1", b"07", b"193"][random.random_range(0..4)];
        let expected = model.iter().filter(|((of, key), _)| *of == map && key.starts_with(prefix));
        let expected: Vec<_> = expected.map(|((_, key), value)| (Bytes::from(key.clone()), Bytes::from(value.clone()))).collect();
        let page = random.random_range(1..3000);
        let mut scanned: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let after = scanned.last().map(|(key, _)| key.clone());
            let some = hold.scan(map, prefix, after.as_deref(), page).await.unwrap();
            assert!(some.len() <= page);
            if some.is_empty() {
                break;
            }
            scanned.extend(some);
        }
        assert!(scanned == expected, "map {map}, prefix {prefix:?}: {} scanned, {} expected", scanned.len(), expected.len());
        let keys: Vec<Bytes> = (0..600).map(|_| format!("{:05}", random.random_range(0..20_000)).into()).collect();
        for (key, found) in keys.iter().zip(hold.get(map, &keys).await.unwrap()) {
            assert!(found.as_deref() == model.get(&(map, key.to_vec())).map(Vec::as_slice), "map {map}, key {key:?}");
        }
    }
}
