//! The `[map]` language: how the fields of one entity record are made of one row.
//!
//! What is done to a value, always in this order; each step only where the entry declares it:
//!
//! 1. **source**: `from`, `first`, `join`, `const`, `cel`, `from` with `lookup`; of `cases` the first whose `when` holds; `details`
//!    and `of` say of which row, where there are several
//! 2. **clean**: markup, line breaks, quotes, brackets, spaces
//! 3. **extract**: the group of a regular expression; then **split**, one `part` of it or every one
//! 4. **default**, where nothing is left
//! 5. **codes**: the entry's own list, a file's, or a table's of the standard; `other` for what it does not list
//! 6. **pad** to a width
//! 7. **format**, `open_end`, `unit`, `edition`: how the text is to be read
//! 8. the standard's own reading and check of the field
//!
//! A value that a step cannot work on is an error of the record where the field is mandatory, else a warning and null.

mod codes;
mod entry;
mod pattern;
mod read;
mod source;

use std::collections::BTreeMap;

pub(super) use codes::CodeFiles;
pub use pattern::{Pattern, PatternError, ascii_digits, is_small};
pub(super) use read::{Named, Reader};

use super::resource::Place;

pub use super::reading::expression::is_too_deep;

/// Longest CEL expression, in bytes.
pub const MAX_EXPRESSION: usize = super::reading::expression::MAX_SOURCE;
/// How deep its brackets may lie in each other: parsing goes down as deep.
pub const MAX_BRACKETS: u16 = super::reading::expression::MAX_BRACKETS;

/// How one field is made: the steps of this module's head.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMapping {
    pub value: ValueSource,
    /// The row that `value` reads, where there are several; each of them for a list.
    pub row: Option<RowOf>,
    /// Done in the order declared.
    pub clean: Vec<Cleaning>,
    pub extract: Option<Pattern>,
    /// Splits one text into a list field. In a field of one value each part makes a record of its own, unless `part` takes one:
    /// several winners in one row are several records, and all fields that are split so must give the same number of parts.
    pub split: Option<String>,
    /// The part of a split text that is taken, from 1; a text with fewer parts is empty.
    pub part: Option<usize>,
    /// Used where the source value is null or empty.
    pub default: Option<String>,
    /// Source value -> standard value; a value that is not listed is refused unless `other` says what becomes of it.
    pub codes: BTreeMap<String, String>,
    pub other: Option<Other>,
    pub pad: Option<Pad>,
    /// Date or time formats, tried in order (`yyyyMMdd`, `yyyy-MM-dd HH:mm:ss`, `epoch_ms`, `excel`, …); none: every form
    /// that is unambiguous by itself.
    pub formats: Vec<String>,
    /// Reads 2099-12-31, 长期, 永久 and `--` as the open end 9999-12-31.
    pub open_end: bool,
    pub unit: Option<UnitSource>,
    /// Edition of the code list at the source (`2011` for GB/T 4754, `1984` for GB/T 4658).
    pub edition: Option<String>,
    /// Line and column in the resource's file, for messages.
    pub at: Place,
}

impl FieldMapping {
    /// The value as it comes from its source.
    #[must_use]
    pub fn plain(value: ValueSource, at: Place) -> Self {
        Self {
            value,
            row: None,
            clean: Vec::new(),
            extract: None,
            split: None,
            part: None,
            default: None,
            codes: BTreeMap::new(),
            other: None,
            pad: None,
            formats: Vec::new(),
            open_end: false,
            unit: None,
            edition: None,
            at,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum ValueSource {
    Column(String),
    /// The first of several columns that is not empty.
    First(Vec<String>),
    /// Several columns joined; null and empty ones are left out.
    Joined {
        columns: Vec<String>,
        separator: String,
    },
    Constant(String),
    /// A CEL expression over `row.<column>`.
    Cel(String),
    /// Column `value` of the row that a dictionary has for the values of these columns.
    Lookup {
        lookup: String,
        from: Vec<String>,
        value: String,
    },
    /// The first case whose condition holds makes the field; where none does, it is empty.
    Cases(Vec<Case>),
    /// The items of a nested field.
    Items(Items),
}

/// A row of details, or of the resource's group, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOf {
    pub details: String,
    pub which: Which,
}

/// Which of several rows, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    First,
    Last,
    /// The last for which a CEL expression over `row.<column>` holds.
    When(String),
    /// Each makes a value of a list field.
    Every,
}

/// One of several ways to make a field.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// A CEL expression over `row.<column>`; `None` holds always.
    pub when: Option<String>,
    pub mapping: FieldMapping,
}

/// How the items of a nested field, such as the steps of a case, are made. An item of which every member is empty is left out.
#[derive(Debug, Clone, PartialEq)]
pub enum Items {
    /// One item for each group of columns: 环节1, 环节1时间, 环节2, 环节2时间.
    Groups(Vec<Members>),
    /// Columns whose texts hold a value for each item, in one order; they must have one length.
    Parallel { separator: String, members: Members },
    /// A column that holds a JSON array of objects; what the members read are names in them.
    Json { column: String, members: Members },
    /// One item for each row of details, or of the resource's group; the members read its columns.
    Details { details: String, members: Members },
}

/// Mappings by the nested record's member.
pub type Members = BTreeMap<String, FieldMapping>;

/// One step of cleaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// `html`: the text of a fragment of HTML, without scripts and styles; paragraphs and breaks become spaces.
    Html,
    /// `lines`: line breaks, tabs and runs of spaces become one space.
    Lines,
    /// `quotes`: one pair of quotation marks or book-title marks around the whole value goes.
    Quotes,
    /// `brackets`: what stands in brackets goes, brackets included; nothing where they do not pair.
    Brackets,
    /// `spaces`: every space goes.
    Spaces,
}

/// What becomes of a value that the code list does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    /// This standard value.
    Value(String),
    /// `other = "keep"`: the field reads it as if there were no list.
    Keep,
}

/// `pad = { width = 2, with = "0" }`: characters in front of a shorter text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pad {
    pub width: usize,
    pub with: char,
}

/// Where an amount's unit stands. A unit that the amount's own text names stands above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitSource {
    Fixed(Unit),
    /// In a column of the row; `default` where that is empty. Anything but a unit of money is refused: a rate or a price for one
    /// piece is no amount.
    Column {
        column: String,
        default: Option<Unit>,
    },
}

/// What one unit of the source column is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 元
    Yuan,
    /// 万元, the unit of the standard's amounts
    TenThousandYuan,
    /// 亿元
    HundredMillionYuan,
}

impl Unit {
    pub const ALL: [Self; 3] = [Self::Yuan, Self::TenThousandYuan, Self::HundredMillionYuan];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yuan => "元",
            Self::TenThousandYuan => "万元",
            Self::HundredMillionYuan => "亿元",
        }
    }

    /// The unit that a department's text names: 元, 万元, 亿元, or without 元, or with 人民币.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.strip_prefix("人民币").unwrap_or(text).trim_matches(['（', '）', '(', ')', ' ']) {
            "元" | "圆" => Some(Self::Yuan),
            "万元" | "万圆" | "万" => Some(Self::TenThousandYuan),
            "亿元" | "亿圆" | "亿" => Some(Self::HundredMillionYuan),
            _ => None,
        }
    }
}
