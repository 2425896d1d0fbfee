//! A node stops in mid-transaction, and its slot changes hands.

use std::pin::pin;

use guitong_tests::servers::proxy::ADD_OFFSETS_TO_TXN;
use tokio::task::JoinHandle;

use super::*;

type Append = JoinHandle<Result<Box<dyn OwnedLog>, AppendError>>;

/// A node that has appended 0 and whose append of `n` stands still at the first request of this kind.
async fn stopped_at(api_key: i16, cluster: &Cluster, n: u64) -> (Arc<KafkaLog>, Append) {
    let node = Arc::new(cluster.behind_proxy(20_000).await);
    make_topic(&node).await;
    let mut hold = node.open(&owner()).await.unwrap();
    hold.append(numbered(0)).await.unwrap();
    cluster.proxy.set(Mode::HoldRequest { api_key });
    let appending = tokio::spawn(async move { hold.append(numbered(n)).await.map(|_| hold) });
    // A request that is never sent would never be held.
    tokio::time::timeout(Duration::from_secs(30), cluster.proxy.reached(Mode::Hold)).await.unwrap();
    (node, appending)
}

/// Ends a node's membership while its commit is held up, so that it does not come back for its slots as soon as it can go on.
async fn leave(log: &Arc<KafkaLog>) -> JoinHandle<()> {
    let mut placement = log.placement();
    let closed = Arc::clone(log);
    let closing = tokio::spawn(async move { closed.close().await });
    let holds_none =
        |placement: &Placement| matches!(placement, Placement::Slots(roles) if roles.iter().all(|(_, slots)| slots.is_empty()));
    tokio::time::timeout(Duration::from_secs(30), placement.wait_for(holds_none)).await.unwrap().unwrap();
    closing
}

/// A node stops between the brokers' fencing and its commit, and loses its slot meanwhile. The new holder waits for that commit:
/// had it gone on without, it would have done the same work again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_holder_waits_for_a_commit_that_was_under_way_when_the_slot_changed_hands() {
    let cluster = Cluster::start().await;
    let (a, committing) = stopped_at(END_TXN, &cluster, 1).await;
    let b = cluster.direct().await;
    let at = TopicPartition::new(TOPIC, 0);
    let (written, readable) = (b.written(&at).await.unwrap(), b.bounds(&at).await.unwrap().end);
    assert!(written > readable, "what is written counts {written} and not only the {readable} that can be read");
    wait_for_slot(&b).await;
    let owner = owner();
    let mut opening = pin!(b.open(&owner));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut opening).await;
    assert!(early.is_err(), "opened over a transaction that is not decided");
    let closing = leave(&a).await;
    cluster.proxy.set(Mode::Pass);
    assert_eq!(stands(&*opening.await.unwrap()), Some(1));
    // What the former holder asked of the group before it ended may bring about another rebalance, in which a hold ends.
    append_until(&b, 2, &watch::Sender::new(0)).await;
    if let Ok(mut older) = committing.await.unwrap() {
        let late = older.append(numbered(9)).await.unwrap_err();
        assert!(matches!(late, AppendError::Refused(LogError::Fenced { .. })), "{late:?}");
    }
    assert_eq!(read_numbers(&b).await, [0, 1, 2]);
    closing.await.unwrap();
    b.close().await;
}

/// A node's records come only after its slot changed hands and the new holder noted where the slot ends. The brokers do not let them
/// pass: had they been asked before the records were there, the commit would be one that the new holder did not wait for.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_come_after_the_slot_changed_hands_are_never_seen() {
    let cluster = Cluster::start().await;
    let (a, late) = stopped_at(PRODUCE, &cluster, 9).await;
    let b = cluster.direct().await;
    wait_for_slot(&b).await;
    let newer = b.open(&owner()).await.unwrap();
    assert_eq!((stands(&*newer), held_state(&*newer).await), (Some(0), Some(0)));
    let closing = leave(&a).await;
    cluster.proxy.set(Mode::Pass);
    let late = late.await.unwrap().map(|_| ()).unwrap_err();
    assert!(matches!(late, AppendError::Refused(_)), "{late:?}");
    // What the former holder asked of the group before it ended may bring about another rebalance, in which a hold ends.
    append_until(&b, 1, &watch::Sender::new(0)).await;
    assert_eq!(read_numbers(&b).await, [0, 1]);
    closing.await.unwrap();
    b.close().await;
}

/// A node stops once its records are written; its slot is another's by the time it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_slot_while_it_stood_still_writes_nothing() {
    let cluster = Cluster::start().await;
    let (a, late) = stopped_at(ADD_OFFSETS_TO_TXN, &cluster, 9).await;
    let b = cluster.direct().await;
    wait_for_slot(&b).await;
    cluster.proxy.set(Mode::Pass);
    let late = late.await.unwrap().map(|_| ()).unwrap_err();
    assert!(matches!(late, AppendError::Refused(LogError::Fenced { .. })), "{late:?}");
    // Back in the group, it may have been given the slot again.
    a.close().await;
    let mut newer = b.open(&owner()).await.unwrap();
    assert_eq!((stands(&*newer), held_state(&*newer).await), (Some(0), Some(0)));
    newer.append(numbered(1)).await.unwrap();
    assert_eq!(read_numbers(&b).await, [0, 1]);
    b.close().await;
}
