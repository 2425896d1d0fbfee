//! The node is killed again and again under load; in the end every subscriber's table equals its source: each key's last value,
//! no row missing, none twice. The seed that replays a run is printed.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};
use guitong_tests::receiver::{Answer, KEY, Receiver, whsec};
use guitong_tests::seed;
use guitong_tests::servers::kafka::Kafka;
use guitong_tests::servers::moto::{Moto, Objects};
use guitong_tests::servers::postgres::{PASSWORD, Postgres};
use guitong_tests::servers::proxy::{Mode, Proxy};
use guitong_tests::servers::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgPool;
use sqlx::{Executor, Row};

/// Kills in the quick suite; `GUITONG_FULL=1` makes it a long one.
fn kills() -> u32 {
    if std::env::var_os("GUITONG_FULL").is_some() { 25 } else { 4 }
}

/// The department's clerks, and the companies they know.
struct Clerks {
    pool: PgPool,
    random: StdRng,
    next: u32,
    /// Row key -> number of the credit code it holds.
    rows: BTreeMap<i64, u32>,
}

impl Clerks {
    fn choose(&mut self) -> Option<i64> {
        let at = self.random.random_range(0..self.rows.len().max(1));
        self.rows.keys().nth(at).copied()
    }

    async fn insert(&mut self) {
        let number = self.next;
        self.next += 1;
        let statement = sqlx::query("INSERT INTO qy VALUES ($1, $2, $3, '韦小明')");
        statement
            .bind(i64::from(number))
            .bind(credit_code(number))
            .bind(format!("公司{number}"))
            .execute(&self.pool)
            .await
            .unwrap();
        self.rows.insert(i64::from(number), number);
    }

    /// One transaction of the clerks.
    async fn act(&mut self) {
        let Some(row) = self.choose() else { return self.insert().await };
        match self.random.random_range(0..10) {
            0..=2 => self.insert().await,
            3..=5 => {
                let name = format!("更名{}", self.random.random::<u32>());
                sqlx::query("UPDATE qy SET qymc = $2 WHERE bh = $1").bind(row).bind(name).execute(&self.pool).await.unwrap();
            }
            6 => {
                sqlx::query("DELETE FROM qy WHERE bh = $1").bind(row).execute(&self.pool).await.unwrap();
                self.rows.remove(&row);
            }
            7 => self.swap(row).await,
            8 => self.move_key(row).await,
            _ => self.rolled_back(row).await,
        }
    }

