//! Logical messages, outbox events among them, and transaction metadata: each comes once, also where the process ends before its slot is confirmed.

use std::time::{Duration, Instant};

use guitong_connectors::source::{Source, SourceBudget};
use guitong_schemas::avro::form::Outbox;
use guitong_schemas::change::{Change, Notice, Order, Place};
use guitong_tests::servers::postgres::{ADMIN, Postgres};

use super::harness::{Exchange, Session, lines, system};

/// Publishes until there are so many notices; nothing is confirmed.
async fn take(session: &mut Session, count: usize) -> (Vec<Notice>, Vec<Change>) {
    let (deadline, budget) =
        (Instant::now() + Duration::from_secs(60), SourceBudget { bytes: 1, wait: Duration::from_millis(50) });
    let (mut notices, mut changes) = (Vec::new(), Vec::new());
    while notices.len() < count {
        assert!(Instant::now() < deadline, "{notices:?}");
        let batch = session.source.next_batch(budget).await.unwrap();
        notices.extend(batch.notices.clone());
        changes.extend(batch.changes.clone());
        session.publisher.publish(batch).await.unwrap();
    }
    (notices, changes)
}

fn text(notice: &Notice) -> String {
    match notice {
        Notice::Begin(mark) => format!("begin {}", mark.xid > 0),
        Notice::End { events, tables, .. } => format!("end {events} {tables:?}"),
        Notice::Message { prefix, content, origin, .. } => {
            let Place::Postgres { xid, order, .. } = origin.place else { panic!("{origin:?}") };
            format!("{prefix}: {} {} {:?}", String::from_utf8_lossy(content), xid.is_some(), order.map(|order| order.total))
        }
    }
}

fn order(change: &Change) -> Option<Order> {
    match change.origin.place {
        Place::Postgres { order, .. } => order,
        Place::Changelog { .. } => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_transactions_come_once_over_a_crash() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await.unwrap();
    let mut system = system(&server, ADMIN);
    system.form.transactions = true;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server
        .execute(
            "BEGIN; INSERT INTO a VALUES (1); SELECT pg_logical_emit_message(true, 'app', 'inside'); INSERT INTO b VALUES (1); \
             INSERT INTO a VALUES (2); COMMIT; SELECT pg_logical_emit_message(false, 'app', 'alone')",
        )
        .await
        .unwrap();
    let (notices, changes) = take(&mut session, 4).await;
    let wanted = [
        "begin true",
        "app: inside true Some(2)",
        "end 4 [(\"public.a\", 2), (\"message\", 1), (\"public.b\", 1)]",
        "app: alone false None",
    ];
    assert_eq!(notices.iter().map(text).collect::<Vec<_>>(), wanted);
    let orders = [(1, 1), (3, 1), (4, 2)].map(|(total, in_table)| Some(Order { total, in_table }));
    assert_eq!(changes.iter().map(order).collect::<Vec<_>>(), orders);

    drop(session);
    server.execute("SELECT pg_logical_emit_message(true, 'app', 'after')").await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    let (notices, changes) = take(&mut session, 3).await;
    let wanted = ["begin true", "app: after true Some(1)", "end 1 [(\"message\", 1)]"];
    assert_eq!(notices.iter().map(text).collect::<Vec<_>>(), wanted);
    assert!(changes.is_empty());
}

/// A message outside of transactions ends where the record of a commit can begin: that it was published says nothing of the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_right_after_a_message_survives_a_restart() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = system(&server, ADMIN);
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    for id in 1..=10 {
        let write = format!("BEGIN; INSERT INTO a VALUES ({id}); SELECT pg_logical_emit_message(false, 'app', '{id}'); COMMIT");
        server.execute(&write).await.unwrap();
        // A batch of the message alone.
        let (notices, changes) = take(&mut session, 1).await;
        assert!(notices.len() == 1 && changes.is_empty(), "{notices:?} {changes:?}");
        drop(session);
        session = exchange.reconnect(&system).await;
        assert_eq!(lines(&session.take(1).await), [format!("c a [{id}]")]);
    }
    session.quiet().await;
}

/// What a transaction says beside its rows stands or falls with it, and comes once over a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_events_come_once_and_with_their_transaction_alone() {
    const EVENT: &str = "json_build_object('id', gen_random_uuid(), 'aggregatetype', '订单', 'aggregateid', $id, 'type', 'Placed', \
        'payload', json_build_object('no', $id, 'note', '加急'), 'timestamp', now())::text";
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    let mut system = system(&server, ADMIN);
    system.form.outbox = Some(Outbox::Prefix("outbox".to_owned()));
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let place = |id: u32, end: &str| {
        let event = EVENT.replace("$id", &id.to_string());
        format!("BEGIN; INSERT INTO a VALUES ({id}); SELECT pg_logical_emit_message(true, 'outbox', {event}); {end}")
    };
    let bad = "SELECT pg_logical_emit_message(true, 'outbox', 'no event')";
    for statement in [&*place(1, "COMMIT"), &*place(2, "ROLLBACK"), bad, &*place(3, "COMMIT")] {
        server.execute(statement).await.unwrap();
    }
    take(&mut session, 3).await;
    drop(session);
    server.execute(&place(4, "COMMIT")).await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    take(&mut session, 1).await;
    let records = exchange.records("raw.register.outbox-_u8ba2_u5355").await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let found: Vec<_> = records.iter().map(|it| (text(it.key.as_ref().unwrap()), text(it.value.as_ref().unwrap()))).collect();
    let wanted = [1, 3, 4].map(|id| (id.to_string(), format!(r#"{{"no" : {id}, "note" : "加急"}}"#)));
    assert_eq!(found, wanted);
    for record in &records {
        let names: Vec<_> = record.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["id", "eventType", "timestamp", "guitong-version"]);
        assert_eq!((record.header("id").unwrap().len(), &record.header("eventType").unwrap()[..]), (36, &b"Placed"[..]));
    }
    let messages = exchange.records("raw.register.message").await;
    let why: Vec<_> = messages.iter().map(|record| record.header("guitong-outbox-error").unwrap()).collect();
    assert_eq!(why, ["the content is not JSON (line 1, column 2)"]);
    assert_eq!(exchange.records("raw.register.public.a").await.len(), 3);
}
