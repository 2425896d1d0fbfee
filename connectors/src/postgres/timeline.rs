//! Timelines: whether a server that was promoted holds everything that was read before.
//!
//! A promotion begins a new timeline, which has all of its parent's log up to the place where it left it, and none of what the parent
//! wrote after that. So what was read from the parent happened on the new timeline too where all of it lies before that place, and
//! did not where some lies behind it. Places go on rising across the promotion.
//!
//! **The epoch stays** where this is proved, and rises where it is not and the gap is repaired. A version's purpose is that no guard
//! refuses a newer truth: each commit of the new timeline lies at or behind the place where it began, each published one before, so
//! they are in order as they are. A new epoch would give a transaction that is published in part two of them, and so the same change
//! another id.

use guitong_schemas::position::Lsn;

use super::position::Position;
use super::wire::Identity;

/// The timelines before a server's own, each with the place where it was left, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History(Vec<(u32, Lsn)>);

impl History {
    /// Reads what `TIMELINE_HISTORY` answers: a line for each timeline with its number, the place and a reason; `#` begins a comment.
    ///
    /// # Errors
    /// Text that says which line does not read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut left: Vec<(u32, Lsn)> = Vec::new();
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok());
            let place = words.next().and_then(|word| word.parse().ok());
            let (Some(timeline), Some(place)) = (timeline, place) else {
                return Err(format!("`{line}` is no line of a timeline's history"));
            };
            if left.last().is_some_and(|(before, at)| *before >= timeline || *at > place) {
                return Err(format!("`{line}` goes back behind the line before it"));
            }
            left.push((timeline, place));
        }
        Ok(Self(left))
    }

    /// Where a timeline was left; `None` where it is no ancestor.
    fn left(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(of, _)| *of == timeline).map(|(_, place)| *place)
    }

    /// Where the server's own timeline began.
    pub(crate) fn begun(&self) -> Option<Lsn> {
        self.0.last().map(|(_, place)| *place)
    }

    /// Where an ancestor, or the server's own timeline, began: where the one before it was left.
    fn begun_as(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().take_while(|(of, _)| *of < timeline).last().map(|(_, place)| *place)
    }
}

/// Whether everything that was published up to `position` happened on the server's timeline.
///
/// # Errors
/// Text that says what may not have happened there.
pub(crate) fn follow(position: &Position, server: &Identity) -> Result<(), String> {
    let (Identity { timeline, history, .. }, read) = (server, position.timeline);
    // Two standbys that are promoted apart can give their timelines the same number.
    if read <= *timeline
        && let (Some(begun), Some(known)) = (history.begun_as(read), position.forked)
        && begun != known
    {
        return Err(format!(
            "the server's timeline {read} began at {begun}, the one that changes were read from at {known}: another standby took over, \
             and what was read last may not have happened there"
        ));
    }
    if read == *timeline {
        return Ok(());
    }
    if history.begun().is_none() && read < *timeline {
        return Err(format!(
            "the server is on timeline {timeline}, changes were read from timeline {read}, and the server does not have the history \
             of its timeline any more: a standby took over, and what was read last may not have happened there"
        ));
    }
    let Some(left) = history.left(read).filter(|_| read < *timeline) else {
        return Err(format!(
            "the server is on timeline {timeline}, which does not come from timeline {read}, from which changes were read: it was \
             restored, or the standby that took over did not follow that server, and what was read last may not have happened there"
        ));
    };
    let end = published(position);
    if end > left {
        return Err(format!(
            "the server is on timeline {timeline}, which left timeline {read} at {left}, and changes were read up to {end}: what was \
             read last had not reached the standby that took over (synchronized_standby_slots on the primary holds changes back \
             until it has)"
        ));
    }
    Ok(())
}

