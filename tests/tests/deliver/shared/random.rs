//! Random readers of a topic that is written, compacted and cut off meanwhile, held against what the log has.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{LogError, LogReader, NewRecord, ReadBatch, ReadBudget, Record, Retention};
use guitong_tests::log_conformance::{everything, noise};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::world::World;
use crate::watched::counted;

const STEPS: usize = 250;
const READERS: usize = 6;
const DAY: Duration = Duration::from_secs(86_400);

/// Whoever reads, however much at once, from wherever, and given up at any moment, gets every record that the log still has, as it was
/// written, in order and once; and is told of a gap where, and only where, the log has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_what_a_reader_of_its_own_gives() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for retention in
        [Retention::Compact { after: Duration::ZERO, tombstones: DAY }, Retention::Expire { age: None, bytes: Some(2 << 20) }]
    {
        let mut all = All::new(retention).await;
        for _ in 0..STEPS {
            all.step(&mut random).await;
        }
        all.finish().await;
    }
}

struct All {
    world: World,
    /// Every record that was written, by partition and offset.
    written: [Vec<(Option<Bytes>, Option<Bytes>)>; 2],
    /// Offsets that the log has now.
    kept: [BTreeSet<u64>; 2],
    readers: Vec<One>,
}

struct One {
    reader: Box<dyn LogReader>,
    next: [u64; 2],
}

impl All {
    async fn new(retention: Retention) -> Self {
        let world = World::kept_for(retention).await;
        let mut all = Self { world, written: Default::default(), kept: Default::default(), readers: Vec::new() };
        for _ in 0..READERS {
            let one = all.begin([0, 0]).await.unwrap();
            all.readers.push(one);
        }
        all
    }

    async fn begin(&self, next: [u64; 2]) -> Result<One, LogError> {
        let from = [0, 1].map(|partition| (self.world.at(partition), next[partition as usize]));
        let reader = self.world.reads.reader(&self.world.log, from.into(), counted()).await?;
        Ok(One { reader, next })
    }

    async fn step(&mut self, random: &mut StdRng) {
        match random.random_range(0..20) {
            0 => {
                let place = random.random_range(0..READERS);
                self.begin_anew(place, random).await;
            }
            1 => {
                self.world.log.maintain(1).await.unwrap();
                self.see_what_is_kept().await;
            }
            2..6 => {
                let records = self.some(random);
                self.world.append_all(records.clone()).await;
                self.note(records);
            }
            _ => self.read_at_once(random).await,
        }
    }

    fn some(&self, random: &mut StdRng) -> Vec<NewRecord> {
        let count = random.random_range(1..40);
        let burst = random.random_bool(0.15);
        let mut record = || {
            let size = random.random_range(0..if burst { 90_000 } else { 3_000 });
            NewRecord {
                topic: self.world.topic.clone(),
                partition: Some(u32::from(random.random_bool(0.3))),
                key: Some(Bytes::from(random.random_range(0..300).to_string())),
                value: Some(noise(random.random(), size).into()),
                headers: Vec::new(),
                timestamp_ms: 0,
            }
        };
        (0..count).map(|_| record()).collect()
    }

    fn note(&mut self, records: Vec<NewRecord>) {
        for record in records {
            let partition = record.partition.unwrap() as usize;
            self.kept[partition].insert(self.written[partition].len() as u64);
            self.written[partition].push((record.key, record.value));
        }
    }

    async fn see_what_is_kept(&mut self) {
        for partition in 0..2 {
            let all = everything(&*self.world.log, &self.world.at(partition)).await;
            self.kept[partition as usize] = all.iter().map(|record| record.offset).collect();
        }
    }

    /// Another one comes in its place: to where one of the others is, or anywhere.
    async fn begin_anew(&mut self, place: usize, random: &mut StdRng) {
        let mut from = self.readers[random.random_range(0..READERS)].next;
        for partition in 0..2 {
            let bounds = self.world.log.bounds(&self.world.at(partition)).await.unwrap();
            let from = &mut from[partition as usize];
            if *from < bounds.earliest || random.random_bool(0.4) {
                *from = random.random_range(bounds.earliest..=bounds.end);
            }
        }
        self.readers[place] = self.begin(from).await.unwrap();
    }

