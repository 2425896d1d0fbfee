//! The next batch is made ready while the present one is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use guitong_connectors::publish::Upcoming;
use guitong_connectors::source::SourceBatch;
use guitong_log::registry::SchemaRegistry;
use guitong_schemas::avro::{DecodePlan, frame};
use guitong_schemas::change::Operation;
use guitong_schemas::position::Version;
use guitong_schemas::table::Table;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Exchange, batch, change, row, rows_of, table};

/// A random history of 20 rows, some of which are long, in batches of a few.
fn history(random: &mut StdRng, table: &Arc<Table>) -> Vec<SourceBatch> {
    let (mut at, mut there) = (0, BTreeSet::new());
    let mut one = || {
        at += 1;
        let id = random.random_range(0..20_u32);
        let key = id.to_string();
        let long = "长".repeat(random.random_range(0..1_500));
        let number = if random.random_bool(0.05) { "x" } else { "1" };
        let known = there.contains(&id);
        match random.random_range(0..40) {
            0 => {
                there.clear();
                vec![change(table, Operation::Truncate, at, 0, None, None)]
            }
            1..12 if known => {
                there.remove(&id);
                vec![change(table, Operation::Delete, at, 0, Some(row(&[Some(&key), None, None])), None)]
            }
            12..25 if known => {
                vec![change(table, Operation::Update, at, 0, None, Some(row(&[Some(&key), Some("2"), Some("?")])))]
            }
            25..30 if known && there.insert(id + 1_000) => {
                there.remove(&id);
                let moved = row(&[Some(&(id + 1_000).to_string()), Some("3"), Some("?")]);
                let gone = change(table, Operation::Delete, at, 0, Some(row(&[Some(&key), None, None])), None);
                vec![gone, change(table, Operation::Create, at, 1, None, Some(moved))]
            }
            _ => {
                let operation = if there.insert(id) { Operation::Create } else { Operation::Update };
                vec![change(table, operation, at, 0, None, Some(row(&[Some(&key), Some(number), Some(&long)])))]
            }
        }
    };
    let batches = (0..240).map(|_| (0..2).flat_map(|_| one()).collect::<Vec<_>>()).collect::<Vec<_>>();
    batches.into_iter().map(|changes| batch(changes, "on")).collect()
}

/// What a subscriber sees, but for the time of publishing and for the order in which a truncate ends its keys.
async fn seen(exchange: &Exchange) -> Vec<(Version, String)> {
    let mut all = Vec::new();
    for record in exchange.records().await {
        let value = match &record.value {
            None => "tombstone".to_owned(),
            Some(value) => {
                let (id, body) = frame::read(value).unwrap();
                let plan = DecodePlan::compile(&exchange.registry.schema(id).await.unwrap()).unwrap();
                let envelope = plan.envelope(body).unwrap();
                format!("{:?} {:?} {:?}", envelope.operation, envelope.before, envelope.after)
            }
        };
        let (version, headers): (Vec<_>, Vec<_>) = record.headers.iter().partition(|(name, _)| &**name == "guitong-version");
        let version = version[0].1.to_vec();
        let version: Version = String::from_utf8(version).unwrap().parse().unwrap();
        let whole = Version { index: version.index.min(2), ..version };
        all.push((whole, format!("{:?} {headers:?} {value}", record.key)));
    }
    assert!(all.is_sorted_by_key(|(version, _)| *version));
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_made_ready_ahead_are_published_as_others() {
    let (seed, table) = (guitong_tests::seed(), table());
    let [one_by_one, ahead] = [Exchange::new().await, Exchange::new().await];
    let mut publisher = one_by_one.publisher(usize::MAX).await;
    for batch in history(&mut StdRng::seed_from_u64(seed), &table) {
        publisher.publish(batch).await.unwrap().unwrap();
    }
    let counted = publisher.totals();
    let mut publisher = ahead.publisher(usize::MAX).await;
    let mut batches = history(&mut StdRng::seed_from_u64(seed), &table).into_iter();
    let mut next = Upcoming::from(batches.next().unwrap());
    for batch in batches {
        let (durable, upcoming) = publisher.publish_while::<()>(next, std::future::ready(Ok(batch))).await.unwrap();
        assert_eq!(durable.unwrap().position(), "on");
        next = upcoming.unwrap();
    }
    publisher.publish(next).await.unwrap().unwrap();
    assert_eq!(publisher.totals().events, counted.events);
    assert_eq!((publisher.totals().lossy, publisher.totals().bytes), (counted.lossy, counted.bytes));
    let (wanted, got) = (seen(&one_by_one).await, seen(&ahead).await);
    assert!(wanted.len() > 400, "{}", wanted.len());
    for (wanted, got) in wanted.iter().zip(&got) {
        assert_eq!(wanted, got);
    }
    assert_eq!(wanted.len(), got.len());
}

/// What was made ready while a batch was refused goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_was_made_ready_is_left_where_the_batch_before_it_is_refused() {
    let (exchange, table) = (Exchange::new().await, table());
    let mut publisher = exchange.publisher(1).await;
    publisher.publish(batch(rows_of(&table, 0..3, 1), "a")).await.unwrap().unwrap();
    let (second, third) = (batch(rows_of(&table, 3..6, 2), "b"), batch(rows_of(&table, 6..9, 3), "c"));
    let failed = publisher.publish_while::<()>(second.into(), std::future::ready(Ok(third))).await.unwrap_err();
    assert!(failed.is_transient(), "{failed}");
    drop(publisher);
    let mut publisher = exchange.publisher(9).await;
    assert_eq!((publisher.position().unwrap(), publisher.totals().events), (Bytes::from_static(b"a"), 0));
    for (rows, position) in [(3..6, "b"), (6..9, "c")] {
        publisher.publish(batch(rows_of(&table, rows, 5), position)).await.unwrap().unwrap();
    }
    assert_eq!(exchange.records().await.len(), 9);
}
