//! A backlog of changes to one local endpoint, in batches and one by one: the whole deliverer on the embedded log, and beside it a
//! plain HTTP client that posts bodies as large, signs nothing, remembers nothing and keeps no order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_tests::receiver::{KEY, whsec};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::backlog::Backlog;
use crate::rounds::{Verdict, grouped, median};
use crate::{Failure, Outcome};

struct Way {
    title: &'static str,
    mode: Mode,
    records: u64,
    /// Events of one request.
    batch: usize,
    /// Events a second.
    bar: f64,
}

const WAYS: [Way; 2] = [
    Way { title: "webhook, 100 events a request", mode: Mode::Batch, records: 50_000, batch: 100, bar: 5_000.0 },
    Way { title: "webhook, one event a request", mode: Mode::Binary, records: 10_000, batch: 1, bar: 1_000.0 },
];

const CONCURRENCY: usize = 8;

pub(crate) async fn run(runs: usize) -> Outcome {
    let endpoint = Endpoint::start().await?;
    for way in WAYS {
        let mut backlog = Backlog::new().await?;
        backlog.fill(way.records).await?;
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for number in 0..runs {
            let before = endpoint.bytes.load(Ordering::Relaxed);
            ours.push(
                way.records as f64 / backlog.deliver(&format!("run-{number}"), sink(&endpoint, &way)?).await?.took.as_secs_f64(),
            );
            let body = (endpoint.bytes.load(Ordering::Relaxed) - before) as usize / (way.records as usize / way.batch);
            plain.push(way.records as f64 / post(&endpoint, &way, body).await?.as_secs_f64());
        }
        println!("{} ({runs} alternating runs, medians)", way.title);
        for (name, rates) in [("ours", &mut ours), ("plain client", &mut plain)] {
            let median = median(rates);
            print!("  {name:<14} {:>9} events/s  ({} to ", grouped(median), grouped(rates.first().copied().unwrap_or_default()));
            print!("{})", grouped(rates.last().copied().unwrap_or_default()));
            match name {
                "ours" if median >= way.bar => println!("  bar {}: met", grouped(way.bar)),
                "ours" => println!("  bar {}: NOT met", grouped(way.bar)),
                _ => println!(),
            }
        }
    }
    Ok(Verdict::Valid)
}

/// Answers 200 to everything, on loopback.
struct Endpoint {
    port: u16,
    /// Of bodies.
    bytes: Arc<AtomicU64>,
}

impl Endpoint {
    async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, bytes) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&counted)));
            }
        });
        Ok(Self { port, bytes })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }
}

async fn answer(stream: TcpStream, bytes: Arc<AtomicU64>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let (mut line, mut length, mut body) = (String::new(), 0, Vec::new());
    while stream.read_line(&mut line).await? > 0 {
        let head = line.trim_end().to_ascii_lowercase();
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        } else if head.is_empty() {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
            bytes.fetch_add(length as u64, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            stream.flush().await?;
        }
        line.clear();
    }
    Ok(())
}

fn sink(endpoint: &Endpoint, way: &Way) -> Result<SinkConfig, Failure> {
    Ok(SinkConfig::Webhook(Box::new(Webhook {
        url: Secret::new(endpoint.url()),
        mode: way.mode,
        signing_keys: vec![Secret::new(whsec(KEY))],
        batch: way.batch,
        concurrency: CONCURRENCY,
        timeout: Duration::from_secs(15),
        allow: vec!["127.0.0.1".parse()?],
        ca: None,
        client_certificate: None,
    })))
}

/// The time that a plain client takes for the same requests.
async fn post(endpoint: &Endpoint, way: &Way, body: usize) -> Result<Duration, Failure> {
    let (client, url, body) = (reqwest::Client::builder().no_proxy().build()?, endpoint.url(), Bytes::from(vec![b' '; body]));
    let begun = Instant::now();
    let requests = (0..way.records / way.batch as u64).map(|_| client.post(&url).body(body.clone()).send());
    let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
    while let Some(answer) = answers.next().await {
        answer?.error_for_status()?;
    }
    Ok(begun.elapsed())
}
