//! Transaction metadata: where transactions begin and end, and the number of each event in its transaction.
//!
//! Events are counted as the stream brings them, those included that were published before a restart or that a first load holds, so
//! the numbers of a transaction are the same however often it is received.

use guitong_schemas::change::{Notice, Order, TransactionMark};

/// Of the transaction that is being received.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    mark: Option<TransactionMark>,
    /// Its beginning is published.
    opened: bool,
    /// It holds something that is not this program's.
    touched: bool,
    events: u64,
    /// In the order of their first events.
    tables: Vec<(String, u64)>,
}

impl Metadata {
    /// `resumed`: a part of the transaction was published before a restart, and its beginning with it.
    pub(crate) fn begin(&mut self, (xid, commit, ts_us): (u32, u64, i64), resumed: bool) {
        let mark = TransactionMark { xid: u64::from(xid), commit, ts_us };
        *self = Self { mark: Some(mark), opened: resumed, ..Self::default() };
    }

    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    pub(crate) fn count(&mut self, table: &str) -> Order {
        self.touched = true;
        self.events += 1;
        let in_table = match self.tables.iter_mut().find(|(name, _)| name == table) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.tables.push((table.to_owned(), 1));
                1
            }
        };
        Order { total: self.events, in_table }
    }

    /// Comes before the first event that is published.
    pub(crate) fn open(&mut self, notices: &mut Vec<Notice>) {
        if let (Some(mark), false) = (self.mark, self.opened) {
            notices.push(Notice::Begin(mark));
            self.opened = true;
        }
    }

    pub(crate) fn end(&mut self, notices: &mut Vec<Notice>) {
        if self.touched {
            self.open(notices);
            if let Some(mark) = self.mark {
                let (events, tables) = (self.events, std::mem::take(&mut self.tables));
                notices.push(Notice::End { mark, events, tables });
            }
        }
        *self = Self::default();
    }
}
