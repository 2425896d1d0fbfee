//! Commit at the source to row at the subscriber, PostgreSQL to PostgreSQL through the released binary, at 1,000 commits a second that are
//! sent by the clock whether or not the exchange keeps up.
//!
//! A row's time runs from the return of its COMMIT (`synchronous_commit = on`, `fsync = on`) to the moment when another session of
//! the subscriber hears of it: a trigger on the subscriber's table notifies, which PostgreSQL sends after the commit. Both ends are
//! in this process, so there is one clock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_tests::exchange::{Node, credit_code};
use guitong_tests::servers::postgres::Postgres;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Mutex;

use crate::department::{self, Cluster, Department};
use crate::rounds::{Verdict, median};
use crate::{Failure, Outcome, load};

const RATE: u32 = 1000;
/// Not counted, in seconds: connections and plans are made.
const WARM: u32 = 4;
/// Not counted before the first run on a young broker, which needs twice the CPU until its JVM has compiled what it runs.
const YOUNG: u32 = 150;
const SECONDS: u32 = 10;
/// Sessions of clerks. One alone is bounded by the disk's sync.
const CLERKS: u32 = 8;
/// Rows that are still on their way after this are lost.
const LAST: Duration = Duration::from_secs(30);
/// Below this part of [`RATE`] the load was not what it should be.
const SLOWEST: f64 = 0.8;

/// A trigger that tells of each row, as soon as its commit shows it to others.
const ANNOUNCE: &str = "CREATE OR REPLACE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('arrived', NEW.uscc); RETURN NULL; END $$;
    CREATE OR REPLACE TRIGGER announce AFTER INSERT OR UPDATE ON enterprise FOR EACH ROW EXECUTE FUNCTION announce()";

/// One running exchange and the figures of its runs.
struct Contestant {
    name: &'static str,
    bars: (f64, f64),
    department: Department,
    next: u32,
    warm: u32,
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
    _node: Node,
    _directory: guitong_tests::exchange::Exchange,
    /// A server of its own: another's would decode this one's commits, too.
    _server: Postgres,
}

pub(crate) async fn run(runs: usize, with_kafka: bool) -> Outcome {
    let cluster = if with_kafka { Some(Cluster::start().await?) } else { None };
    let mut kinds = vec![("embedded log", "embedded", String::new(), (20.0, 100.0))];
    kinds.extend(cluster.as_ref().map(|cluster| ("Kafka", "kafka", cluster.sections(), (30.0, 120.0))));
    let mut contestants = Vec::new();
    for (name, database, log, bars) in kinds {
        let server = load::database().await?;
        department::role(&server).await?;
        let department = Department::make(&server, database, "").await?;
        let directory = department.exchange(&server, &log)?;
        let node = directory.start()?;
        sqlx::query("INSERT INTO qy VALUES (1, $1, '公司1', '韦小明')").bind(credit_code(1)).execute(&department.source).await?;
        if let Err(error) = department.delivered(1, Duration::from_secs(60)).await {
            let status = directory.status(Duration::from_secs(2)).await;
            return Err(format!("{error}\n{status:?}").into());
        }
        sqlx::raw_sql(ANNOUNCE).execute(&department.sink).await?;
        let (p50, p99, rate) = (Vec::new(), Vec::new(), Vec::new());
        let warm = if database == "kafka" { YOUNG } else { WARM };
        contestants.push(Contestant {
            name,
            bars,
            department,
            next: 2,
            warm,
            p50,
            p99,
            rate,
            _node: node,
            _directory: directory,
            _server: server,
        });
    }
    for _ in 0..runs {
        for contestant in &mut contestants {
            contestant.measure().await?;
        }
    }
    println!("commit to the subscriber's row, {RATE} commits/s for {SECONDS} s ({runs} alternating runs, medians)");
    Ok(contestants.into_iter().map(Contestant::finish).fold(Verdict::Valid, Verdict::and))
}

