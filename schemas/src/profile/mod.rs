//! `profiles/<system>.json`: what the tables of a department's database look like, as `guitong system inspect` found them.
//!
//! A profile describes; it is never read by what runs. Columns and their types, comments, keys and estimates come from the database's
//! catalogue; everything else from a bounded sample, so a share is one of the sampled rows. The order of everything is fixed: two looks at
//! the same tables differ only where the tables do.
//!
//! Values stand in it only of columns with few distinct ones, and of none that looks personal ([`ColumnProfile::withheld`]).

mod checks;
mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::sample::{Cell, SampledColumn, TableSample, Values};
use crate::table::ColumnType;

/// The folder of an exchange directory in which profiles lie.
pub const FOLDER: &str = "profiles";
/// The check of [`ColumnProfile::checks`] that a value with a time of day other than midnight passes.
pub const TIME_OF_DAY: &str = "time_of_day";

/// The tables of one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Name of the system, as its file has it.
    pub system: String,
    /// When the tables were looked at, RFC 3339.
    pub taken: String,
    /// By schema and name.
    pub tables: Vec<TableProfile>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableProfile {
    /// `schema.table`, as the database writes them.
    pub table: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comment: Option<String>,
    /// The key's columns, in its order; empty for a table without one.
    pub key: Vec<String>,
    /// Rows, as the database estimates them.
    pub rows: u64,
    /// Bytes on the database's disk; 0 where it does not tell.
    pub bytes: u64,
    /// Rows that were looked at.
    pub sampled: u64,
    /// In the table's order.
    pub columns: Vec<ColumnProfile>,
}

/// One column. Counts are of sampled rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnProfile {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comment: Option<String>,
    /// As the database declares it: `character varying(18)`.
    #[serde(rename = "type")]
    pub declared: String,
    /// As the exchange publishes it.
    pub kind: ColumnType,
    pub nullable: bool,
    pub nulls: u64,
    /// Blank texts, words that stand for nothing (无, `-`, NULL), and dates of zeros.
    pub empty: u64,
    /// Different values among those that are neither null nor empty.
    pub distinct: u64,
    /// Fewest and most characters of a value; `None` where no row has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length: Option<Length>,
    /// Rows by what their value is made of: `digits`, `letters`, `alphanumeric`, `han`, `mixed`.
    pub characters: BTreeMap<String, u64>,
    /// The commonest shapes: `d18` is eighteen digits, `d4-d2-d2` a date, `h` a run of Chinese characters, `a` one of letters.
    pub shapes: Vec<Counted>,
    /// Rows whose value passes a check of the standard, by the check (`uscc`, `citizen_id`, `date`, `date:excel`, …) or by what it looks
    /// like (`person_name`, `organisation_name`, `address`); only what at least one row passes.
    pub checks: BTreeMap<String, u64>,
    /// Rows whose value is in a code list of the standard, by the list's name.
    pub lists: BTreeMap<String, ListCount>,
    /// Every value with its count, the commonest first, where there are few and none is personal.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub values: Vec<Counted>,
    /// Why values are not shown although there are few.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub withheld: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Length {
    pub min: u32,
    pub max: u32,
}

/// A value or a shape, and in how many rows it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub value: String,
    pub rows: u64,
}

/// How a column's values are in a code list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCount {
    /// As codes, with or without their leading zeros.
    pub by_code: u64,
    /// As names or aliases.
    pub by_name: u64,
}

/// A profile that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is no profile: {source}; `guitong system inspect` writes it anew")]
    Form { path: PathBuf, source: serde_json::Error },
}

impl ProfileError {
    /// What is wrong, without the file's name.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("cannot be read: {source}"),
            Self::Form { source, .. } => format!("is no profile: {source}"),
        }
    }
}

impl Profile {
    /// Where a system's profile lies in an exchange directory.
    #[must_use]
    pub fn path(directory: &Path, system: &str) -> PathBuf {
        directory.join(FOLDER).join(format!("{system}.json"))
    }

    /// The system's profile; `None` where it was never inspected.
    ///
    /// # Errors
    /// [`ProfileError`] for a file that cannot be read, or is none.
    pub fn load(directory: &Path, system: &str) -> Result<Option<Self>, ProfileError> {
        let path = Self::path(directory, system);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ProfileError::Io { path, source }),
        };
        serde_json::from_str(&text).map(Some).map_err(|source| ProfileError::Form { path, source })
    }

    /// Writes the profile in its place: whole or not at all, readable to nobody but its owner.
    ///
    /// # Errors
    /// [`ProfileError::Io`].
    pub fn save(&self, directory: &Path) -> Result<PathBuf, ProfileError> {
        let path = Self::path(directory, &self.system);
        let failed = |source| ProfileError::Io { path: path.clone(), source };
        let folder = directory.join(FOLDER);
        fs::create_dir_all(&folder).map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let partial = folder.join(format!(".{}.json.partial", self.system));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&partial).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&partial, &path).map_err(failed)?;
        Ok(path)
    }

    /// The table named `schema.table`.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&TableProfile> {
        self.tables.iter().find(|table| table.table == name)
    }

    /// Puts tables that were looked at now into their places, and keeps those that were not.
    pub fn merge(&mut self, tables: Vec<TableProfile>) {
        self.tables.retain(|old| !tables.iter().any(|new| new.table == old.table));
        self.tables.extend(tables);
        self.tables.sort_by(|left, right| left.table.cmp(&right.table));
    }
}

impl TableProfile {
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ColumnProfile> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Rows of the sample in which the column has a value.
    #[must_use]
    pub fn present(&self, column: &ColumnProfile) -> u64 {
        self.sampled.saturating_sub(column.nulls + column.empty)
    }
}

impl ColumnProfile {
    /// Takes the values away, for `reason`.
    pub fn withhold(&mut self, reason: &str) {
        if !self.values.is_empty() {
            self.values.clear();
            self.withheld = Some(reason.to_owned());
        }
    }

    /// Rows that pass a check.
    #[must_use]
    pub fn passes(&self, check: &str) -> u64 {
        self.checks.get(check).copied().unwrap_or_default()
    }
}