    /// Some read at once, while something is written perhaps.
    async fn read_at_once(&mut self, random: &mut StdRng) {
        let records = if random.random_bool(0.3) { self.some(random) } else { Vec::new() };
        if random.random_bool(0.05) {
            self.world.watched.hold_next();
        }
        let share = [0.2, 0.6, 1.0][random.random_range(0..3)];
        let mut reading = Vec::new();
        for (place, one) in self.readers.iter_mut().enumerate() {
            if !random.random_bool(share) {
                continue;
            }
            let bytes = [1, 5_000, 64 << 10, 4 << 20][random.random_range(0..4)];
            let wait = Duration::from_millis([0, 1, 30][random.random_range(0..3)]);
            let limit = Duration::from_micros([0, 300, 3_000, 2_000_000][random.random_range(0..4)]);
            reading.push(async move {
                let read = one.reader.read(ReadBudget { bytes, wait });
                (place, bytes, tokio::time::timeout(limit, read).await)
            });
        }
        let reading = futures::future::join_all(reading);
        let appending = async {
            if !records.is_empty() {
                self.world.append_all(records.clone()).await;
            }
        };
        let (read, ()) = futures::future::join(reading, appending).await;
        self.world.watched.hold_none();
        self.note(records);
        for (place, bytes, read) in read {
            match read {
                // Nothing is known of what was given up.
                Err(_) => {}
                Ok(Ok(batch)) => self.check(place, bytes, batch),
                Ok(Err(error)) => {
                    self.check_gap(place, &error).await;
                    self.begin_anew(place, random).await;
                }
            }
        }
    }

    fn check(&mut self, place: usize, budget: usize, batch: ReadBatch) {
        let one = &mut self.readers[place];
        let bytes: usize = batch.records.iter().map(Record::size).sum();
        assert!(batch.records.len() <= 1 || bytes <= budget, "{bytes} bytes with a budget of {budget}");
        let mut next = one.next;
        let mut given: [BTreeSet<u64>; 2] = Default::default();
        for record in &batch.records {
            let partition = record.at.partition as usize;
            assert!(record.offset >= next[partition], "{}: {} after {}", record.at, record.offset, next[partition]);
            let (key, value) = &self.written[partition][record.offset as usize];
            assert!((&record.key, &record.value) == (key, value), "{}: {} is another record", record.at, record.offset);
            assert!(batch.next.iter().any(|(at, _)| *at == record.at), "{} is not told of", record.at);
            next[partition] = record.offset + 1;
            given[partition].insert(record.offset);
        }
        for (at, further) in &batch.next {
            let partition = at.partition as usize;
            assert!(*further >= next[partition] && *further <= self.written[partition].len() as u64, "{at}: {further}");
            next[partition] = *further;
        }
        for partition in 0..2 {
            let due: BTreeSet<u64> = self.kept[partition].range(one.next[partition]..next[partition]).copied().collect();
            let left_out: Vec<_> = due.difference(&given[partition]).collect();
            assert!(left_out.is_empty(), "{partition}: {left_out:?} of what is there");
        }
        one.next = next;
    }

    async fn check_gap(&self, place: usize, error: &LogError) {
        let LogError::Gap { at, wanted, .. } = error else { panic!("{error}") };
        let earliest = self.world.log.bounds(at).await.unwrap().earliest;
        assert_eq!(*wanted, self.readers[place].next[at.partition as usize]);
        assert!(*wanted < earliest, "{error}");
    }

    /// Everybody gets to the end.
    async fn finish(mut self) {
        let ends = [0, 1].map(|partition| self.written[partition].len() as u64);
        let budget = ReadBudget { bytes: 64 << 10, wait: Duration::from_millis(200) };
        for place in 0..READERS {
            let began = std::time::Instant::now();
            while self.readers[place].next != ends {
                assert!(began.elapsed() < Duration::from_secs(30), "{:?} of {ends:?}", self.readers[place].next);
                match self.readers[place].reader.read(budget).await {
                    Ok(batch) => self.check(place, budget.bytes, batch),
                    Err(error) => {
                        self.check_gap(place, &error).await;
                        let bounds = async |partition| self.world.log.bounds(&self.world.at(partition)).await.unwrap().earliest;
                        self.readers[place] = self.begin([bounds(0).await, bounds(1).await]).await.unwrap();
                    }
                }
            }
        }
    }
}
