//! A small exchange whose subscriber pulls, and that subscriber.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use apache_avro::types::Value as Avro;
use guitong_tests::exchange::{COMPANIES, Exchange, Layout, Node, credit_code};
use reqwest::header::{ACCEPT, HeaderMap};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const NAME: &str = "credit-enterprise";
/// The line of the subscription that masks a name.
pub(crate) const MASK: &str = "masks = { legal_rep_name = \"name\" }\n";

pub(crate) async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(PATIENCE).connect().await.unwrap()
}

pub(crate) async fn run(connection: &mut SqliteConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

/// A department with three companies and an exchange from which its subscriber pulls.
pub(crate) async fn exchange() -> (Exchange, SqliteConnection) {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"pull\"\n".to_owned(),
    })
    .unwrap();
    change(&exchange, "\n[sink]", &format!("{MASK}\n[sink]"));
    let mut department = open(&exchange.path().join("department.db")).await;
    run(&mut department, format!("PRAGMA journal_mode = WAL; {COMPANIES}")).await;
    for number in 1..=3 {
        run(&mut department, company(number)).await;
    }
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{}", prepared.err);
    (exchange, department)
}

pub(crate) fn company(number: u32) -> String {
    format!("INSERT INTO qy VALUES ({number}, '{}', '公司{number}', '韦小明');", credit_code(number))
}

pub(crate) fn token(exchange: &Exchange) -> String {
    let issued = exchange.command(&["subscription", "token", NAME]).unwrap();
    assert_eq!(issued.code, Some(0), "{}", issued.err);
    issued.out.trim().to_owned()
}

/// Changes the subscription's file.
pub(crate) fn change(exchange: &Exchange, from: &str, to: &str) {
    let path = exchange.path().join(format!("subscriptions/{NAME}.toml"));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// A node that is ready, and the subscriber with his token.
pub(crate) async fn serve(exchange: &Exchange) -> (Node, Subscriber<'_>) {
    let node = exchange.start().unwrap();
    exchange.get("/readyz", PATIENCE).await.unwrap();
    (node, Subscriber::new(exchange, token(exchange)))
}

pub(crate) struct Subscriber<'e> {
    pub(crate) exchange: &'e Exchange,
    pub(crate) http: reqwest::Client,
    pub(crate) token: String,
}

impl<'e> Subscriber<'e> {
    pub(crate) fn new(exchange: &'e Exchange, token: String) -> Self {
        Self { exchange, http: reqwest::Client::new(), token }
    }

    pub(crate) fn get(&self, rest: &str) -> RequestBuilder {
        self.http.get(self.exchange.url(&format!("/v1/subscriptions/{NAME}/{rest}"))).bearer_auth(&self.token)
    }

    pub(crate) async fn send(&self, rest: &str) -> Response {
        self.get(rest).send().await.unwrap()
    }

    /// The answer once it is one; what the node says of itself meanwhile, and a node that is not there, is waited for.
    pub(crate) async fn json(&self, rest: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match self.get(rest).send().await {
                Ok(response) if response.status().is_success() => match response.json().await {
                    Ok(json) => return json,
                    Err(error) => error.to_string(),
                },
                Ok(response) if response.status() != 503 => panic!("{rest}: {}", response.text().await.unwrap()),
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            assert!(Instant::now() < deadline, "{rest}: {last}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An answer in Avro: its headers, and its records as a library of its own reads them.
    pub(crate) async fn avro(&self, rest: &str) -> (HeaderMap, Vec<Fields>) {
        let response = self.get(rest).header(ACCEPT, "application/avro").send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        assert_eq!((status, &headers["content-type"]), (200, &"application/avro".parse().unwrap()));
        let bytes = response.bytes().await.unwrap();
        let records = apache_avro::Reader::new(&bytes[..]).unwrap().map(|record| match record.unwrap() {
            Avro::Record(fields) => fields,
            other => panic!("{other:?}"),
        });
        (headers, records.collect())
    }

    /// The problem that an answer is, with its status.
    pub(crate) async fn problem(&self, rest: &str) -> (u16, Value) {
        problem(self.send(rest).await).await
    }
}

/// The fields of a record by their names, in order.
pub(crate) type Fields = Vec<(String, Avro)>;

/// A field's value, in whatever union.
pub(crate) fn field(record: &Fields, name: &str) -> Avro {
    match record.iter().find(|(field, _)| field == name).unwrap().1.clone() {
        Avro::Union(_, value) => *value,
        value => value,
    }
}

/// What a text in JSON, or none, is in Avro.
pub(crate) fn text(value: &Value) -> Avro {
    value.as_str().map_or(Avro::Null, |text| Avro::String(text.to_owned()))
}

pub(crate) async fn problem(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let media = response.headers().get("content-type").cloned();
    let text = response.text().await.unwrap();
    assert_eq!(media.unwrap(), "application/problem+json", "{status}: {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["status"], status, "{body:#}");
    (status, body)
}

/// What a subscriber makes of the events that it read.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) rows: BTreeMap<String, String>,
    pub(crate) cursor: Option<String>,
    pub(crate) position: u64,
    pub(crate) events: usize,
}

impl Held {
    /// Reads one page and applies it; positions come one after the other.
    pub(crate) async fn pull(&mut self, subscriber: &Subscriber<'_>, limit: u32) {
        let after = self.cursor.as_ref().map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let page = subscriber.json(&format!("events?limit={limit}&wait=1{after}")).await;
        for event in page["events"].as_array().unwrap() {
            let position = position(event["cursor"].as_str().unwrap());
            assert_eq!(position, self.position + 1, "nothing is left out and nothing comes again: {event}");
            self.position = position;
            self.events += 1;
            let key = event["key"]["uscc"].as_str().unwrap().to_owned();
            match event["op"].as_str().unwrap() {
                "upsert" => self.rows.insert(key, event["record"]["name"].as_str().unwrap().to_owned()),
                _ => self.rows.remove(&key),
            };
        }
        self.cursor = Some(page["next"].as_str().unwrap().to_owned());
    }

    pub(crate) async fn until(&mut self, subscriber: &Subscriber<'_>, wanted: &BTreeMap<String, String>) {
        let deadline = Instant::now() + PATIENCE;
        while self.rows != *wanted {
            assert!(Instant::now() < deadline, "{} rows, not {}", self.rows.len(), wanted.len());
            self.pull(subscriber, 50).await;
        }
    }
}

pub(crate) fn position(cursor: &str) -> u64 {
    cursor.split_once('-').unwrap().1.parse().unwrap()
}

pub(crate) fn named(numbers: impl Iterator<Item = u32>) -> BTreeMap<String, String> {
    numbers.map(|number| (credit_code(number), format!("公司{number}"))).collect()
}
