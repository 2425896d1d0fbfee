//! The read side: changes by cursor, the whole state, one record. Each answer is of one read transaction that begins with the
//! question whether the outbox was written under the grant in force.

use std::sync::Arc;

use futures::TryStreamExt as _;
use guitong_govern::{Entitlement, Standing};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, Transaction};
use thiserror::Error;
use tokio::sync::watch;

use super::table::{LAST, changes_of, key_json, record_json, rows_of};
use super::{AvroForm, Cursor, OutboxFile};
use crate::sink::SinkError;
use crate::sql::layout::{Layout, join, quote};
use crate::sql::sqlite::sink_error;
use crate::status::{DeliverStatus, Phase};

/// Bytes of one page; it holds at least one record.
const PAGE_BYTES: usize = 1 << 20;

/// Why nothing is given. Texts hold no data.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PullError {
    /// Changes between the cursor and now may be missing.
    #[error("{0}")]
    Gap(&'static str),
    /// The outbox is not, or not yet again, what the grant says.
    #[error("the subscription is being filled from the exchange's log")]
    Filling,
    #[error("nothing may be delivered now: {0}")]
    Stopped(String),
    #[error("delivery is paused: {0}")]
    Held(String),
    #[error("the outbox cannot be read: {0}")]
    Unavailable(String),
}

const UNKNOWN: &str = "the cursor is of another outbox: the grant has changed since, or a copy of the outbox was put back";
const TOO_OLD: &str = "what followed the cursor is kept no longer";
const AHEAD: &str = "the cursor is beyond the end of the outbox: a copy of it was put back";

impl From<SinkError> for PullError {
    fn from(error: SinkError) -> Self {
        // Before the first hold there are no tables.
        if error.detail.contains("no such table") { Self::Filling } else { Self::Unavailable(error.detail) }
    }
}

/// One change of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub cursor: Cursor,
    /// When it was entered, microseconds since 1970-01-01T00:00Z.
    pub at_us: i64,
    /// The row's key, a JSON object.
    pub key: String,
    /// What is granted of the row, a JSON object; `None` where the row is gone.
    pub record: Option<String>,
}

/// Changes in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Cursor,
    /// There were more when it was read.
    pub more: bool,
}

/// Rows as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Key and record of each, JSON objects.
    pub rows: Vec<(String, String)>,
    /// Where to go live once every page was read.
    pub live: Cursor,
    /// Row behind which the next page begins; `None` after the last one.
    pub next: Option<i64>,
}

/// Reads one subscription's outbox under the grant that it was made for; cheap to clone.
#[derive(Debug, Clone)]
pub struct Puller {
    file: Arc<OutboxFile>,
    subscription: Arc<str>,
    layout: Arc<Layout>,
    avro: Arc<AvroForm>,
    entitlement: Arc<Entitlement>,
    status: watch::Receiver<DeliverStatus>,
}

/// Where an outbox stands at the begin of a read.
struct Stand {
    term: String,
    /// Position of the newest change.
    last: i64,
    /// Position of the oldest change that is kept; behind the last where there is none.
    earliest: i64,
    /// Position of the first change under the grant.
    first: i64,
    whole: bool,
    acknowledged: Option<i64>,
}

type Tx = Transaction<'static, Sqlite>;

impl Puller {
    pub(crate) fn new(
        file: Arc<OutboxFile>,
        subscription: Arc<str>,
        (layout, avro): (Arc<Layout>, Arc<AvroForm>),
        entitlement: Arc<Entitlement>,
        status: watch::Receiver<DeliverStatus>,
    ) -> Self {
        Self { file, subscription, layout, avro, entitlement, status }
    }

    /// Parts of a row's key.
    #[must_use]
    pub fn key_parts(&self) -> usize {
        self.layout.key.len()
    }

    /// Whether anything may leave now. Asked before each read and again before each answer.
    ///
    /// # Errors
    /// [`PullError::Stopped`], [`PullError::Held`].
    pub fn gate(&self) -> Result<(), PullError> {
        if let Standing::Stopped(stop) = self.entitlement.standing(Timestamp::now()) {
            return Err(PullError::Stopped(stop.to_string()));
        }
        match &self.status.borrow().phase {
            Phase::Held { by, reason } => Err(PullError::Held(format!("by {by}: {reason}"))),
            _ => Ok(()),
        }
    }

