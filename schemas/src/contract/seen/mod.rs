//! What `guitong system inspect` saw of a system's tables, held against what the files say of them.
//!
//! Only `guitong check` asks. A profile is one look at a table, so what runs never depends on it: a column that is not there, a value
//! that no code list covers and a conversion that loses something are told before anything runs. Where no profile has a table, nothing
//! is said of it, but that ([`unseen`]).
//!
//! An **error** is what will go wrong with every row, or with rows that were seen, and what the file can settle in one line. A **warning**
//! is what may go wrong: a limit that no seen value reaches, values of rows that a condition may leave out.

mod cover;
mod fit;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::join::Join;
use super::load::{World, tree_problem};
use super::mapping::{FieldMapping, ValueSource};
use super::problem::Severity;
use super::reading::document::{At, Report};
use super::reading::scalar;
use super::reading::section::Section;
use super::{Directory, Name};
use crate::profile::{ColumnProfile, FOLDER, Profile, TableProfile};
use crate::standard::{Clock, EntityField, Zone};
use crate::table::TableName;

/// The profiles of a directory, each read once.
#[derive(Debug, Default)]
pub(super) struct Profiles(RefCell<BTreeMap<String, Option<Rc<Profile>>>>);

/// The tables that one resource reads, as far as they were seen.
#[derive(Debug)]
pub(super) struct Seen {
    profile: Option<Rc<Profile>>,
    own: Option<TableName>,
    joined: BTreeMap<String, TableName>,
    /// The resource takes only some of its table's rows.
    conditional: bool,
}

/// Which rows' values an entry reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Every,
    /// Those for which a case holds.
    Some,
    /// Parts of the column's texts.
    Parts,
}

/// An entry of a mapping, and the places of its parts.
pub(super) struct Entry<'e> {
    pub(super) section: &'e Section<'e>,
    pub(super) field: &'e EntityField,
    pub(super) mapping: &'e FieldMapping,
    /// Where its column is named.
    pub(super) source: At,
    /// Where its code list stands.
    pub(super) codes: At,
    pub(super) extent: Extent,
}

/// A column that an entry reads.
#[derive(Clone, Copy)]
struct Source<'s> {
    table: &'s TableProfile,
    column: &'s ColumnProfile,
    /// Every row of the table that was seen is one that the entry reads.
    every: bool,
}

/// What is found about an entry.
struct Remark {
    severity: Severity,
    code: &'static str,
    message: String,
    help: String,
}

impl Profiles {
    /// The profile of a system; one that does not read is reported once.
    fn of(&self, system: &Name, world: &World<'_>, report: &Report) -> Option<Rc<Profile>> {
        if let Some(known) = self.0.borrow().get(system.as_str()) {
            return known.clone();
        }
        let profile = Profile::load(world.surroundings.root, system.as_str()).unwrap_or_else(|error| {
            let help = format!("`guitong system inspect {system}` writes it anew");
            tree_problem(report, &format!("{FOLDER}/{system}.json"), "unreadable", error.reason(), Some(help));
            None
        });
        let profile = profile.map(Rc::new);
        self.0.borrow_mut().insert(system.to_string(), profile.clone());
        profile
    }
}

impl Seen {
    pub(super) fn of(system: Option<&Name>, own: Option<&TableName>, root: &Section<'_>, world: &World<'_>) -> Self {
        let asked = system.filter(|_| world.surroundings.purpose.is_check());
        let profile = asked.and_then(|system| world.profiles.of(system, world, root.report));
        Self { profile, own: own.cloned(), joined: BTreeMap::new(), conditional: root.has("where") }
    }