    /// Two rows swap their credit codes in one transaction.
    async fn swap(&mut self, one: i64) {
        let Some(other) = self.choose().filter(|&other| other != one) else { return };
        let (a, b) = (self.rows[&one], self.rows[&other]);
        let mut transaction = self.pool.begin().await.unwrap();
        for (row, number) in [(one, b), (other, a)] {
            let statement = sqlx::query("UPDATE qy SET tyshxydm = $2 WHERE bh = $1");
            statement.bind(row).bind(credit_code(number)).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
        self.rows.insert(one, b);
        self.rows.insert(other, a);
    }

    /// The row gets another primary key.
    async fn move_key(&mut self, row: i64) {
        let to = i64::from(self.next);
        self.next += 1;
        sqlx::query("UPDATE qy SET bh = $2 WHERE bh = $1").bind(row).bind(to).execute(&self.pool).await.unwrap();
        if let Some(number) = self.rows.remove(&row) {
            self.rows.insert(to, number);
        }
    }

    async fn rolled_back(&mut self, row: i64) {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("UPDATE qy SET qymc = '不应出现' WHERE bh = $1").bind(row).execute(&mut *transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    }
}

async fn held(pool: &PgPool, sql: &'static str) -> Option<Vec<(String, Option<String>, Option<String>)>> {
    let rows = sqlx::query(sql).fetch_all(pool).await.ok()?;
    Some(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

async fn survives_kills(log: String, random_seed: u64) {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    server.create_database("subscriber").await.unwrap();
    server.create_role("guitong", "REPLICATION").await.unwrap();
    let source = server.admin_of("department").await.unwrap();
    let sink = server.admin_of("subscriber").await.unwrap();
    source.execute(COMPANIES).await.unwrap();
    source.execute("GRANT SELECT ON qy TO guitong; CREATE PUBLICATION test_licensing FOR TABLE qy").await.unwrap();
    sink.execute("GRANT CREATE ON SCHEMA public TO guitong").await.unwrap();
    let mut clerks = Clerks { pool: source.clone(), random: StdRng::seed_from_u64(random_seed), next: 1, rows: BTreeMap::new() };
    for _ in 0..3_000 {
        clerks.insert().await;
    }

    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("guitong", PASSWORD, "department")),
        schema: "public",
        log,
        sink: format!(
            "kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.enterprise\"\n",
            server.url_of("guitong", PASSWORD, "subscriber")
        ),
    })
    .unwrap();
    for _ in 0..kills() {
        let node = exchange.start().unwrap();
        let until = Instant::now() + Duration::from_millis(clerks.random.random_range(300..4_000));
        while Instant::now() < until {
            clerks.act().await;
        }
        node.kill().unwrap();
        for _ in 0..20 {
            clerks.act().await;
        }
    }

    let node = exchange.start().unwrap();
    let truth = held(&source, "SELECT tyshxydm, qymc, fddbr FROM qy ORDER BY tyshxydm COLLATE \"C\"").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut arrived = None;
    while Instant::now() < deadline {
        arrived = held(&sink, "SELECT uscc, name, legal_rep_name FROM enterprise ORDER BY uscc COLLATE \"C\"").await;
        if arrived.as_ref() == Some(&truth) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = exchange.status(Duration::from_secs(5)).await.unwrap();
    let arrived = arrived.unwrap_or_default();
    let missing = truth.iter().filter(|row| !arrived.contains(row)).count();
    assert!(
        arrived == truth,
        "seed {random_seed}: {} rows at the source, {} at the sink, {missing} missing\n{status:#}",
        truth.len(),
        arrived.len()
    );
    let (code, time) = node.terminate().unwrap();
    assert_eq!(code, Some(0), "a drained stop");
    assert!(time < Duration::from_secs(10), "stopped in {time:?}");
}

/// A department of 200 companies.
async fn department(random_seed: u64) -> (Postgres, Clerks) {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    server.create_role("guitong", "REPLICATION").await.unwrap();
    let pool = server.admin_of("department").await.unwrap();
    pool.execute(COMPANIES).await.unwrap();
    pool.execute("GRANT SELECT ON qy TO guitong; CREATE PUBLICATION test_licensing FOR TABLE qy").await.unwrap();
    let mut clerks = Clerks { pool, random: StdRng::seed_from_u64(random_seed), next: 1, rows: BTreeMap::new() };
    for _ in 0..200 {
        clerks.insert().await;
    }
    (server, clerks)
}

impl Clerks {
    /// They work until something else is done; what one of them has begun is finished: they would not know what of it the database has.
    async fn act_until(&mut self, done: impl Future<Output = ()>) {
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                () = &mut done => break,
                () = std::future::ready(()) => self.act().await,
            }
        }
    }

    /// Names of companies by their codes.
    async fn truth(&self) -> HashMap<String, String> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT tyshxydm, qymc FROM qy").fetch_all(&self.pool).await.unwrap();
        let count = rows.len();
        let truth: HashMap<String, String> = rows.into_iter().collect();
        assert_eq!(truth.len(), count, "two rows of the source share a code");
        truth
    }
}

/// The endpoint takes an event, and the node is killed before it hears of it: the event comes again under its id, or a later one of
/// its row does; in the end the endpoint holds what the source has.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_sends_an_endpoint_the_same_events_again() {
    let random_seed = seed();
    let (server, mut clerks) = department(random_seed).await;
    let receiver = Receiver::start().await;
    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("guitong", PASSWORD, "department")),
        schema: "public",
        log: String::new(),
        sink: format!(
            "kind = \"webhook\"\nurl = \"http://127.0.0.1:{}/events\"\nsigning_keys = [\"{}\"]\nallow = [\"127.0.0.1\"]\n",
            receiver.port(),
            whsec(KEY)
        ),
    })
    .unwrap();
    for _ in 0..kills() {
        let skipped = clerks.random.random_range(0..40);
        (0..skipped).for_each(|_| receiver.then(Answer::Status(204)));
        receiver.then(Answer::Silence);
        let node = exchange.start().unwrap();
        clerks.act_until(receiver.is_silent()).await;
        node.kill().unwrap();
    }

    let node = exchange.start().unwrap();
    let truth = clerks.truth().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while receiver.holds("name") != truth && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = exchange.status(Duration::from_secs(5)).await.unwrap();
    assert!(receiver.holds("name") == truth, "seed {random_seed}: the endpoint does not hold what the source has\n{status:#}");
    assert_eq!(node.terminate().unwrap().0, Some(0), "a drained stop");

    let taken = receiver.taken();
    let mut by_id = HashMap::new();
    for came in &taken {
        let same = by_id.entry(&came.id).or_insert((&came.subject, &came.sequence, &came.data));
        assert_eq!(*same, (&came.subject, &came.sequence, &came.data), "seed {random_seed}: one id, one event");
    }
    assert!(by_id.len() < taken.len(), "seed {random_seed}: something came again");
    let mut newest: HashMap<&str, &str> = HashMap::new();
    for came in &taken {
        let before = newest.insert(&came.subject, &came.sequence).unwrap_or_default();
        assert!(before <= &*came.sequence, "seed {random_seed}: {} goes back", came.subject);
    }
}

