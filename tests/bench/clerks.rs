//! Clerks who commit rows by the clock, and what becomes of the times until each row is seen elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_tests::exchange::credit_code;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Mutex;

use crate::Failure;
use crate::department::Department;
use crate::rounds::{Verdict, median};

/// Commits a second.
pub(crate) const RATE: u32 = 1000;
/// Not counted, in seconds: connections and plans are made.
pub(crate) const WARM: u32 = 4;
/// Not counted before the first run on a young broker, which needs twice the CPU until its JVM has compiled what it runs.
pub(crate) const YOUNG: u32 = 150;
pub(crate) const SECONDS: u32 = 10;
/// Rows that are still on their way after this are lost.
pub(crate) const LAST: Duration = Duration::from_secs(30);
/// Sessions of clerks. One alone is bounded by the disk's sync.
const CLERKS: u32 = 8;
/// Below this part of [`RATE`] the load was not what it should be.
const SLOWEST: f64 = 0.8;

/// When each COMMIT returned, by the row's number.
pub(crate) type Sent = Vec<(u32, Instant)>;

/// Commits rows by the clock; when each COMMIT returned, and the rate that was reached.
pub(crate) async fn commit(department: &Department, first: u32, total: u32) -> Result<(Sent, f64), Failure> {
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

/// Milliseconds from COMMIT to being seen: one contestant's runs.
pub(crate) struct Times {
    pub(crate) name: &'static str,
    bars: [Option<f64>; 2],
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
}

impl Times {
    /// The bars are those of p50 and p99.
    pub(crate) fn new(name: &'static str, bars: [Option<f64>; 2]) -> Self {
        Self { name, bars, p50: Vec::new(), p99: Vec::new(), rate: Vec::new() }
    }

    /// A run, in which the rows from number `counted` on count.
    pub(crate) fn add(
        &mut self,
        rate: f64,
        counted: u32,
        sent: &Sent,
        seen: impl Fn(u32) -> Option<Instant>,
    ) -> Result<(), Failure> {
        let arrived: Option<Vec<(u32, Duration)>> =
            sent.iter().map(|(number, at)| Some((*number, seen(*number)?.saturating_duration_since(*at)))).collect();
        let arrived = arrived.ok_or_else(|| format!("{}: not all of {} rows arrived", self.name, sent.len()))?;
        let mut times: Vec<f64> =
            arrived.iter().filter(|(number, _)| *number >= counted).map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let quantile = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        println!("{}: p50 {:.1} ms, p99 {:.1} ms", self.name, quantile(0.5), quantile(0.99));
        self.p50.push(quantile(0.5));
        self.p99.push(quantile(0.99));
        self.rate.push(rate);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Verdict {
        let rate = median(&mut self.rate);
        for (title, times, bar) in [("p50", &mut self.p50, self.bars[0]), ("p99", &mut self.p99, self.bars[1])] {
            let middle = median(times);
            let (first, last) = (times.first().copied().unwrap_or(f64::NAN), times.last().copied().unwrap_or(f64::NAN));
            print!("  {:<14} {title} {middle:>8.1} ms  ({first:.1} to {last:.1})", self.name);
            match bar {
                None => println!(),
                Some(bar) => println!("  bar {bar:.0} ms: {}", if middle < bar { "met" } else { "NOT met" }),
            }
        }
        if rate >= SLOWEST * f64::from(RATE) {
            return Verdict::Valid;
        }
        println!("  void: the clerks committed {rate:.0} a second");
        Verdict::Void
    }
}
