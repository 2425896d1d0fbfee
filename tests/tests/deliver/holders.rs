//! Deletes go to holders only: what a subscriber's server is told, by its own log of statements, has no key of a row that was never
//! granted; and no delete is lost for it, whatever happens to the subscriber's database and to what is noted of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_deliver::sink::{PartitionStand, Sink as _, SinkBatch, SinkErrorKind};
use guitong_deliver::{Hold, Place, Since, Verify, Word};
use guitong_govern::audit::AuditEntry;
use guitong_log::{Batch, ExchangeLog as _, OwnerId, Role, StateChange};
use guitong_schemas::contract::Subscription;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::faults::LosingLog;
use crate::faulty::{Script, Step};
use crate::fixture::{Bench, PARTITIONS, Running, Target};
use crate::staged::{entry, upserts};

const WIDE: &str = "name != 'other'";
const NARROW: &str = "name == 'mine'";
/// How keys begin that are never granted.
const NEVER: &str = "NEVER";
/// What of the subscriber's database a backup has.
const TABLES: [&str; 4] = ["t", "guitong_subscriptions", "guitong_offsets", "guitong_deleted"];

impl Bench {
    /// What is noted of the rows of the subscription `credit`.
    pub(crate) async fn notes(&self) -> Vec<StateChange> {
        let owned = self.log.open(&OwnerId::new(Role::Deliver, "credit")).await.unwrap();
        let mut notes = Vec::new();
        for map in ["sql", "sql-held", "sql-gone"] {
            let noted = owned.scan(map, b"", None, 100_000).await.unwrap();
            notes.extend(noted.into_iter().map(|(key, value)| StateChange { map: map.into(), key, value: Some(value) }));
        }
        notes
    }

    pub(crate) async fn note(&self, state: Vec<StateChange>) {
        let mut owned = self.log.open(&OwnerId::new(Role::Deliver, "credit")).await.unwrap();
        owned.append(Batch { state, ..Batch::default() }).await.unwrap();
    }
}

/// One subscription whose server is listened to.
struct World<'w> {
    bench: &'w mut Bench,
    target: &'w Target,
    script: Arc<Script>,
    subscription: Subscription,
    running: Option<Running>,
    commit: u64,
    /// Names by keys, as the last record of each says.
    names: BTreeMap<String, Option<String>>,
}

impl<'w> World<'w> {
    async fn new(bench: &'w mut Bench, target: &'w Target) -> Self {
        match target {
            Target::Postgres(..) => target.execute("ALTER ROLE office SET log_statement = 'all'").await,
            Target::Mariadb(..) => target.execute("SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON").await,
            Target::Sqlite(..) | Target::Files(_) | Target::Kafka(_) => {}
        }
        let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
        subscription.condition = Some(WIDE.to_owned());
        let script = Script::new();
        Self { bench, target, script, subscription, running: None, commit: 0, names: BTreeMap::new() }
    }

    fn start(&mut self) {
        self.running = Some(self.another());
    }

    fn another(&self) -> Running {
        self.bench.start_faulty(&self.subscription, self.target, &self.script)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }

    /// Rows that come in one commit, or go.
    async fn come(&mut self, rows: &[(&str, Option<&str>)]) {
        let mut records = Vec::new();
        for (key, name) in rows {
            self.commit += 1;
            records.push(match name {
                Some(name) => self.bench.named(key, name, self.commit),
                None => self.bench.delete(key, self.commit),
            });
            self.names.insert((*key).to_owned(), name.map(str::to_owned));
        }
        self.bench.append(records).await;
    }

    /// The subscriber has what is granted and nothing else.
    async fn holds(&mut self, when: &str) {
        self.bench.caught_up(self.running.as_mut().unwrap()).await;
        let narrow = self.subscription.condition.as_deref() == Some(NARROW);
        let is_granted = |name: &str| name == "mine" || (name == "ours" && !narrow);
        let granted =
            self.names.iter().filter_map(|(key, name)| Some((key.clone(), name.clone().filter(|name| is_granted(name))?)));
        assert_eq!(self.target.names("t").await, granted.collect::<HashMap<_, _>>(), "{when}");
        self.assert_unheard(when).await;
    }

