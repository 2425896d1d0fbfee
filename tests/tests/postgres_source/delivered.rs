//! What the exchange itself delivers into a database that it tails is not sent around again.

use guitong_schemas::delivered::{Delivered, MESSAGES};
use guitong_tests::servers::postgres::{ADMIN, Options, Postgres};

use super::harness::*;
use super::in_progress::streamed;

/// A transaction of a sink that writes into the table `received`.
fn delivery(statements: &str) -> String {
    let tables = vec![("public".to_owned(), "received".to_owned())];
    let delivered = Delivered { exchange: "exchange".into(), tables }.content();
    format!("BEGIN; SELECT pg_logical_emit_message(true, '{MESSAGES}', '{delivered}'); {statements}; COMMIT")
}

async fn server() -> Postgres {
    let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "64kB")).await.unwrap();
    let tables = "CREATE TABLE received (id int PRIMARY KEY, name text); CREATE TABLE made (id int PRIMARY KEY, name text);
        CREATE FUNCTION make() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO made VALUES (NEW.id, NEW.name); RETURN NEW; END $$;
        CREATE TRIGGER make AFTER INSERT ON received FOR EACH ROW EXECUTE FUNCTION make()";
    server.execute(tables).await.unwrap();
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_is_passed_over_and_what_a_trigger_makes_of_it_is_not() {
    // A few rows, and so many that the server sends them before the commit.
    for (rows, early) in [(3, false), (2_000, true)] {
        let server = server().await;
        let exchange = Exchange::new().await;
        let system = system(&server, ADMIN);
        let mut session = exchange.connect_with(&system, 20_000).await.unwrap();
        session.load().await;
        let delivered = delivery(&format!(
            "INSERT INTO received SELECT n, '企业' || n FROM generate_series(1, {rows}) n; UPDATE received SET name = 'x';
             DELETE FROM received WHERE id = 1"
        ));
        server.execute(&delivered).await.unwrap();
        server.execute("UPDATE received SET name = 'by hand' WHERE id = 2; TRUNCATE received").await.unwrap();
        server.execute(&delivery("TRUNCATE received")).await.unwrap();
        let mut all = session.until(|all| !all.is_empty()).await;
        drop(session);
        let mut session = exchange.reconnect(&system).await;
        all.extend(session.until(|more| all.len() + more.len() >= rows + 2).await);
        session.quiet().await;
        let mut wanted: Vec<_> = (1..=rows).map(|n| format!("c made [{n},企业{n}]")).collect();
        wanted.extend(["u received [2,by hand]".to_owned(), "t received".to_owned()]);
        assert_eq!(lines(&all), wanted);
        assert_rising(&all);
        assert_eq!(streamed(&server, SLOT).await > 0, early);
        let passed = exchange.metric("guitong_postgres_delivered_changes_total");
        assert!(passed > 2 * rows as u64, "{passed}");
    }
}

/// What another exchange delivers is news, and whatever else is written under the prefix hides nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_marked_in_another_way_is_published() {
    let server = server().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system(&server, ADMIN)).await.unwrap();
    session.load().await;
    let of = |exchange: &str, table: &str| {
        let tables = vec![("public".to_owned(), table.to_owned())];
        Delivered { exchange: exchange.into(), tables }.content()
    };
    // Of another table, of another exchange, and what is none.
    let contents = [of("exchange", "other"), of("region", "received"), String::new(), "delivered [\"received\"]".into()];
    for (id, content) in (1..).zip(contents) {
        let write = format!(
            "BEGIN; SELECT pg_logical_emit_message(true, '{MESSAGES}', '{content}'); INSERT INTO received VALUES ({id}, 'a'); COMMIT"
        );
        server.execute(&write).await.unwrap();
        assert_eq!(lines(&session.take(2).await), [format!("c received [{id},a]"), format!("c made [{id},a]")], "{content}");
    }
}
