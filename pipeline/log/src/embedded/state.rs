//! Keyed state: a table of all entries, and before it in memory what was changed last.
//!
//! Random keys written straight into the table would write a page of it for each. So a commit appends its changes as one row (a
//! *run*), and memory gathers them; from time to time what was gathered goes into the table in the order of its keys, in slices among
//! the owners' commits, and its runs go. After a restart memory is what the runs say. Writing a slice again does no harm, so a
//! process may die anywhere in between.
//!
//! A run: version `u8` = 1, then for each change map `i64`, key length `u32`, value length `u32` (`u32::MAX`: removed), key, value.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{QueryBuilder, Row, SqliteConnection, SqlitePool};

use super::filter::Filter;
use super::rows::{Shape, signed, stamped, unstamped};
use super::writer::{Tx, Work, WorkError};
use crate::contract::LogError;

const VERSION: u8 = 1;
const REMOVED: u32 = u32::MAX;
/// Bytes of a change in a run beside key and value.
const HEAD: usize = 16;
/// Memory that gathered changes may take before they go into the table; as much again while they go.
const GATHERED: usize = 16 << 20;
/// What took so long to gather goes when it is a part of that: at such a pace a table's page for each entry is little to write, while an
/// entry that came alone takes twice as much memory as one of many.
const SLOW: Duration = Duration::from_secs(20);
const GATHERED_SLOWLY: usize = GATHERED / 4;
/// What an entry takes in memory besides its bytes.
const ENTRY: usize = 128;
/// Entries that go into the table with one transaction, and when changes come faster than that.
const SLICE: usize = 4096;
const HURRY: usize = 1 << 16;
/// Keys of one query.
const KEYS: usize = 250;

type Key = (i64, Bytes);

/// One change of an entry; `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) map: i64,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// A commit's changes as one row, in the order of their keys; the changes become slices of it.
pub(crate) fn encode(changes: &mut [Change]) -> Bytes {
    // A stable order: the last change of a key is what stays. Memory and the table take what is sorted faster.
    changes.sort_by(|a, b| (a.map, &a.key).cmp(&(b.map, &b.key)));
    let bytes: usize = changes.iter().map(|change| HEAD + change.key.len() + change.value.as_ref().map_or(0, Bytes::len)).sum();
    let mut run = Vec::with_capacity(1 + bytes);
    run.push(VERSION);
    for Change { map, key, value } in changes.iter() {
        run.extend_from_slice(&map.to_be_bytes());
        // Keys and values are parts of a batch, which is far below 4 GiB.
        run.extend_from_slice(&(key.len() as u32).to_be_bytes());
        run.extend_from_slice(&value.as_ref().map_or(REMOVED, |value| value.len() as u32).to_be_bytes());
        run.extend_from_slice(key);
        run.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let run = Bytes::from(run);
    let mut at = 1;
    for Change { key, value, .. } in changes {
        at += HEAD;
        *key = run.slice(at..at + key.len());
        at += key.len();
        if let Some(value) = value {
            *value = run.slice(at..at + value.len());
            at += value.len();
        }
    }
    run
}

/// The changes of a run, as slices of it.
fn decode(run: &Bytes) -> Result<Vec<Change>, LogError> {
    let damaged = || LogError::Corrupt { detail: "a run of state changes is not whole, or of a newer version".to_owned() };
    let (&VERSION, mut rest) = run.split_first().ok_or_else(damaged)? else { return Err(damaged()) };
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let (map, after) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (key_len, after) = after.split_first_chunk().ok_or_else(damaged)?;
        let (value_len, after) = after.split_first_chunk().ok_or_else(damaged)?;
        let (key, after) = after.split_at_checked(u32::from_be_bytes(*key_len) as usize).ok_or_else(damaged)?;
        let (value, after) = match u32::from_be_bytes(*value_len) {
            REMOVED => (None, after),
            len => after.split_at_checked(len as usize).map(|(value, after)| (Some(value), after)).ok_or_else(damaged)?,
        };
        changes.push(Change {
            map: i64::from_be_bytes(*map),
            key: run.slice_ref(key),
            value: value.map(|value| run.slice_ref(value)),
        });
        rest = after;
    }
    Ok(changes)
}