    /// The server heard of no key that was never granted, and of others.
    async fn assert_unheard(&self, when: &str) {
        let sent = self.script.attempts().into_iter().flat_map(|attempt| attempt.changes);
        let heard = match self.target {
            Target::Postgres(..) => {
                String::from_utf8_lossy(&std::fs::read(self.target.server().log_path()).unwrap()).into_owned()
            }
            Target::Mariadb(..) => {
                self.target.texts("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log").await.join("\n")
            }
            Target::Sqlite(..) | Target::Files(_) | Target::Kafka(_) => sent.map(|(key, ..)| key).collect::<Vec<_>>().join("\n"),
        };
        assert!(heard.contains("SOME"), "{when}: nothing is heard");
        for key in [NEVER.to_owned(), hex::encode(NEVER), hex::encode_upper(NEVER)] {
            let lines: Vec<_> = heard.lines().filter(|line| line.contains(&key)).collect();
            assert!(lines.is_empty(), "{when}: {lines:?}");
        }
    }

    /// What is noted of the subscription's rows is gone.
    async fn lose_notes(&self) {
        let noted = self.bench.notes().await.into_iter();
        self.bench.note(noted.map(|note| StateChange { value: None, ..note }).collect()).await;
    }

    async fn save(&self) {
        for table in TABLES {
            let (table, copy) = (self.target.named(table), self.target.named(&format!("saved_{table}")));
            self.target.execute(&format!("DROP TABLE IF EXISTS {copy}")).await;
            self.target.execute(&format!("CREATE TABLE {copy} AS SELECT * FROM {table}")).await;
        }
    }

    async fn put_back(&self) {
        for table in TABLES {
            let (table, copy) = (self.target.named(table), self.target.named(&format!("saved_{table}")));
            self.target.execute(&format!("DELETE FROM {table}")).await;
            self.target.execute(&format!("INSERT INTO {table} SELECT * FROM {copy}")).await;
        }
    }

    async fn replay(&self) -> bool {
        let places = (0..PARTITIONS).map(|partition| Place { partition, offset: 0 }).collect();
        self.running().handle.redeliver(Since::Places(places), Word::default()).await.is_ok()
    }
}

pub(crate) async fn a_server_never_hears_of_a_row_that_was_never_granted(mut bench: Bench, target: &Target) {
    let mut world = World::new(&mut bench, target).await;
    let (mine, ours, other) = (Some("mine"), Some("ours"), Some("other"));
    world.come(&[("NEVER1", other), ("NEVER2", mine), ("NEVER2", None), ("NEVER3", None)]).await;
    world.come(&[("SOME1", mine), ("SOME2", ours), ("SOME3", mine), ("SOME4", mine), ("SOME5", mine), ("SOME6", mine)]).await;
    world.start();
    world.holds("what came before the subscription").await;
    world.come(&[("NEVER1", other), ("NEVER4", other), ("SOME7", mine), ("SOME1", other)]).await;
    world.holds("live").await;
    world.come(&[("NEVER1", None), ("NEVER4", None), ("SOME1", None), ("NEVER3", None)]).await;
    world.holds("live, deletes").await;

    world.stop().await;
    world.come(&[("NEVER4", other), ("SOME3", None), ("SOME8", mine)]).await;
    world.start();
    world.holds("started again").await;
    world.come(&[("SOME8", None), ("NEVER4", None)]).await;
    world.holds("started again, deletes").await;

    world.running().handle.resync(Word::default()).await.unwrap();
    world.come(&[("NEVER4", other), ("SOME7", mine)]).await;
    world.holds("filled anew").await;
    world.stop().await;
    world.subscription.condition = Some(NARROW.to_owned());
    world.start();
    world.holds("narrowed").await;
    world.come(&[("NEVER5", ours), ("SOME2", None), ("NEVER4", None)]).await;
    world.holds("narrowed, deletes").await;

    world.stop().await;
    world.come(&[("SOME4", None), ("NEVER5", None), ("NEVER6", mine), ("NEVER6", None), ("SOME9", mine)]).await;
    world.lose_notes().await;
    world.start();
    world.holds("the notes lost").await;
    world.come(&[("SOME5", None), ("NEVER7", other), ("SOME9", other)]).await;
    world.holds("the notes lost, deletes").await;

    let table = target.named("t");
    target.execute(&format!("UPDATE {table} SET name = 'by hand' WHERE uscc = 'SOME6'")).await;
    target.execute(&format!("DELETE FROM {table} WHERE uscc = 'SOME7'")).await;
    target.execute(&format!("INSERT INTO {table} (uscc, name) VALUES ('SOME10', 'by hand')")).await;
    let repair = Verify { repair: Some(Word::default()), limit: 10 };
    let repaired = world.running().handle.verify(&repair).await.unwrap();
    assert_eq!(repaired.repaired, 3, "{repaired:?}");
    world.holds("repaired").await;
    assert!(world.replay().await);
    world.come(&[("NEVER7", None), ("SOME6", None)]).await;
    world.holds("delivered again").await;
    world.stop().await;
}

