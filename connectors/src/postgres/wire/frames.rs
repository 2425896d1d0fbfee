//! Messages out of the bytes of the stream.
//!
//! Bytes are read into blocks of [`BLOCK`] bytes; a message that is longer has a block of its own. Messages are slices of their block,
//! which lives as long as one of them: whoever keeps a row pays for its block ([`Frame::block`]). Data that is longer than what is kept of
//! a value is made short while it comes in ([`super::shorten`]).

use bytes::{Buf, Bytes, BytesMut};

use postgres_protocol::message::backend::COPY_DATA_TAG;

use super::error::WireError;
use super::shorten::{KEPT, Rows, Shortener};

/// Some hundred rows, so that reading costs little beside them; and little enough to be pinned by a single row.
pub(crate) const BLOCK: usize = 64 << 10;
/// Below this a block is not read into any more: reads of a few bytes would cost a system call each.
const WORTH_READING: usize = 8 << 10;
/// The kind, then the length of what follows, itself included.
const HEAD: usize = 5;
/// Head of data of the log: its kind, two places and a time.
pub(super) const DATA: usize = 25;
/// CopyOutResponse: rows follow, in text (0) or in binary (1).
pub(super) const COPY_OUT: u8 = b'H';
/// The server allocates no message beyond this.
const LONGEST: usize = 1 << 30;

/// One message without its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) body: Bytes,
    pub(crate) block: Block,
}

/// Which memory a message keeps alive, and how much of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Read, and not a whole message yet or not looked at.
    read: BytesMut,
    /// Block of `read`.
    filling: Block,
    /// Whole messages.
    whole: Bytes,
    /// Block of `whole`.
    block: Block,
    /// How rows are in data; `None` where nothing is made short.
    rows: Option<Rows>,
    /// Bytes that are kept of a value.
    kept: usize,
    /// Data that is being made short, and how much of it is to come.
    long: Option<(Shortener, usize)>,
}

impl Frames {
    /// Goes on with what was read after the last message of the login.
    pub(crate) fn after(read: BytesMut, rows: Rows) -> Self {
        let filling = Block { number: 1, bytes: read.capacity() };
        Self { filling, read, rows: Some(rows), kept: KEPT, ..Self::default() }
    }

    /// The next message, where it is here as a whole.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if self.whole.is_empty() {
            if let Some(frame) = self.long()? {
                return Ok(Some(frame));
            }
            self.cut()?;
        }
        let Some(length) = length(&self.whole)?.filter(|length| *length <= self.whole.len()) else { return Ok(None) };
        let mut body = self.whole.split_to(length);
        let kind = body.first().copied().unwrap_or_default();
        body.advance(HEAD);
        match &mut self.rows {
            // What comes between the start and the stop of a stream is of a transaction in progress.
            Some(Rows::Tuples { in_progress }) => match body.get(DATA) {
                Some(b'S') => *in_progress = true,
                Some(b'E') => *in_progress = false,
                _ => {}
            },
            Some(rows) if kind == COPY_OUT => *rows = if body.first() == Some(&1) { Rows::Binary } else { Rows::Line },
            _ => {}
        }
        Ok(Some(Frame { kind, body, block: self.block }))
    }

    /// Nothing is left of what was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.read.is_empty()
    }

    /// Goes on with a long message, or begins with one that is next; the message once it is here.
    fn long(&mut self) -> Result<Option<Frame>, WireError> {
        if self.long.is_none() {
            let (Some(rows), Some(length)) = (self.rows, length(&self.read)?) else { return Ok(None) };
            if length <= self.kept || self.read.first() != Some(&COPY_DATA_TAG) {
                return Ok(None);
            }
            self.read.advance(HEAD);
            self.long = Some((Shortener::new(rows, self.kept), length - HEAD));
        }
        let Some((shortener, left)) = &mut self.long else { return Ok(None) };
        let here = self.read.split_to(self.read.len().min(*left));
        shortener.take(&here);
        *left -= here.len();
        if *left > 0 {
            return Ok(None);
        }
        let Some((shortener, _)) = self.long.take() else { return Ok(None) };
        // Between two numbers of the block that is read into.
        let block = Block { number: self.filling.number + 1, bytes: shortener.capacity() };
        let body = shortener.finish();
        self.filling.number += 2;
        Ok(Some(Frame { kind: COPY_DATA_TAG, body, block }))
    }

    /// Takes all messages that are whole off what was read, as one.
    fn cut(&mut self) -> Result<(), WireError> {
        let mut end = 0;
        while let Some(rest) = self.read.get(end..)
            && let Some(length) = length(rest)?
            && length <= rest.len()
        {
            end += length;
        }
        if end > 0 {
            self.whole = self.read.split_to(end).freeze();
            self.block = self.filling;
        }
        Ok(())
    }

    /// Where to read into: there is room for the rest of the message that has begun.
    pub(crate) fn room(&mut self) -> Result<&mut BytesMut, WireError> {
        let begun = self.read.len();
        // What was read of a long message is taken already.
        let length = if self.long.is_some() { HEAD } else { length(&self.read)?.unwrap_or(HEAD) };
        let free = self.read.capacity() - begun;
        let wanted = if length > BLOCK { length - begun } else { length.saturating_sub(begun).max(WORTH_READING) };
        if free < wanted {
            let mut fresh = BytesMut::with_capacity(length.max(BLOCK));
            fresh.extend_from_slice(&self.read);
            self.filling = Block { number: self.filling.number + 1, bytes: fresh.capacity() };
            self.read = fresh;
        }
        Ok(&mut self.read)
    }
}

