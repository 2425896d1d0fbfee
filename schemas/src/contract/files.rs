//! The sink `files` of a subscription: a folder, or a bucket of an object store, that the subscriber, or whoever carries files over a
//! gap, takes files from.

mod bucket;

use std::path::PathBuf;
use std::time::Duration;

pub use self::bucket::{Addressing, Bucket};
use super::load::World;
use super::reading::scalar;
use super::reading::section::Section;

/// Every key of the section.
pub(super) const KEYS: [&str; 9] = ["path", "store", "state", "format", "encoding", "header", "formulas", "close", "kind"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub place: Place,
    /// Folder in which the exchange keeps what it knows of the subscription: offsets, rows that were delivered, changes that are
    /// in no file yet. On a disk with locks: no network mount.
    pub state: PathBuf,
    pub format: FileFormat,
    pub close: Close,
}

/// Where files appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    Csv(Csv),
    /// A JSON object on each line, UTF-8.
    JsonLines,
    /// Avro's object container files.
    Avro,
    Parquet,
}

/// CSV as RFC 4180 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Csv {
    pub encoding: Encoding,
    pub header: Header,
    pub formulas: Formulas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// With the mark in front by which Excel knows it.
    Utf8Marked,
    Utf8,
    Gb18030,
}

/// What the first line names columns by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Chinese titles.
    Titles,
    Names,
}

/// What becomes of texts that a spreadsheet would calculate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formulas {
    /// They get an apostrophe in front, as do texts that begin with one.
    Escaped,
    AsTheyAre,
}

/// When a file is closed: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// Bytes of values.
    pub size: usize,
    /// Since the oldest change in it was delivered.
    pub after: Duration,
    /// At the end of the day, in the exchange's time zone.
    pub daily: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Csv,
    Other(FileFormat),
}

const FORMATS: [(&str, Format); 4] = [
    ("csv", Format::Csv),
    ("jsonl", Format::Other(FileFormat::JsonLines)),
    ("avro", Format::Other(FileFormat::Avro)),
    ("parquet", Format::Other(FileFormat::Parquet)),
];
const ENCODINGS: [(&str, Encoding); 3] =
    [("utf-8", Encoding::Utf8Marked), ("utf-8-plain", Encoding::Utf8), ("gb18030", Encoding::Gb18030)];
const HEADERS: [(&str, Header); 2] = [("titles", Header::Titles), ("names", Header::Names)];
const FORMULAS: [(&str, Formulas); 2] = [("escaped", Formulas::Escaped), ("as-they-are", Formulas::AsTheyAre)];

/// Keys that are for CSV alone.
const OF_CSV: [&str; 3] = ["encoding", "header", "formulas"];

/// Beside the files, where `state` is not given.
const STATE: &str = ".guitong";

pub(super) fn read(section: &Section<'_>, world: &World<'_>) -> Option<Files> {
    let place = read_place(section, world);
    let state = section.words("state").map(|found| world.surroundings.root.join(found.value));
    if state.is_none() && section.has("store") {
        let help = "name a folder on a disk of the node: state = \"/var/lib/guitong/<subscription>\"".to_owned();
        let message = "`state` is missing: an object store cannot hold what the exchange keeps";
        section.problem(&section.key_at("store"), "missing-key", message, Some(help));
    }
    let format = section.required("format", |section, key| section.choice(key, &FORMATS)).map(|found| found.value);
    let csv = Csv {
        encoding: section.choice("encoding", &ENCODINGS).map_or(Encoding::Utf8Marked, |found| found.value),
        header: section.choice("header", &HEADERS).map_or(Header::Titles, |found| found.value),
        formulas: section.choice("formulas", &FORMULAS).map_or(Formulas::Escaped, |found| found.value),
    };
    if matches!(format, Some(Format::Other(_))) {
        for key in OF_CSV.into_iter().filter(|key| section.has(key)) {
            let help = "leave it out: the others are UTF-8, and their fields have their names".to_owned();
            section.problem(
                &section.key_at(key),
                "csv-only",
                format_args!("`{key}` is for the format \"csv\" alone"),
                Some(help),
            );
        }
    }
    let close = section.section("close").map_or(Some(USUAL), read_close);
    let place = place?;
    let state = match (state, &place) {
        (Some(state), _) => state,
        (None, Place::Folder(path)) => path.join(STATE),
        (None, Place::Bucket(_)) => return None,
    };
    let format = match format? {
        Format::Csv => FileFormat::Csv(csv),
        Format::Other(format) => format,
    };
    Some(Files { place, state, format, close: close? })
}

fn read_place(section: &Section<'_>, world: &World<'_>) -> Option<Place> {
    let Some(store) = section.own_section("store") else {
        let path = section.required("path", Section::words)?;
        return Some(Place::Folder(world.surroundings.root.join(path.value)));
    };
    if section.has("path") {
        section.know("path");
        let help = "leave out `path`, or the section `store`".to_owned();
        section.problem(&section.key_at("path"), "one-place", "`path` and `store` are two places for the same files", Some(help));
        return None;
    }
    bucket::read(store, &world.surroundings).map(Place::Bucket)
}

/// A file of 64 MiB can be opened in a spreadsheet; what changed is with the subscriber within five minutes.
const USUAL: Close = Close { size: 64 << 20, after: Duration::from_secs(300), daily: false };

fn read_close(section: Section<'_>) -> Option<Close> {
    let size = section.parsed("size", |text| match scalar::size(text)? {
        bytes if (MIN_SIZE..=MAX_SIZE).contains(&bytes) => Ok(bytes),
        _ => Err("must be from 64 KiB to 1 GiB".to_owned()),
    });
    let after = section.parsed("after", |text| match scalar::duration(text)? {
        after if after <= MAX_AFTER => Ok(after),
        _ => Err("must not be longer than 24 h".to_owned()),
    });
    let daily = section.flag("daily").is_some_and(|found| found.value);
    let wrong = (section.has("size") && size.is_none()) || (section.has("after") && after.is_none());
    section.finish();
    let close = Close {
        size: size.map_or(USUAL.size, |found| found.value),
        // Whoever wants a file a day does not want one every five minutes.
        after: after.map_or(if daily { MAX_AFTER } else { USUAL.after }, |found| found.value),
        daily,
    };
    (!wrong).then_some(close)
}

/// Smaller files would be more manifest than data; larger ones cannot be carried, nor written again after a crash in short time.
const MIN_SIZE: usize = 64 << 10;
const MAX_SIZE: usize = 1 << 30;
const MAX_AFTER: Duration = Duration::from_secs(86_400);