/// A batch that was noted and written, of which nobody heard; one that was noted and not written; and a database that is put back to
/// where it was: the deletes that follow arrive.
pub(crate) async fn a_delete_arrives_whatever_is_noted_of_its_row(mut bench: Bench, target: &Target) {
    let mut world = World::new(&mut bench, target).await;
    world.come(&[("SOME1", Some("mine")), ("SOME2", Some("mine"))]).await;
    world.start();
    world.holds("at the begin").await;
    world.script.then(Step::LoseReply);
    world.script.then(Step::Hold);
    world.come(&[("SOME3", Some("mine"))]).await;
    // The next batch is begun only once the subscription was taken over again.
    let commit = world.commit;
    world.running.as_mut().unwrap().reaches(|status| status.offsets.iter().map(|(_, next)| next).sum::<u64>() == commit).await;
    world.come(&[("SOME4", Some("mine"))]).await;
    world.script.holds().await;
    world.running.take().unwrap().kill().await;
    world.come(&[("SOME3", None), ("SOME4", None)]).await;
    world.start();
    world.holds("killed in a batch").await;

    world.come(&[("SOME5", Some("mine"))]).await;
    world.holds("before the backup").await;
    // One read, which records that are refused part into several batches: gone in one, there again in a later one.
    let (gone, again, new) = (("SOME5", None), ("SOME5", Some("mine")), ("SOME7", Some("mine")));
    let refused: Vec<_> = (0..10).map(|n| format!("SOMEX{n}")).collect();
    (0..10).zip(&refused).for_each(|(n, key)| world.script.refuse(key, world.commit + 3 + n));
    let refused: Vec<_> = refused.iter().map(|key| (key.as_str(), Some("mine"))).collect();
    world.come(&[&[gone, new], &refused[..], &[again]].concat()).await;
    refused.iter().for_each(|(key, _)| drop(world.names.remove(*key)));
    world.holds("parted").await;
    world.running.as_mut().unwrap().reaches(|status| status.parked == 10).await;
    world.stop().await;
    let notes = world.bench.notes().await;
    let held = notes.iter().filter(|note| &*note.map == "sql-held");
    assert_eq!(
        held.filter(|note| note.key.ends_with(b"SOME5")).count(),
        1,
        "what is forgotten of a deleted row is not this one's"
    );
    world.start();
    world.stop().await;
    world.save().await;
    world.start();
    world.come(&[("SOME1", None), ("SOME5", Some("other")), ("SOME2", Some("ours")), ("SOME7", None)]).await;
    world.holds("after the backup").await;
    // What is gone is noted between two batches, a few times in a second.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        world.come(&[("SOME6", Some("mine"))]).await;
        world.holds("after the backup").await;
    }
    world.stop().await;
    world.put_back().await;
    world.start();
    world.holds("put back").await;

    // The backup is older than what is noted now.
    world.stop().await;
    world.lose_notes().await;
    world.start();
    world.holds("the notes lost").await;
    world.stop().await;
    world.put_back().await;
    world.start();
    world.holds("put back, from before the notes").await;
    world.stop().await;
}

/// What a small batch leaves with the subscriber for who takes over: nobody else reads it, and one that somebody changed is not believed.
pub(crate) async fn the_list_of_rows_that_were_sent_last_is_sealed(mut bench: Bench, target: &Target) {
    let mut world = World::new(&mut bench, target).await;
    let named = target.named("guitong_subscriptions");
    world.come(&[("SOME1", Some("mine")), ("NEVER1", Some("other"))]).await;
    world.start();
    world.holds("at the begin").await;
    world.come(&[("SOME2", Some("mine"))]).await;
    world.holds("at the begin").await;
    world.stop().await;
    let kept = target.texts(&format!("SELECT entries FROM {named}")).await.remove(0);
    assert!(kept.contains("\"sealed\":\"") && !kept.contains("SOME"), "{kept}");
    target.execute(&format!("UPDATE {named} SET entries = REPLACE(entries, 'sealed\":\"', 'sealed\":\"AAAA')")).await;
    target.execute(&format!("DELETE FROM {} WHERE uscc = 'SOME1'", target.named("t"))).await;
    world.start();
    world.holds("changed: everything is delivered again").await;
    world.come(&[("SOME1", None), ("SOME2", None), ("NEVER1", None)]).await;
    world.holds("changed, deletes").await;
    world.stop().await;
}

