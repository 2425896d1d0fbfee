//! The owner with one batch under way: while that becomes durable, the next is read, mapped and settled as if it were.
//!
//! What the batch under way changes in keyed state is read as changed. Whatever else is asked of the owner waits for its end, the next
//! append too, so that at most one is under way and nothing is written behind one that failed: its error is the answer to whoever asks
//! next, and ends the session with all that was made since. Nobody outside is told of a batch before [`Ahead::settle`].

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use foldhash::fast::RandomState;
use guitong_log::{
    AppendError, Batch, Committed, KeyedState, LogError, OwnedLog, OwnerId, StateChange, StoredOffset, TopicPartition,
};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

#[derive(Debug)]
pub(super) struct Ahead {
    id: OwnerId,
    held: Mutex<Held>,
    state: Arc<dyn KeyedState>,
    /// What the batch under way changes, by map.
    changes: HashMap<Arc<str>, Changes, RandomState>,
    /// Whether a batch may be under way while the next is made.
    pub(super) runs_ahead: bool,
}

type Changes = HashMap<Bytes, Option<Bytes>, RandomState>;

#[derive(Debug)]
enum Held {
    Here(Box<dyn OwnedLog>),
    UnderWay(JoinHandle<(Box<dyn OwnedLog>, Result<Committed, AppendError>)>),
    /// A batch did not become durable on which others were made.
    Failed,
}

fn failed() -> AppendError {
    AppendError::Unknown(LogError::Other("the batch before did not become durable; open the owner again".to_owned()))
}

impl Held {
    /// The owner, once nothing is under way. How the batch under way failed is told once; after that nothing goes on.
    async fn settle(&mut self) -> Result<&mut Box<dyn OwnedLog>, AppendError> {
        if let Self::UnderWay(append) = self {
            let ended = append.await;
            *self = Self::Failed;
            let (owner, ended) = ended.map_err(|_| failed())?;
            ended?;
            *self = Self::Here(owner);
        }
        match self {
            Self::Here(owner) => Ok(owner),
            Self::UnderWay(_) | Self::Failed => Err(failed()),
        }
    }
}

impl Ahead {
    pub(super) fn new(owner: Box<dyn OwnedLog>) -> Self {
        let (id, state) = (owner.owner().clone(), owner.state());
        Self { id, held: Mutex::new(Held::Here(owner)), state, changes: HashMap::default(), runs_ahead: false }
    }

    /// Whether a batch was handed over whose end nobody has asked for.
    pub(super) fn is_under_way(&mut self) -> bool {
        matches!(self.held.get_mut(), Held::UnderWay(_))
    }

    /// Waits until nothing is under way.
    pub(super) async fn settle(&mut self) -> Result<(), AppendError> {
        self.held.get_mut().settle().await?;
        self.changes.clear();
        Ok(())
    }

    fn note(&mut self, state: &[StateChange]) {
        for of_map in state.chunk_by(|one, next| one.map == next.map) {
            let Some(first) = of_map.first() else { continue };
            let changes = self.changes.entry(Arc::clone(&first.map)).or_default();
            changes.reserve(of_map.len());
            changes.extend(of_map.iter().map(|change| (change.key.clone(), change.value.clone())));
        }
    }
}

#[async_trait]
impl OwnedLog for Ahead {
    fn owner(&self) -> &OwnerId {
        &self.id
    }

    /// A resource has none.
    fn position(&self) -> Option<Bytes> {
        None
    }

    /// `None` while a batch is under way.
    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        let held = self.held.try_lock().ok()?;
        if let Held::Here(owner) = &*held { owner.offset(at) } else { None }
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        self.settle().await?;
        self.held.get_mut().settle().await?.append(batch).await
    }

    async fn begin(&mut self, batch: Batch) -> Result<(), AppendError> {
        if !self.runs_ahead {
            return self.append(batch).await.map(drop);
        }
        self.settle().await?;
        self.note(&batch.state);
        let held = self.held.get_mut();
        let Held::Here(mut owner) = std::mem::replace(held, Held::Failed) else { return Err(failed()) };
        *held = Held::UnderWay(tokio::spawn(async move {
            let ended = owner.append(batch).await;
            (owner, ended)
        }));
        Ok(())
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        Arc::clone(&self.state)
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let Some(changes) = self.changes.get(map).filter(|changes| !changes.is_empty()) else {
            return self.state.get(map, keys).await;
        };
        let rest: Vec<Bytes> = keys.iter().filter(|key| !changes.contains_key(*key)).cloned().collect();
        let mut rest = self.state.get(map, &rest).await?.into_iter();
        Ok(keys.iter().map(|key| changes.get(key).cloned().or_else(|| rest.next()).flatten()).collect())
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let mut held = self.held.lock().await;
        let settled = held.settle().await.map_err(|error| match error {
            AppendError::Refused(error) => error,
            AppendError::Unknown(error) => LogError::Unavailable { detail: error.to_string() },
        });
        settled?.scan(map, prefix, after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
    use guitong_log::{ExchangeLog, Role};

    use super::*;

    fn change(key: &'static str, value: Option<&'static str>) -> StateChange {
        StateChange { map: "rows".into(), key: key.into(), value: value.map(Into::into) }
    }

    #[tokio::test]
    async fn what_is_under_way_is_read_as_changed_beside_what_is_durable() {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let mut owner = log.open(&OwnerId::new(Role::Normalise, "company")).await.unwrap();
        let durable = vec![change("gone", Some("1")), change("stays", Some("2")), change("other", Some("3"))];
        owner.append(Batch { state: durable, ..Batch::default() }).await.unwrap();
        let mut ahead = Ahead::new(owner);
        ahead.runs_ahead = true;
        let changes = vec![change("gone", None), change("new", Some("4")), change("other", Some("5"))];
        ahead.begin(Batch { state: changes, ..Batch::default() }).await.unwrap();
        assert!(ahead.is_under_way());
        let keys = ["gone", "never", "new", "stays", "other"].map(Bytes::from);
        let read = ahead.get("rows", &keys).await.unwrap();
        assert_eq!(read, [None, None, Some("4".into()), Some("2".into()), Some("5".into())]);
        log.close().await;
    }
}
