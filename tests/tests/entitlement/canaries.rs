//! Canaries: what is unique in a cell, so that it is recognised wherever it turns up.
//!
//! A canary is 16 bytes: `zq` and 14 letters in a text, `97` and 14 digits in a number (with the point, where the number is a
//! decimal). Where a citizen number stands it is its own. Places are searched for them as they are and in hexadecimal.

use std::collections::{BTreeSet, HashMap};

use rand::Rng as _;
use rand::rngs::StdRng;

/// One cell that was generated.
pub(crate) type Id = u32;
pub(crate) type Ids = BTreeSet<Id>;

const LENGTH: usize = 16;
const LONGEST: usize = 18;

#[derive(Debug, Default)]
pub(crate) struct Canaries {
    known: HashMap<Vec<u8>, Id>,
    /// What the cell is, for whoever reads of a leak.
    cells: Vec<String>,
}

impl Canaries {
    /// Knows `text` as that of the cell.
    pub(crate) fn keep(&mut self, text: &str, cell: String) -> Id {
        let id = Id::try_from(self.cells.len()).unwrap();
        assert!(self.known.insert(text.as_bytes().to_vec(), id).is_none(), "{text} was given twice");
        self.cells.push(cell);
        id
    }

    pub(crate) fn letters(random: &mut StdRng) -> String {
        let rest = (2..LENGTH).map(|_| char::from(random.random_range(b'a'..=b'y')));
        ['z', 'q'].into_iter().chain(rest).collect()
    }

    pub(crate) fn number(random: &mut StdRng) -> i64 {
        random.random_range(9_700_000_000_000_000..9_799_999_999_999_999)
    }

    pub(crate) fn cell(&self, id: Id) -> &str {
        &self.cells[id as usize]
    }

    /// Every canary in `place`.
    pub(crate) fn found(&self, place: &[u8]) -> Ids {
        let mut found = Ids::new();
        for (at, pair) in place.windows(2).enumerate() {
            let rest = &place[at..];
            match pair {
                b"zq" | b"97" | b"45" => {
                    let lengths = LENGTH..=LONGEST.min(rest.len());
                    found.extend(lengths.filter_map(|length| self.known.get(&rest[..length])));
                }
                b"7a" if rest.len() >= 2 * LENGTH => {
                    let bytes = hex::decode(&rest[..2 * LENGTH]).ok();
                    found.extend(bytes.and_then(|bytes| self.known.get(&bytes)));
                }
                _ => {}
            }
        }
        found
    }

    /// Nothing is in `place` but what is allowed.
    pub(crate) fn assert_only(&self, allowed: &Ids, place: &[u8], what: &str) {
        let leaked = self.found(place).into_iter().filter(|id| !allowed.contains(id)).map(|id| self.cell(id)).collect::<Vec<_>>();
        assert!(leaked.is_empty(), "{what} has what was not granted: {leaked:?}");
    }
}