impl Contestant {
    async fn measure(&mut self) -> Result<(), Failure> {
        let pool = &self.department.sink;
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen("arrived").await?;
        let total = RATE * (std::mem::replace(&mut self.warm, WARM) + SECONDS);
        let own: HashSet<String> = (self.next..self.next + total).map(credit_code).collect();
        let arrivals = tokio::spawn(async move {
            let mut seen = HashMap::with_capacity(total as usize);
            let mut again = 0_u32;
            while seen.len() < total as usize {
                match tokio::time::timeout(LAST, listener.recv()).await {
                    Ok(Ok(notice)) if own.contains(notice.payload()) => {
                        // A row that is written again was there before.
                        seen.entry(notice.payload().to_owned()).or_insert_with(Instant::now);
                    }
                    Ok(Ok(_)) => again += 1,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => break,
                }
            }
            Ok((seen, again))
        });
        let (sent, rate) = commit(&self.department, self.next, total).await?;
        self.next += total;
        let (seen, again) = arrivals.await??;
        if again > 0 {
            return Err(format!("{}: {again} rows of earlier runs were written again", self.name).into());
        }
        let mut times: Vec<f64> = sent
            .iter()
            .filter(|(number, _)| *number >= self.next - RATE * SECONDS)
            .filter_map(|(number, at)| Some(seen.get(&credit_code(*number))?.saturating_duration_since(*at).as_secs_f64() * 1e3))
            .collect();
        if seen.len() < total as usize {
            return Err(format!("{}: {} rows of {total} did not arrive", self.name, total as usize - seen.len()).into());
        }
        times.sort_by(f64::total_cmp);
        let quantile = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        println!("{}: p50 {:.1} ms, p99 {:.1} ms", self.name, quantile(0.5), quantile(0.99));
        self.p50.push(quantile(0.5));
        self.p99.push(quantile(0.99));
        self.rate.push(rate);
        Ok(())
    }

    fn finish(mut self) -> Verdict {
        let rate = median(&mut self.rate);
        for (title, times, bar) in [("p50", &mut self.p50, self.bars.0), ("p99", &mut self.p99, self.bars.1)] {
            let middle = median(times);
            let (first, last) = (times.first().copied().unwrap_or(f64::NAN), times.last().copied().unwrap_or(f64::NAN));
            let met = if middle < bar { "met" } else { "NOT met" };
            println!("  {:<14} {title} {middle:>8.1} ms  ({first:.1} to {last:.1})  bar {bar:.0} ms: {met}", self.name);
        }
        if rate >= SLOWEST * f64::from(RATE) {
            return Verdict::Valid;
        }
        println!("  void: the clerks committed {rate:.0} a second");
        Verdict::Void
    }
}

/// Commits rows by the clock; when each COMMIT returned, and the rate that was reached.
async fn commit(department: &Department, first: u32, total: u32) -> Result<(Vec<(u32, Instant)>, f64), Failure> {
    let options = department.source.connect_options();
    let pool = PgPoolOptions::new().min_connections(CLERKS).max_connections(CLERKS).connect_with((*options).clone()).await?;
    let sent = Arc::new(Mutex::new(Vec::with_capacity(total as usize)));
    let begin = Instant::now() + Duration::from_millis(200);
    let mut clerks = tokio::task::JoinSet::new();
    for clerk in 0..CLERKS {
        let mut conn = pool.acquire().await?;
        let sent = Arc::clone(&sent);
        clerks.spawn(async move {
            for number in (clerk..total).step_by(CLERKS as usize) {
                tokio::time::sleep_until((begin + Duration::from_secs(1) * number / RATE).into()).await;
                let number = first + number;
                sqlx::query("INSERT INTO qy VALUES ($1, $2, $3, '韦小明')")
                    .bind(i64::from(number))
                    .bind(credit_code(number))
                    .bind(format!("公司{number}"))
                    .execute(&mut *conn)
                    .await?;
                sent.lock().await.push((number, Instant::now()));
            }
            Ok::<_, sqlx::Error>(())
        });
    }
    while let Some(done) = clerks.join_next().await {
        done??;
    }
    let took = begin.elapsed().as_secs_f64();
    pool.close().await;
    let sent = std::mem::take(&mut *sent.lock().await);
    Ok((sent, f64::from(total) / took))
}
