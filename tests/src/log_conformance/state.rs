//! Keyed state is what the committed batches made it.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_log::{AppendError, Batch, MAX_RECORD, OwnedLog, StateChange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::LogUnderTest;
use super::build::{keep, owner, record, records, seed};

const MAPS: [&str; 2] = ["source", "entity"];

type Model = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// Random batches, some refused, over two maps; looked up, scanned, and read again after a restart and without local copies.
pub async fn keyed_state_is_that_of_the_committed_batches(fixture: &impl LogUnderTest) {
    let mut random = StdRng::seed_from_u64(seed());
    let mut model = Model::new();
    let topic = fixture.topic("raw.state.public.t");
    for round in 0..3 {
        let log = fixture.open().await;
        log.ensure_topic(&keep(&topic, 1)).await.unwrap();
        let mut hold = log.open(&owner("state")).await.unwrap();
        compare(&*hold, &model, &mut random).await;
        for _ in 0..25 {
            let changes = changes(&mut random);
            let refused = random.random_bool(0.2);
            let mut batch = Batch { state: changes.clone(), ..records(vec![record(&topic, "k", "v")]) };
            if refused {
                batch.records[0].value = Some(Bytes::from(vec![0; MAX_RECORD + 1]));
                assert!(matches!(hold.append(batch).await, Err(AppendError::Refused(_))));
            } else {
                hold.append(batch).await.unwrap();
                apply(&mut model, changes);
            }
            compare(&*hold, &model, &mut random).await;
        }
        let other = log.open(&owner("stateless")).await.unwrap();
        assert!(other.scan(MAPS[0], b"", None, 10).await.unwrap().is_empty());
        drop((hold, other, log));
        fixture.close().await;
        if round > 0 {
            fixture.forget_local_copies().await;
        }
    }
    let log = fixture.open().await;
    compare(&*log.open(&owner("state")).await.unwrap(), &model, &mut random).await;
    fixture.close().await;
}

fn key(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(1..4);
    (0..length).map(|_| [0, b'a', b'b', 255][random.random_range(0..4)]).collect()
}

/// Sometimes several changes of one key, the last of which counts.
fn changes(random: &mut StdRng) -> Vec<StateChange> {
    let count = random.random_range(1..60);
    let mut change = || StateChange {
        map: MAPS[random.random_range(0..2)].into(),
        key: key(random).into(),
        value: random.random_bool(0.7).then(|| vec![random.random(); random.random_range(0..50)].into()),
    };
    (0..count).map(|_| change()).collect()
}

fn apply(model: &mut Model, changes: Vec<StateChange>) {
    for change in changes {
        let map = MAPS.into_iter().find(|map| **map == *change.map).unwrap();
        match change.value {
            Some(value) => model.insert((map, change.key.to_vec()), value.to_vec()),
            None => model.remove(&(map, change.key.to_vec())),
        };
    }
}

async fn compare(hold: &dyn OwnedLog, model: &Model, random: &mut StdRng) {
    for map in MAPS {
        let prefix = if random.random_bool(0.5) { Vec::new() } else { key(random) };
        let expected: Vec<_> = model
            .iter()
            .filter(|((of, key), _)| *of == map && key.starts_with(&prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let mut scanned = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = hold.scan(map, &prefix, after.as_deref(), 7).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            scanned.extend(page.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
        assert_eq!(scanned, expected, "map {map}, prefix {prefix:?}");
        let keys: Vec<Bytes> = (0..300).map(|_| key(random).into()).collect();
        let found = hold.get(map, &keys).await.unwrap();
        assert_eq!(found.len(), keys.len());
        for (key, found) in keys.iter().zip(found) {
            assert_eq!(found.as_deref(), model.get(&(map, key.to_vec())).map(Vec::as_slice), "map {map}, key {key:?}");
        }
    }
}