/// Length of the message at the start of `bytes`, its head included; `None` where its head is not there yet.
fn length(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some((_, rest)) = bytes.split_first() else { return Ok(None) };
    let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if (4..=LONGEST).contains(&length) {
        Ok(Some(length + 1))
    } else {
        Err(WireError::Protocol(format!("a message says that it is {length} bytes long")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `bytes` in pieces of `sizes`, and gives the messages with what ended it.
    fn drained(bytes: &[u8], sizes: &[usize]) -> (Vec<Frame>, Result<(), WireError>) {
        let (mut frames, mut out, mut rest) = (Frames::default(), Vec::new(), bytes);
        let mut sizes = sizes.iter().cycle();
        let ended = loop {
            match frames.next() {
                Ok(Some(frame)) => {
                    out.push(frame);
                    continue;
                }
                Ok(None) if rest.is_empty() => break Ok(()),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            match frames.room() {
                Ok(room) => {
                    let free = room.capacity() - room.len();
                    assert!(free > 0, "nothing could be read");
                    let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(free).min(rest.len()));
                    room.extend_from_slice(piece);
                    rest = after;
                }
                Err(error) => break Err(error),
            }
        };
        (out, ended)
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), sizes in proptest::collection::vec(1_usize..90, 1..5),
        ) {
            // Short lengths, so that some of it are messages.
            let near: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| if at % 7 < 4 { 0 } else { byte % 16 }).collect();
            let _ = drained(&bytes, &sizes);
            let _ = drained(&near, &sizes);
        }

        #[test]
        fn messages_come_out_as_they_went_in(
            bodies in proptest::collection::vec((any::<u8>(), 0_usize..3_000), 0..90),
            sizes in proptest::collection::vec(1_usize..100_000, 1..6), long in proptest::option::of(BLOCK..3 * BLOCK),
        ) {
            let bodies: Vec<(u8, Vec<u8>)> =
                bodies.into_iter().chain(long.map(|length| (b'd', length))).map(|(kind, length)| (kind, vec![kind; length])).collect();
            let bytes: Vec<u8> = bodies.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            let (frames, ended) = drained(&bytes, &sizes);
            prop_assert!(ended.is_ok());
            let got: Vec<(u8, Vec<u8>)> = frames.iter().map(|frame| (frame.kind, frame.body.to_vec())).collect();
            prop_assert_eq!(got, bodies);
            for frame in &frames {
                let longest = BLOCK.max(frame.body.len() + HEAD);
                prop_assert!(frame.block.bytes <= longest, "a message of {} bytes pins {}", frame.body.len(), frame.block.bytes);
            }
        }
    }

    /// A row of the stream with a value of this length between two short ones.
    fn row(length: usize) -> Vec<u8> {
        let value = |text: &[u8]| [b"t", &u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat();
        [&[b'w'; DATA], &b"I\0\0\0\x07N\0\x03"[..], &value(b"before"), &value(&vec![b'v'; length]), &value(b"after")].concat()
    }

    #[test]
    fn a_long_row_is_made_short_and_never_held_whole() {
        const KEEP: usize = 100_000;
        for (length, is_cut) in [(KEEP, false), (KEEP + 1, true), (40 * KEEP, true)] {
            let bytes = [message(b'd', &row(10)), message(b'd', &row(length)), message(b'd', b"next")].concat();
            let mut frames = Frames { kept: KEEP, ..Frames::after(BytesMut::new(), Rows::Tuples { in_progress: false }) };
            let (mut got, mut most) = (Vec::new(), 0);
            for piece in bytes.chunks(3_000) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let room = frames.room().unwrap();
                    let (now, later) = piece.split_at(piece.len().min(room.capacity() - room.len()));
                    room.extend_from_slice(now);
                    piece = later;
                    while let Some(frame) = frames.next().unwrap() {
                        got.push(frame);
                    }
                    let long = frames.long.as_ref().map_or(0, |(shortener, _)| shortener.capacity());
                    most = most.max(long + frames.read.capacity());
                }
            }
            assert_eq!(got.len(), 3, "{length}");
            assert_eq!((&got[0].body[..], &got[2].body[..]), (&row(10)[..], &b"next"[..]));
            let short = &got[1].body;
            assert!(short.ends_with(b"after") && short.len() <= KEEP + 100, "{} of {length}", short.len());
            assert_eq!(short[..] == row(length)[..], !is_cut, "{length}");
            assert!(most <= 3 * KEEP, "{most} bytes for a value of {length}");
            let numbers: Vec<u64> = got.iter().map(|frame| frame.block.number).collect();
            assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "{numbers:?}");
        }
    }

    #[test]
    fn rows_of_transactions_in_progress_are_known() {
        let in_stream = |row: &[u8]| [&row[..DATA + 1], &[0, 0, 0, 9], &row[DATA + 1..]].concat();
        let start = [&[b'w'; DATA][..], b"S\0\0\0\x09\x01"].concat();
        let stop = [&[b'w'; DATA][..], b"E"].concat();
        let bodies = [start, in_stream(&row(900)), stop, row(900)];
        let mut frames = Frames { kept: 300, ..Frames::after(BytesMut::new(), Rows::Tuples { in_progress: false }) };
        let mut got = Vec::new();
        for body in &bodies {
            frames.room().unwrap().extend_from_slice(&message(b'd', body));
            got.extend(frames.next().unwrap());
        }
        assert_eq!((got[1].body.len(), got[3].body.len()), (bodies[1].len() - 600 + 1, bodies[3].len() - 600 + 1));
        assert!(got[1].body.ends_with(b"after") && got[3].body.ends_with(b"after"));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for length in [0_u32, 3, 0x4000_0001, u32::MAX] {
            let mut bytes = vec![b'd'];
            bytes.extend(length.to_be_bytes());
            assert!(matches!(drained(&bytes, &[9]), (_, Err(WireError::Protocol(_)))), "{length}");
        }
    }

    #[test]
    fn a_block_is_left_behind_once_a_long_message_is_read() {
        let mut frames = Frames::default();
        let long = message(b'd', &vec![7; 5 * BLOCK]);
        frames.room().unwrap().extend_from_slice(&long[..10]);
        assert_eq!(frames.next().unwrap(), None);
        let room = frames.room().unwrap();
        assert_eq!(room.capacity(), long.len());
        room.extend_from_slice(&long[10..]);
        assert_eq!(frames.next().unwrap().unwrap().block, Block { number: 2, bytes: long.len() });
        assert!(frames.room().unwrap().capacity() <= BLOCK);
    }
}