    /// With the tables that are read beside the resource's own, by the names that the mapping knows them by.
    pub(super) fn with<'j>(&self, joins: impl Iterator<Item = (&'j str, &'j Join)>) -> Self {
        let joined = joins.map(|(name, join)| (name.to_owned(), join.table.clone())).collect();
        Self { profile: self.profile.clone(), own: self.own.clone(), joined, conditional: self.conditional }
    }

    /// What is known where an entry reads rows of these details, or of the resource's own group.
    pub(super) fn of_rows(&self, details: Option<&str>) -> Self {
        let own = details.map_or_else(|| self.own.clone(), |name| self.joined.get(name).cloned());
        Self { profile: self.profile.clone(), own, joined: self.joined.clone(), conditional: true }
    }

    fn table(&self, name: &TableName) -> Option<&TableProfile> {
        self.profile.as_ref()?.table(&name.to_string())
    }

    /// Reports a column that the table did not have.
    pub(super) fn demand(&self, section: &Section<'_>, at: &At, name: &TableName, column: &str) {
        let (Some(table), Some(profile)) = (self.table(name), &self.profile) else { return };
        if table.column(column).is_some() {
            return;
        }
        let message = format!("table {name} has no column `{}`", scalar::short(column));
        let help = format!("{}`guitong system inspect {}` looks again", nearest(table, column), profile.system);
        section.problem(at, "unknown-column", message, Some(help));
    }

    /// The table and the column that a mapping's name stands for.
    fn column(&self, name: &str) -> Option<(&TableProfile, &ColumnProfile)> {
        let joined = name.split_once('.').and_then(|(join, column)| Some((self.joined.get(join)?, column)));
        let (table, column) = match joined {
            Some(found) => found,
            None => (self.own.as_ref()?, name),
        };
        let table = self.table(table)?;
        Some((table, table.column(column)?))
    }

    /// The columns whose values an entry reads as they are, each with what was seen of it.
    fn sources<'s>(&'s self, entry: &Entry<'_>) -> Vec<Source<'s>> {
        let every = entry.extent == Extent::Every && !self.conditional;
        let own = |name: &String, every| {
            let (table, column) = self.column(name)?;
            Some(Source { table, column, every: every && !name.contains('.') })
        };
        match &entry.mapping.value {
            ValueSource::Column(name) => own(name, every).into_iter().collect(),
            ValueSource::First(names) => names.iter().filter_map(|name| own(name, false)).collect(),
            ValueSource::Lookup { lookup, value, .. } => {
                let table = self.joined.get(lookup).and_then(|table| self.table(table));
                let column = table.and_then(|table| Some((table, table.column(value)?)));
                column.map(|(table, column)| Source { table, column, every: false }).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Reports what does not go from an entry's columns into its field.
    pub(super) fn check(&self, entry: &Entry<'_>, world: &World<'_>) {
        if self.profile.is_none() {
            return;
        }
        let zone = Zone::new(world.zone.clone());
        let clock = Clock::at(world.surroundings.now.as_microsecond(), &zone);
        for source in self.sources(entry) {
            let unfit = fit::check(entry, source, world.zone_declared);
            // A column of another kind is not looked at by its values as well.
            let uncovered = if unfit.is_none() { cover::check(entry, source, &clock) } else { None };
            for (remark, at) in [(unfit, &entry.source), (uncovered, &entry.codes)] {
                let Some(Remark { severity, code, message, help }) = remark else { continue };
                entry.section.remark(severity, at, code, message, Some(help));
            }
        }
    }
}

/// `did you mean …?`, by name or by comment, or the table's columns.
fn nearest(table: &TableProfile, wrong: &str) -> String {
    let comment =
        |column: &ColumnProfile| column.comment.as_deref().map(|comment| comment.lines().next().unwrap_or_default().to_owned());
    let same = |column: &&ColumnProfile| {
        column.name.eq_ignore_ascii_case(wrong) || comment(column).is_some_and(|comment| comment.trim() == wrong)
    };
    let names = || table.columns.iter().map(|column| column.name.as_str());
    let meant = table.columns.iter().find(same).or_else(|| table.column(scalar::nearest(wrong, names())?));
    match meant {
        Some(column) => {
            let title = comment(column).filter(|title| !title.is_empty());
            let title = title.map(|title| format!(" ({})", scalar::short(&title))).unwrap_or_default();
            format!("did you mean `{}`{title}? ", column.name)
        }
        None => format!("it has {}; ", scalar::listed(&names().collect::<Vec<_>>())),
    }
}

/// Tables that resources read and no profile has, by system.
#[must_use]
pub fn unseen(directory: &Directory) -> BTreeMap<Name, BTreeSet<TableName>> {
    let mut unseen: BTreeMap<Name, BTreeSet<TableName>> = BTreeMap::new();
    let mut profiles = BTreeMap::new();
    for resource in directory.resources.values() {
        let name = &resource.system;
        let profile = profiles.entry(name).or_insert_with(|| Profile::load(&directory.root, name.as_str()).ok().flatten());
        let tables = resource.joins.values().map(|join| &join.table).chain([&resource.table]);
        let known = |table: &&TableName| profile.as_ref().is_some_and(|profile| profile.table(&table.to_string()).is_some());
        let tables: Vec<&TableName> = tables.filter(|table| !known(table)).collect();
        if !tables.is_empty() {
            unseen.entry(name.clone()).or_default().extend(tables.into_iter().cloned());
        }
    }
    unseen
}