    /// Sees every change that is entered from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.file.bell(&self.subscription).subscribe()
    }

    /// Changes behind `after`; behind what was acknowledged, or from the first one, where it is not said. At most `limit`, and no
    /// more than a page's bytes.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn events(&self, after: Option<&Cursor>, limit: u32) -> Result<Page, PullError> {
        self.gate()?;
        let (mut tx, stand) = self.begin().await?;
        let from = match after {
            Some(cursor) => self.locate(&mut tx, &stand, cursor).await?,
            None => stand.acknowledged.unwrap_or(stand.first - 1),
        };
        if from + 1 < stand.earliest {
            return Err(PullError::Gap(TOO_OLD));
        }
        let sql = format!(
            "SELECT position, at_us, key, record FROM {} WHERE position > $1 ORDER BY position LIMIT $2",
            quote(&changes_of(&self.subscription))
        );
        let query = sqlx::query_as::<_, (i64, i64, String, Option<String>)>(AssertSqlSafe(sql)).bind(from).bind(i64::from(limit));
        let (mut events, mut bytes) = (Vec::new(), 0);
        let mut rows = query.fetch(&mut *tx);
        while let Some((position, at_us, key, record)) = rows.try_next().await.map_err(sink_error)? {
            bytes += key.len() + record.as_ref().map_or(0, String::len);
            if bytes > PAGE_BYTES && !events.is_empty() {
                break;
            }
            events.push(Event { cursor: Cursor { term: stand.term.clone(), position }, at_us, key, record });
        }
        drop(rows);
        self.gate()?;
        let position = events.last().map_or(from, |event| event.cursor.position);
        let more = position < stand.last;
        Ok(Page { events, next: Cursor { term: stand.term, position }, more })
    }

    /// A page of changes as an Avro object container file.
    ///
    /// # Errors
    /// [`PullError::Unavailable`] where a value is not of its column's kind.
    pub fn avro_changes(&self, page: &Page) -> Result<Vec<u8>, PullError> {
        self.avro.changes(page)
    }

    /// A page of rows as an Avro object container file.
    ///
    /// # Errors
    /// As [`Puller::avro_changes`].
    pub fn avro_rows(&self, page: &Rows) -> Result<Vec<u8>, PullError> {
        self.avro.rows(page)
    }

    /// A page of the rows as they were at `live`, behind row `after`; the first page, which says where `live` is, without either.
    /// A row that changed since `live` is left out: its change follows there.
    ///
    /// # Errors
    /// [`PullError`]; [`PullError::Filling`] also where the rows are not whole yet.
    pub async fn snapshot(&self, page: Option<(&Cursor, i64)>, limit: u32) -> Result<Rows, PullError> {
        self.gate()?;
        let (mut tx, stand) = self.begin().await?;
        if !stand.whole {
            return Err(PullError::Filling);
        }
        let (live, after) = match page {
            Some((cursor, after)) => (self.locate(&mut tx, &stand, cursor).await?, after),
            None => (stand.last, 0),
        };
        if live + 1 < stand.earliest {
            return Err(PullError::Gap(TOO_OLD));
        }
        let (key, record) = (key_json(&self.layout, ""), record_json(&self.layout, ""));
        let sql = format!(
            "SELECT rowid, {key}, {record} FROM {} WHERE rowid > $1 AND {key} NOT IN (SELECT key FROM {} WHERE position > $2)
             ORDER BY rowid LIMIT $3",
            self.layout.table,
            quote(&changes_of(&self.subscription))
        );
        let query = sqlx::query_as::<_, (i64, String, String)>(AssertSqlSafe(sql));
        // One more says that there are more.
        let query = query.bind(after).bind(live).bind(i64::from(limit) + 1);
        let (mut rows, mut bytes, mut next, mut last) = (Vec::new(), 0, None, after);
        let mut found = query.fetch(&mut *tx);
        while let Some((row, key, record)) = found.try_next().await.map_err(sink_error)? {
            bytes += key.len() + record.len();
            if rows.len() >= limit as usize || (bytes > PAGE_BYTES && !rows.is_empty()) {
                next = Some(last);
                break;
            }
            last = row;
            rows.push((key, record));
        }
        drop(found);
        self.gate()?;
        Ok(Rows { rows, live: Cursor { term: stand.term, position: live }, next })
    }

    /// Key and record of one row as it stands, by the parts of its key, or by `guitong_key` in hexadecimal where the key is hashed.
    ///
    /// # Errors
    /// As [`Puller::snapshot`].
    pub async fn record(&self, key: &[String]) -> Result<Option<(String, String)>, PullError> {
        self.gate()?;
        let (mut tx, stand) = self.begin().await?;
        if !stand.whole {
            return Err(PullError::Filling);
        }
        let conditions = self.layout.key.iter().enumerate().map(|(at, name)| format!("{} = ${}", quote(name), at + 1));
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE {}",
            key_json(&self.layout, ""),
            record_json(&self.layout, ""),
            self.layout.table,
            join(conditions, " AND ")
        );
        let mut query = sqlx::query_as::<_, (String, String)>(AssertSqlSafe(sql));
        for part in key {
            query = match self.layout.hashed {
                // What is no key of this form is the key of no row.
                true => query.bind(hex::decode(part).unwrap_or_default()),
                false => query.bind(part.clone()),
            };
        }
        let found = query.fetch_optional(&mut *tx).await.map_err(sink_error)?;
        self.gate()?;
        Ok(found)
    }

    /// Notes that the subscriber needs nothing up to `cursor` again; an earlier one changes nothing.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn acknowledge(&self, cursor: &Cursor) -> Result<(), PullError> {
        self.gate()?;
        let (mut tx, stand) = self.begin().await?;
        let position = self.locate(&mut tx, &stand, cursor).await?;
        drop(tx);
        // Of the term that was found: a grant that changes meanwhile has forgotten it.
        let sql = "UPDATE guitong_outboxes SET acknowledged = MAX(COALESCE(acknowledged, 0), $2) WHERE subscription = $1
            AND EXISTS (SELECT 1 FROM guitong_terms WHERE subscription = $1 AND term = $3)";
        let noted = sqlx::query(sql).bind(self.subscription.to_string()).bind(position).bind(cursor.term.clone());
        match noted.execute(&self.file.writer.pool).await.map_err(sink_error)?.rows_affected() {
            0 => Err(PullError::Gap(UNKNOWN)),
            _ => Ok(()),
        }
    }

    /// A read of the outbox as it is now, if it was written under the grant in force.
    async fn begin(&self) -> Result<(Tx, Stand), PullError> {
        self.file.make().await?;
        let mut tx = self.file.readers.begin().await.map_err(sink_error)?;
        let sql = format!(
            "SELECT s.grant_fingerprint, o.whole, o.first, o.acknowledged, {LAST},
                 COALESCE((SELECT MIN(position) FROM {}), {LAST} + 1),
                 (SELECT term FROM guitong_terms WHERE subscription = $1 ORDER BY id DESC LIMIT 1)
             FROM guitong_subscriptions s JOIN guitong_outboxes o ON o.subscription = s.subscription
             WHERE s.subscription = $1 AND s.table_name = $3",
            quote(&changes_of(&self.subscription))
        );
        type Row = (Vec<u8>, bool, i64, Option<i64>, i64, i64, Option<String>);
        let stand = sqlx::query_as::<_, Row>(AssertSqlSafe(sql)).bind(self.subscription.to_string());
        let stand = stand.bind(changes_of(&self.subscription)).bind(quote(&rows_of(&self.subscription)));
        let stand = stand.fetch_optional(&mut *tx).await.map_err(sink_error)?;
        let Some((grant, whole, first, acknowledged, last, earliest, Some(term))) = stand else { return Err(PullError::Filling) };
        if grant != self.entitlement.fingerprint() {
            return Err(PullError::Filling);
        }
        Ok((tx, Stand { term, last, earliest, first, whole, acknowledged }))
    }

    /// Position of a cursor, if it is of this outbox as it was ever since.
    async fn locate(&self, connection: &mut SqliteConnection, stand: &Stand, cursor: &Cursor) -> Result<i64, PullError> {
        let sql = "SELECT (SELECT MIN(later.first) FROM guitong_terms later
                 WHERE later.subscription = $1 AND later.id > guitong_terms.id) - 1
             FROM guitong_terms WHERE subscription = $1 AND term = $2";
        let end = sqlx::query_as::<_, (Option<i64>,)>(sql).bind(self.subscription.to_string()).bind(cursor.term.clone());
        let Some((end,)) = end.fetch_optional(connection).await.map_err(sink_error)? else { return Err(PullError::Gap(UNKNOWN)) };
        if cursor.position > end.unwrap_or(stand.last) {
            return Err(PullError::Gap(AHEAD));
        }
        Ok(cursor.position)
    }
}
