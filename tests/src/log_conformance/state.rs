//! Keyed state is what the committed batches made it.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_log::{AppendError, Batch, MAX_RECORD, OwnedLog, StateChange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::LogUnderTest;
use super::build::{keep, owner, record, records};
use crate::seed;

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

/// Nothing else is asked between a commit's answer and the look: what is answered is read, however far a local copy has come.
pub async fn state_is_there_with_the_answer_to_its_commit(fixture: &impl LogUnderTest) {
    const MANY: usize = 300;
    let log = fixture.open().await;
    let mut hold = log.open(&owner("prompt")).await.unwrap();
    let key = |number: usize| Bytes::from(format!("k{number}"));
    let change = |number, value| StateChange { map: MAPS[0].into(), key: key(number), value };
    let kept = vec![change(MANY, Some("first".into())), change(MANY + 1, Some("gone soon".into()))];
    hold.append(Batch { state: kept, ..Batch::default() }).await.unwrap();
    for round in 0..60_usize {
        let value = Bytes::from(format!("{round} {}", "x".repeat(400)));
        let mut state: Vec<_> = (0..MANY).map(|number| change(number, Some(value.clone()))).collect();
        state.push(change(MANY + 1, None));
        // One of the keys comes and goes.
        state.push(change(0, (round % 2 == 0).then(|| value.clone())));
        hold.append(Batch { state, ..Batch::default() }).await.unwrap();
        let asked = [key(MANY - 1), key(0), key(MANY), key(MANY + 1), key(MANY - 1)];
        let found = hold.get(MAPS[0], &asked).await.unwrap();
        let some = Some(value.clone());
        let expected = [some.clone(), some.clone().filter(|_| round % 2 == 0), Some("first".into()), None, some];
        assert_eq!(found, expected, "round {round}");
    }
    drop((hold, log));
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