/// Changes that the table does not have.
#[derive(Debug, Default)]
struct Layer {
    entries: BTreeMap<Key, Option<Bytes>>,
    /// Memory that the runs take, of which the entries are slices, and the entries beside them.
    cost: usize,
    /// The newest run that is in it.
    last_run: i64,
    /// When the first one came.
    since: Option<Instant>,
}

impl Layer {
    /// Takes over the changes of a run, which are slices of it.
    fn take(&mut self, id: i64, run: &Bytes, changes: Vec<Change>) {
        self.cost += run.len();
        self.since.get_or_insert_with(Instant::now);
        for Change { map, key, value } in changes {
            if self.entries.insert((map, key), value).is_none() {
                self.cost += ENTRY;
            }
        }
        self.last_run = id;
    }

    fn is_ripe(&self) -> bool {
        self.is_full() || (self.cost >= GATHERED_SLOWLY && self.since.is_some_and(|since| since.elapsed() >= SLOW))
    }

    fn is_full(&self) -> bool {
        self.cost >= GATHERED
    }
}

/// A layer on its way into the table; everything up to `done` is there.
#[derive(Debug)]
struct Merging {
    layer: Layer,
    done: Option<Key>,
}

#[derive(Debug, Default)]
struct Layers {
    newest: Layer,
    merging: Option<Merging>,
    /// What the table may have.
    stored: Filter,
    next_run: i64,
}

/// What [`State::upto`] found: the entries, and the last key looked at where there are more behind it.
type Page = (BTreeMap<Bytes, Option<Bytes>>, Option<Bytes>);

/// The entries of all maps of all owners.
#[derive(Debug, Default)]
pub(crate) struct State(RwLock<Layers>);

impl State {
    fn read<T>(&self, look: impl FnOnce(&Layers) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Layers) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes memory what the file's runs say.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] for a run that cannot be read; errors of SQLite by `fault`.
    pub(crate) async fn load(
        &self,
        conn: &mut SqliteConnection,
        fault: impl Fn(sqlx::Error) -> LogError,
    ) -> Result<(), LogError> {
        let mut layer = Layer::default();
        let ids: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM state_run ORDER BY id").fetch_all(&mut *conn).await.map_err(&fault)?;
        for id in ids {
            let run: Vec<u8> = sqlx::query_scalar("SELECT data FROM state_run WHERE id = ?")
                .bind(id)
                .fetch_one(&mut *conn)
                .await
                .map_err(&fault)?;
            let run = Bytes::from(run);
            layer.take(id, &run, decode(&run)?);
        }
        let stored = Filter::new(filled(conn).await.map_err(&fault)?);
        self.change(|layers| *layers = Layers { next_run: layer.last_run + 1, newest: layer, merging: None, stored });
        Ok(())
    }

    /// The id of the next run; called by the writer alone, whose transaction may still fail.
    pub(crate) fn take_run(&self) -> i64 {
        self.change(|layers| {
            layers.next_run += 1;
            layers.next_run - 1
        })
    }

    /// Takes over what was committed as the run `id`.
    pub(crate) fn committed(&self, id: i64, run: &Bytes, changes: Vec<Change>) {
        self.change(|layers| layers.newest.take(id, run, changes));
    }

    /// The next slice that is to go into the table.
    pub(crate) fn slice(self: &Arc<Self>) -> Option<Box<dyn Work>> {
        let slice = self.change(|layers| {
            if layers.merging.is_none() && layers.newest.is_ripe() {
                layers.merging = Some(Merging { layer: std::mem::take(&mut layers.newest), done: None });
            }
            let hurry = layers.newest.is_full();
            let merging = layers.merging.as_ref()?;
            let from = merging.done.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let entries = merging.layer.entries.range((from, Bound::Unbounded)).take(if hurry { HURRY } else { SLICE });
            let entries: Vec<_> = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
            let last = merging.layer.entries.last_key_value().map(|(key, _)| key);
            let runs = (entries.last().map(|(key, _)| key) == last).then_some(merging.layer.last_run);
            // Before they are there: who does not find them in memory any more must search.
            entries.iter().for_each(|((map, key), _)| layers.stored.add(*map, key));
            Some((entries, runs))
        });
        let (entries, runs) = slice?;
        Some(Box::new(Slice { state: Arc::clone(self), entries, runs }))
    }