/// A row that is gone before the log was told that it was sent, with no batch after it.
pub(crate) async fn a_row_that_goes_at_once_is_noted_to_be_gone(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let log = Arc::new(LosingLog::new(bench.log.clone()));
    let mut running = bench.start_on(log.clone(), &subscription);
    // The log hears of the first batch at once, and a little later of those after it.
    for (key, commit) in [("A", 1), ("B", 2)] {
        bench.append(vec![bench.named(key, "mine", commit)]).await;
        bench.caught_up(&mut running).await;
    }
    log.answers_late(true);
    bench.append(vec![bench.delete("B", 3)]).await;
    log.is_late().await;
    log.answers_late(false);
    running.stop().await.unwrap();
    let notes = bench.notes().await;
    let of = |map: &str| notes.iter().filter(|note| &*note.map == map && note.key.ends_with(b"B")).count();
    assert_eq!((of("sql-held"), of("sql-gone")), (0, 1));
}

/// A repair comes after a batch of which the log was told nothing, and the next holder after both.
pub(crate) async fn a_repair_keeps_the_list_of_rows_that_were_sent_last(bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let hold = async || Hold::new(bench.log.open(&OwnerId::new(Role::Deliver, "credit")).await.unwrap());
    let mut sink = target.holders(&bench, &subscription);
    sink.keep_in(&hold().await);
    let epoch = sink.open().await.unwrap().epoch;
    sink.begin_refill(&[PartitionStand { partition: 0, next: 0, refill_to: 0 }]).await.unwrap();
    let (changes, written) = (upserts(0..1), entry(epoch, 0..1));
    let mut newest: Vec<_> = changes.iter().collect();
    sink.sift(&mut [], &mut newest, None).await.unwrap();
    let ranges = written.ranges.clone();
    let batch = SinkBatch { changes: &newest, earlier: &[], ranges: &ranges, entry: &written, unlogged: &[], sealed: None };
    assert_eq!(sink.write(&batch).await.unwrap().notes.len(), 1, "what the log is to be told");
    let (repair, unlogged) = (AuditEntry { previous: written.digest(), ..entry(epoch, 1..1) }, [written]);
    let batch = SinkBatch { changes: &[], earlier: &[], ranges: &[], entry: &repair, unlogged: &unlogged, sealed: None };
    sink.remove(&[], &batch).await.unwrap();
    let mut next = target.holders(&bench, &subscription);
    next.keep_in(&hold().await);
    next.open().await.unwrap();
    assert_eq!(bench.notes().await.iter().filter(|note| &*note.map == "sql-held").count(), 1);
}

pub(crate) async fn random_faults_lose_no_delete(mut bench: Bench, target: &Target) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let mut world = World::new(&mut bench, target).await;
    world.come(&[("SOME0", Some("mine"))]).await;
    world.start();
    world.holds("at the begin").await;
    world.stop().await;
    world.save().await;
    world.start();
    for round in 0..30 {
        let rows: Vec<_> = (0..random.random_range(1..25)).map(|_| row(&mut random)).collect();
        let rows: Vec<_> = rows.iter().map(|(key, name)| (key.as_str(), *name)).collect();
        world.come(&rows).await;
        let what = random.random_range(0..10);
        match what {
            0 => {
                let zombie = world.running.take().unwrap();
                world.start();
                world.come(&rows).await;
                world.holds(&format!("in round {round}, beside another")).await;
                zombie.stop().await.unwrap();
            }
            1 => drop(world.replay().await),
            2 => world.running().handle.resync(Word::default()).await.unwrap(),
            3 => {
                let fails = [Step::LoseReply, Step::Fail(SinkErrorKind::Unreachable), Step::Fail(SinkErrorKind::Busy)];
                world.script.only((0..random.random_range(1..4)).map(|_| fails[random.random_range(0..fails.len())]));
            }
            _ => {
                if random.random() {
                    tokio::time::sleep(Duration::from_micros(random.random_range(0..40_000))).await;
                    world.running.take().unwrap().kill().await;
                } else {
                    world.stop().await;
                }
                match what {
                    4 => world.lose_notes().await,
                    5 => world.save().await,
                    6 => world.put_back().await,
                    7 => world.subscription.condition = Some([WIDE, NARROW][random.random_range(0..2)].to_owned()),
                    _ => {}
                }
                world.start();
            }
        }
        if random.random() {
            world.holds(&format!("in round {round}, after {what}")).await;
        }
    }
    world.holds("at the end").await;
    world.stop().await;
}

/// A row that comes or goes; of a few that are never granted.
fn row(random: &mut StdRng) -> (String, Option<&'static str>) {
    if random.random_bool(0.3) {
        return (format!("{NEVER}{}", random.random_range(0..8)), random.random_bool(0.6).then_some("other"));
    }
    let names = [Some("mine"), Some("mine"), Some("ours"), Some("other"), None];
    (format!("SOME{}", random.random_range(0..20)), names[random.random_range(0..names.len())])
}
