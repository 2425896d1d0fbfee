//! Looks for every canary wherever bytes can come out, and holds what subscribers have against what they are to have.

use std::collections::BTreeMap;

use prometheus::{Encoder as _, TextEncoder};
use serde_json::Value;

use crate::canaries::Ids;
use crate::captured;
use crate::places::{Place, Rows};
use crate::world::{Subscriber, Wanted, World};

/// Records set aside that are shown.
const SHOWN: usize = 3;

pub(crate) async fn assert_entitled(world: &mut World, when: &str) {
    for at in 0..world.subscribers.len() {
        assert_sent(world, at, when);
        let subscriber = &world.subscribers[at];
        let what = format!("{} {when}, under {:?},", subscriber.name, subscriber.policy);
        let (served, now) = (subscriber.is_served(), world.now(subscriber));
        if served {
            assert_holds(world, subscriber, &what).await;
        }
        let puller = subscriber.running.as_ref().and_then(|running| running.handle.puller());
        let [shown, own] = subscriber.place.readable(&subscriber.name, &world.outbox(), puller).await;
        world.canaries.assert_only(&now, &shown, &format!("{what} what can be read"));
        // Keys of rows that were taken away are remembered as long as rows are known by them.
        let keyed = subscriber.policy.is_clear(&world.model);
        let kept: Ids = if keyed { now.union(&subscriber.knew).copied().collect() } else { now.clone() };
        world.canaries.assert_only(&kept, &own, &format!("{what} what the exchange keeps there"));
        world.canaries.assert_only(&subscriber.may, &subscriber.place.remains(), &format!("{what} what remains"));
        let logged = subscriber.place.logged(&subscriber.name);
        world.canaries.assert_only(&subscriber.may, &logged, &format!("{what} what its server logged"));
        let told = world.canaries.found(&logged).len();
        assert_told(world, subscriber, served, &now, &what).await;
        world.logged += told;
    }
    assert_kept(world, when).await;
}

/// What is granted has arrived, and no other row.
async fn assert_holds(world: &World, subscriber: &Subscriber, what: &str) {
    let puller = subscriber.running.as_ref().and_then(|running| running.handle.puller());
    let mut rows: Rows = subscriber.place.rows(&subscriber.name, &world.model, &subscriber.policy, puller).await;
    for wanted in world.wanted(subscriber) {
        match wanted {
            Wanted::Row((key, cells)) => {
                let held = rows.remove(&key);
                assert_eq!(held.as_ref(), Some(&cells), "{what} the row {key:?}; others are {:?}", rows.keys());
            }
            Wanted::Unknown(key) => drop(rows.remove(&key)),
        }
    }
    assert!(rows.is_empty(), "{what} rows that are not granted: {rows:?}");
}

/// What an endpoint was sent since the last look, under the policy in force: bodies, and headers with their names.
pub(crate) fn assert_sent(world: &mut World, at: usize, when: &str) {
    let subscriber = &world.subscribers[at];
    let Place::Webhook(receiver, _) = &subscriber.place else { return };
    let (now, requests) = (world.now(subscriber), receiver.requests());
    let what = format!("{} {when}, under {:?}, a request", subscriber.name, subscriber.policy);
    for request in &requests[subscriber.looked_at..] {
        let events = match serde_json::from_slice::<Value>(&request.body) {
            Ok(Value::Array(events)) => events.iter().map(|event| event.to_string().into_bytes()).collect(),
            _ => vec![request.body.clone()],
        };
        for event in events {
            let bytes = [event, format!("{:?}", request.headers).into_bytes()].concat();
            let text = String::from_utf8_lossy(&bytes);
            // Under a new policy rows that the endpoint has go under the key that it knows.
            let deletes = text.contains(".delete") && !text.contains(".upsert");
            let allowed: Ids = if deletes { now.union(&subscriber.knew).copied().collect() } else { now.clone() };
            world.canaries.assert_only(&allowed, &bytes, &what);
        }
    }
    world.subscribers[at].looked_at = requests.len();
}

/// What the exchange says of the subscription: its status, errors, what it has set aside.
async fn assert_told(world: &World, subscriber: &Subscriber, served: bool, now: &Ids, what: &str) {
    let Some(running) = &subscriber.running else { return };
    let status = format!("{:?}", *running.status.borrow());
    world.canaries.assert_only(&subscriber.may, status.as_bytes(), &format!("{what} the status"));
    let parked = running.handle.parked(None, usize::MAX).await.unwrap();
    let listed = serde_json::to_vec(&parked).unwrap();
    world.canaries.assert_only(now, &listed, &format!("{what} what is set aside"));
    for parked in parked.iter().take(SHOWN) {
        let shown = match running.handle.show(parked.place(), true).await {
            Ok(shown) => serde_json::to_string(&shown).unwrap(),
            Err(error) if !served => error.to_string(),
            Err(error) => panic!("{what}: {error}"),
        };
        world.canaries.assert_only(now, shown.as_bytes(), &format!("{what} a record set aside"));
    }
}

/// What the exchange keeps and tells of all: audit topics, logs, metrics.
pub(crate) async fn assert_kept(world: &World, when: &str) {
    let may: BTreeMap<&str, &Ids> =
        world.subscribers.iter().map(|subscriber| (subscriber.name.as_str(), &subscriber.may)).collect();
    for (subscription, document) in world.audited().await {
        world.canaries.assert_only(may[subscription.as_str()], &document, &format!("{when} an audit document of {subscription}"));
    }
    let nothing = Ids::new();
    for line in captured::lines() {
        let document: Value = serde_json::from_str(&line).unwrap();
        let subscription = document["subscription"].as_str();
        let allowed = subscription.and_then(|name| may.get(name)).copied().unwrap_or(&nothing);
        world.canaries.assert_only(allowed, line.as_bytes(), &format!("{when} a line of the log: {line}"));
    }
    let mut metrics = Vec::new();
    TextEncoder::new().encode(&world.registry.gather(), &mut metrics).unwrap();
    assert!(!metrics.is_empty());
    world.canaries.assert_only(&nothing, &metrics, &format!("{when} the metrics"));
}