    /// Looks the keys up in memory: `None` where only the table knows.
    fn recent(&self, map: i64, keys: &[Bytes]) -> Vec<Option<Option<Bytes>>> {
        self.read(|layers| {
            let find = |key: &Bytes| {
                let key = (map, key.clone());
                let older = || layers.merging.as_ref().and_then(|merging| merging.layer.entries.get(&key));
                let found = layers.newest.entries.get(&key).or_else(older).cloned();
                found.or_else(|| (!layers.stored.may_have(map, &key.1)).then_some(None))
            };
            keys.iter().map(find).collect()
        })
    }

    /// Values of `keys` in their order.
    pub(crate) async fn get(&self, readers: &SqlitePool, map: i64, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, GetError> {
        // Memory first: what leaves it meanwhile is in the table by then.
        let mut found = self.recent(map, keys);
        let missing: Vec<usize> = found.iter().enumerate().filter(|(_, value)| value.is_none()).map(|(place, _)| place).collect();
        for places in missing.chunks(KEYS) {
            let mut query = QueryBuilder::new("SELECT key, value FROM state WHERE map = ");
            query.push_bind(map).push(" AND key IN (");
            let mut list = query.separated(",");
            for key in places.iter().filter_map(|place| keys.get(*place)) {
                list.push_bind(&**key);
            }
            query.push(")");
            let mut stored = BTreeMap::new();
            for row in query.build().fetch_all(readers).await? {
                let (key, value): (Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
                stored.insert(key, unstamped(value)?);
            }
            for place in places {
                if let (Some(key), Some(found)) = (keys.get(*place), found.get_mut(*place)) {
                    *found = Some(stored.get(&**key).cloned());
                }
            }
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }

    /// Changes in memory of keys that start with `prefix` and sort after `after`, at most `limit`.
    fn upto(&self, map: i64, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Page {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded((map, Bytes::copy_from_slice(after))),
            _ => Bound::Included((map, Bytes::copy_from_slice(prefix))),
        };
        let mut bound: Option<Bytes> = None;
        let mut found = BTreeMap::new();
        self.read(|layers| {
            let older = layers.merging.as_ref().map(|merging| &merging.layer);
            for layer in older.into_iter().chain([&layers.newest]) {
                let range = layer.entries.range((from.clone(), Bound::Unbounded));
                let own = range.take_while(|((of, key), _)| *of == map && key.starts_with(prefix)).take(limit);
                let mut count = 0;
                for ((_, key), value) in own {
                    found.insert(key.clone(), value.clone());
                    count += 1;
                    if count == limit {
                        bound = Some(bound.take().map_or(key.clone(), |bound| bound.min(key.clone())));
                    }
                }
            }
        });
        if let Some(bound) = &bound {
            found.retain(|key, _| key <= bound);
        }
        (found, bound)
    }

    /// Entries whose keys start with `prefix` and sort after `after`, in their order, at most `limit`.
    pub(crate) async fn scan(
        &self,
        readers: &SqlitePool,
        map: i64,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, GetError> {
        let mut out: Vec<(Bytes, Bytes)> = Vec::new();
        let mut after = after.map(Bytes::copy_from_slice);
        while out.len() < limit {
            let (recent, bound) = self.upto(map, prefix, after.as_deref(), limit);
            // Enough of the table that what memory replaces or removes leaves as many as are wanted.
            let wanted = limit - out.len() + recent.len();
            let mut merged = recent;
            for (key, value) in table(readers, map, prefix, after.as_deref(), bound.as_deref(), wanted).await? {
                merged.entry(key).or_insert(Some(value));
            }
            let live = merged.into_iter().filter_map(|(key, value)| Some((key, value?)));
            out.extend(live.take(limit - out.len()));
            match bound {
                Some(bound) => after = Some(bound),
                None => break,
            }
        }
        Ok(out)
    }
}

/// Maps of which the table has entries.
async fn filled(conn: &mut SqliteConnection) -> Result<HashSet<i64>, sqlx::Error> {
    // One search for each map, however many entries it has.
    let sql = "WITH RECURSIVE filled (map) AS (
            SELECT min(map) FROM state
            UNION ALL SELECT (SELECT min(map) FROM state WHERE map > filled.map) FROM filled WHERE filled.map IS NOT NULL)
        SELECT map FROM filled WHERE map IS NOT NULL";
    Ok(sqlx::query_scalar(sql).fetch_all(conn).await?.into_iter().collect())
}

/// Entries of the table in a range of keys; `upto` is the last key wanted.
async fn table(
    readers: &SqlitePool,
    map: i64,
    prefix: &[u8],
    after: Option<&[u8]>,
    upto: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, GetError> {
    let mut query = QueryBuilder::new("SELECT key, value FROM state WHERE map = ");
    query.push_bind(map).push(" AND key >= ").push_bind(prefix);
    if let Some(after) = after {
        query.push(" AND key > ").push_bind(after);
    }
    if let Some(upto) = upto {
        query.push(" AND key <= ").push_bind(upto);
    } else if let Some(end) = prefix_end(prefix) {
        query.push(" AND key < ").push_bind(end);
    }
    query.push(" ORDER BY key LIMIT ").push_bind(signed(limit as u64));
    let rows = query.build().fetch_all(readers).await?;
    rows.iter().map(|row| Ok((row.try_get::<Vec<u8>, _>(0)?.into(), unstamped(row.try_get(1)?)?))).collect()
}

/// What can go wrong with a look into the table.
#[derive(Debug)]
pub(crate) enum GetError {
    Sql(sqlx::Error),
    Log(LogError),
}

impl From<sqlx::Error> for GetError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<LogError> for GetError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// The first bytes that sort after everything that starts with `prefix`; `None` where nothing does.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=keep)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// Entries that go into the table.
struct Slice {
    state: Arc<State>,
    entries: Vec<(Key, Option<Bytes>)>,
    /// The runs up to this one are in the table with this slice.
    runs: Option<i64>,
}

#[async_trait]
impl Work for Slice {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        let (mut set, mut removed) = (Vec::with_capacity(self.entries.len()), Vec::new());
        for ((map, key), value) in &self.entries {
            match value {
                Some(value) => set.push((*map, key, value)),
                None => removed.push((*map, key)),
            }
        }
        tx.statements
            .write(tx.conn, Shape::State, set, |binds, (map, key, value)| {
                binds.add(map).add(&**key).add(stamped(value));
            })
            .await?;
        tx.statements
            .write(tx.conn, Shape::Unstate, removed, |binds, (map, key)| {
                binds.add(map).add(&**key);
            })
            .await?;
        if let Some(last) = self.runs {
            sqlx::query("DELETE FROM state_run WHERE id <= ?").bind(last).execute(&mut *tx.conn).await?;
        }
        Ok(())
    }

    fn committed(&mut self) {
        let last = self.entries.pop().map(|(key, _)| key);
        self.state.change(|layers| match (&mut layers.merging, self.runs) {
            (merging, Some(_)) => *merging = None,
            (Some(merging), None) => merging.done = last,
            (None, None) => {}
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn what_is_large_or_gathered_for_long_goes_into_the_table() {
        let layer = |cost, ago| Layer { cost, since: Instant::now().checked_sub(ago), ..Layer::default() };
        let (new, old) = (Duration::ZERO, SLOW);
        for (cost, ago, ripe) in [
            (GATHERED, new, true),
            (GATHERED - 1, new, false),
            (GATHERED_SLOWLY, new, false),
            (GATHERED_SLOWLY, old, true),
            (GATHERED_SLOWLY - 1, old, false),
        ] {
            assert_eq!(layer(cost, ago).is_ripe(), ripe, "{cost} bytes in {ago:?}");
        }
        let run = Bytes::from_static(b"run");
        let mut gathered = Layer::default();
        gathered.take(1, &run, Vec::new());
        let first = gathered.since;
        gathered.take(2, &run, Vec::new());
        assert!(first.is_some() && gathered.since == first, "since the first of its runs");
    }

    #[test]
    fn a_run_comes_back_and_a_damaged_one_is_an_error() {
        let change =
            |key: &'static str, value: Option<&'static str>| Change { map: 7, key: key.into(), value: value.map(Into::into) };
        let mut changes = vec![change("b", Some("1")), change("", None), change("a", Some("")), change("b", Some("2"))];
        let sorted = vec![change("", None), change("a", Some("")), change("b", Some("1")), change("b", Some("2"))];
        let run = encode(&mut changes);
        assert_eq!((&changes, &decode(&run).unwrap()), (&sorted, &sorted));
        for damaged in [run.slice(..run.len() - 3), Bytes::new(), Bytes::from_static(&[2])] {
            assert!(decode(&damaged).is_err());
        }
    }
}
