//! What commands print. Who reads through `head` or `less` leaves early and has read enough; whatever else cannot be written, as on a
//! full disk, is told at the end, so that nobody takes half an answer for all of it.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use crate::exit::Failure;

/// Why something that was said to the standard output was not written.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// A line on the standard output.
macro_rules! say {
    () => { $crate::output::write("\n") };
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// A line beside the answer, on the standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::write_note(format_args!("{}\n", format_args!($($text)*))) };
}

/// Text on the standard output, as it is.
pub(crate) fn write(text: impl Display) {
    keep(write!(io::stdout().lock(), "{text}"));
}

/// Text on the standard error, as it is. Where that is closed there is nobody to tell.
pub(crate) fn write_note(text: impl Display) {
    let _ = write!(io::stderr().lock(), "{text}");
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first is the cause of those behind it.
        let _ = FAILED.set(error);
    }
}

/// Ends what was said.
///
/// # Errors
/// Where a part of it was not written although somebody reads.
pub(crate) fn finish() -> Result<(), Failure> {
    keep(io::stdout().lock().flush());
    match FAILED.get() {
        None => Ok(()),
        Some(error) => Err(Failure::unreachable(format!("the answer was not written whole: {error}"))),
    }
}
