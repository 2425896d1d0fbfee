//! What subscribers pull: an outbox for each subscription, in a SQLite file beside the embedded log.
//!
//! The outbox is written by the SQLite sink as any table is: entitled rows, offsets and audit entries in one transaction, older
//! changes refused, refills met and swept. Triggers of that table note each change of a row in the same transaction, at the next
//! position. So a position is given once, and whoever reads up to it has every change before it; what is read never met anything
//! but the one entitlement function. A changed grant empties the outbox before anything is written under it.
//!
//! A [`Cursor`] names a position and the term in which it was given. Each hold of the sink on the outbox begins a term; a copy of the
//! file that is put back knows later terms no more, so that a cursor from beyond it is a gap and never a wrong place.

mod avro;
mod cursor;
mod file;
mod read;
mod table;
mod token;

pub(crate) use self::avro::AvroForm;
pub use self::cursor::Cursor;
pub use self::file::OutboxFile;
pub use self::read::{Event, Page, PullError, Puller, Rows};
pub(crate) use self::table::Outbox;
pub use self::token::Token;

/// An instant as events and answers have it.
fn micros_now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
