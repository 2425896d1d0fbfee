//! Commit at the source to row at the subscriber, PostgreSQL to PostgreSQL through the released binary, at 1,000 commits a second that are
//! sent by the clock whether or not the exchange keeps up.
//!
//! A row's time runs from the return of its COMMIT (`synchronous_commit = on`, `fsync = on`) to the moment when another session of
//! the subscriber hears of it: a trigger on the subscriber's table notifies, which PostgreSQL sends after the commit. Both ends are
//! in this process, so there is one clock.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use guitong_tests::exchange::{Node, credit_code};
use guitong_tests::servers::postgres::Postgres;
use sqlx::postgres::PgListener;

use crate::clerks::{self, LAST, RATE, SECONDS, Times, WARM, YOUNG};
use crate::department::{self, Cluster, Department};
use crate::rounds::Verdict;
use crate::{Failure, Outcome, load};

/// A trigger that tells of each row, as soon as its commit shows it to others.
const ANNOUNCE: &str = "CREATE OR REPLACE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('arrived', NEW.uscc); RETURN NULL; END $$;
    CREATE OR REPLACE TRIGGER announce AFTER INSERT OR UPDATE ON enterprise FOR EACH ROW EXECUTE FUNCTION announce()";

/// One running exchange and the figures of its runs.
struct Contestant {
    department: Department,
    next: u32,
    warm: u32,
    times: Times,
    _node: Node,
    _directory: guitong_tests::exchange::Exchange,
    /// A server of its own: another's would decode this one's commits, too.
    _server: Postgres,
}

pub(crate) async fn run(runs: usize, with_kafka: bool) -> Outcome {
    let cluster = if with_kafka { Some(Cluster::start().await?) } else { None };
    let mut kinds = vec![(Times::new("embedded log", [Some(20.0), Some(100.0)]), "embedded", String::new())];
    kinds.extend(cluster.as_ref().map(|cluster| (Times::new("Kafka", [Some(30.0), Some(120.0)]), "kafka", cluster.sections())));
    let mut contestants = Vec::new();
    for (times, database, log) in kinds {
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
        let warm = if database == "kafka" { YOUNG } else { WARM };
        contestants.push(Contestant { department, next: 2, warm, times, _node: node, _directory: directory, _server: server });
    }
    for _ in 0..runs {
        for contestant in &mut contestants {
            contestant.measure().await?;
        }
    }
    println!("commit to the subscriber's row, {RATE} commits/s for {SECONDS} s ({runs} alternating runs, medians)");
    Ok(contestants.into_iter().map(|contestant| contestant.times.finish()).fold(Verdict::Valid, Verdict::and))
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
        let (sent, rate) = clerks::commit(&self.department, self.next, total).await?;
        self.next += total;
        let (seen, again) = arrivals.await??;
        if again > 0 {
            return Err(format!("{}: {again} rows of earlier runs were written again", self.times.name).into());
        }
        self.times.add(rate, self.next - RATE * SECONDS, &sent, |number| seen.get(&credit_code(number)).copied())
    }
}