/// The store takes an object or its manifest, and the node is killed before it hears of it: what is there already is not made again,
/// what is not told of comes again under its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_puts_the_same_objects_again() {
    let random_seed = seed();
    let (server, mut clerks) = department(random_seed).await;
    let store = Moto::start().await.unwrap();
    store.make("exchange").await.unwrap();
    let bucket = store.bucket("exchange", "credit");
    let (listener, port) = Proxy::bind().await.unwrap();
    let proxy = Proxy::start(listener, bucket.endpoint.rsplit(':').next().unwrap().parse().unwrap()).unwrap();
    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("guitong", PASSWORD, "department")),
        schema: "public",
        log: String::new(),
        sink: format!(
            "kind = \"files\"\nformat = \"jsonl\"\nstate = \"credit\"\nclose = {{ after = \"50 ms\" }}\n\n[sink.store]\n\
             endpoint = \"http://127.0.0.1:{port}\"\nbucket = \"exchange\"\nprefix = \"credit\"\n\
             access_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
            bucket.access_key_id.reveal(),
            bucket.secret_access_key.reveal()
        ),
    })
    .unwrap();
    for _ in 0..kills() {
        // An object and its manifest are looked for and put with some 1,300 bytes of answers.
        proxy.set(Mode::CutAt { received: proxy.received() + clerks.random.random_range(300..4_000) });
        let node = exchange.start().unwrap();
        clerks.act_until(proxy.reached(Mode::Cut)).await;
        node.kill().unwrap();
        proxy.set(Mode::Pass);
    }

    let node = exchange.start().unwrap();
    let truth = clerks.truth().await;
    let objects = Objects::of(&bucket).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while told(&objects).await != truth && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = exchange.status(Duration::from_secs(5)).await.unwrap();
    assert!(told(&objects).await == truth, "seed {random_seed}: the bucket does not tell what the source has\n{status:#}");
    assert_eq!(node.terminate().unwrap().0, Some(0), "a drained stop");
}

/// Names by codes, as who applies each file that a manifest names has them; each change is in one file.
async fn told(objects: &Objects) -> HashMap<String, String> {
    let (mut held, mut next) = (HashMap::new(), 1);
    for name in objects.names().await.unwrap().iter().filter(|name| name.ends_with(".manifest.json")) {
        let manifest: Value = serde_json::from_slice(&objects.read(name).await.unwrap().unwrap().0).unwrap();
        for file in manifest["files"].as_array().unwrap() {
            let (bytes, _) = objects.read(file["name"].as_str().unwrap()).await.unwrap().unwrap();
            assert_eq!(file["sha256"], hex::encode(Sha256::digest(&bytes)), "{name}");
            assert_eq!(file["first"], next, "{name}: no gap, and nothing twice");
            next = file["last"].as_u64().unwrap() + 1;
            for line in std::str::from_utf8(&bytes).unwrap().lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                let text = |field: &str| row[field].as_str().unwrap().to_owned();
                match text("guitong_op").as_str() {
                    "delete" => drop(held.remove(&text("uscc"))),
                    _ => drop(held.insert(text("uscc"), text("name"))),
                }
            }
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_log_nothing_is_lost_and_nothing_doubled() {
    survives_kills(String::new(), seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_kafka_nothing_is_lost_and_nothing_doubled() {
    let kafka = Kafka::start().await.unwrap();
    let registry = Registry::start().await.unwrap();
    let log = format!(
        "[log]\nkind = \"kafka\"\nbrokers = [\"{}\"]\nreplication_factor = 1\n\n[registry]\nurl = \"{}\"\n",
        kafka.bootstrap(),
        registry.url()
    );
    survives_kills(log, seed()).await;
}