/// No change that was published lies at or behind this place, where it is some commit's end; a keepalive's counts as well, since what
/// the new timeline wrote before it would not be sent.
fn published(position: &Position) -> Lsn {
    // A commit record that begins before the place is before it as a whole: timelines part between records.
    let inside = position.inside.map(|inside| Lsn(inside.commit.saturating_add(1)));
    // Rows of a table that was read whole may be ahead of the stream.
    let settling = position.settling.iter().map(|table| table.until);
    settling.chain(inside).fold(position.lsn, Ord::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::position::{Inside, Mark, Settling};
    use super::*;

    const HISTORY: &str = "1\t0/3000060\tno recovery target specified\n\n# by hand\n2\t0/5000000\tat restore point \"x y\"\n";

    fn server(timeline: u32, history: &str) -> Identity {
        Identity { system_id: "7".into(), timeline, end: Lsn(0x900_0000), history: History::parse(history).unwrap() }
    }

    fn at(timeline: u32, lsn: u64) -> Position {
        Position::new("7".into(), timeline, 1, Lsn(lsn))
    }

    fn with(mut position: Position, change: impl FnOnce(&mut Position)) -> Position {
        change(&mut position);
        position
    }

    #[test]
    fn a_history_names_where_each_timeline_was_left() {
        let history = History::parse(HISTORY).unwrap();
        assert_eq!((history.left(1), history.left(2), history.left(3)), (Some(Lsn(0x300_0060)), Some(Lsn(0x500_0000)), None));
        assert_eq!(history.begun(), history.left(2));
        assert_eq!(History::parse("\n# nothing\n"), Ok(History::default()));
    }

    #[test]
    fn what_is_no_history_is_an_error() {
        for text in [
            "x",
            "1",
            "1\t0/",
            "1 0/3 x\n1 0/4 x",
            "2 0/3\n1 0/4",
            "1 0/4\n2 0/3",
            "-1\t0/3",
            "4294967296\t0/3",
            "1\t0/1FFFFFFFF",
        ] {
            assert!(History::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_promoted_server_is_followed_where_it_has_all_that_was_read() {
        assert_eq!(follow(&at(1, 0x300_0060), &server(2, "1\t0/3000060\t")), Ok(()));
        assert_eq!(follow(&at(1, 0x300_0060), &server(3, HISTORY)), Ok(()), "two promotions");
        let gap = |position: &Position, server: &Identity, words: &str| {
            let text = follow(position, server).unwrap_err();
            assert!(text.contains(words), "{text}");
        };
        gap(&at(1, 0x300_0061), &server(3, HISTORY), "which left timeline 1 at 0/3000060, and changes were read up to 0/3000061");
        gap(&at(2, 1), &server(3, "1\t0/3000060\t"), "does not come from timeline 2");
        gap(&at(2, 1), &server(1, ""), "does not come from timeline 2");
        gap(&at(1, 1), &server(2, ""), "does not have the history");
        let before = || at(1, 0x300_0000);
        let part = |commit| with(before(), |at| at.inside = Some(Inside::new(commit, Mark { xid: 7, time: 0 })));
        assert_eq!(follow(&part(0x300_005F), &server(2, "1\t0/3000060\t")), Ok(()));
        gap(&part(0x300_0060), &server(2, "1\t0/3000060\t"), "had not reached the standby");
        let whole =
            |until| Settling { schema: "s".into(), name: "t".into(), snapshot: "1:1:".parse().unwrap(), until: Lsn(until) };
        let settling = |until| with(before(), |at| at.settling.push(whole(until)));
        assert_eq!(follow(&settling(0x300_0060), &server(2, "1\t0/3000060\t")), Ok(()));
        gap(&settling(0x300_0061), &server(2, "1\t0/3000060\t"), "had not reached the standby");
    }

    #[test]
    fn another_timeline_of_the_same_number_is_not_followed() {
        let read = |forked| with(at(2, 0x400_0000), |at| at.forked = forked);
        assert_eq!(follow(&read(Some(Lsn(0x300_0060))), &server(2, "1\t0/3000060\t")), Ok(()));
        assert!(follow(&read(Some(Lsn(0x300_0000))), &server(2, "1\t0/3000060\t")).unwrap_err().contains("another standby"));
        let third = |forked| follow(&read(forked), &server(3, HISTORY));
        assert_eq!(third(Some(Lsn(0x300_0060))), Ok(()));
        assert!(third(Some(Lsn(0x300_0000))).unwrap_err().contains("another standby"), "an ancestor that is another");
        assert_eq!(follow(&read(None), &server(2, "1\t0/3000060\t")), Ok(()));
        assert_eq!(follow(&read(Some(Lsn(0x300_0060))), &server(2, "")), Ok(()), "a server that does not tell");
    }

    proptest! {
        #[test]
        fn any_text_is_a_history_or_an_error(text in "([0-9a-zA-Z/#\t ]{0,12}\n?){0,6}") {
            let _ = History::parse(&text);
        }
    }
}
