//! The built-in standard with the files of a directory: entities and code tables that they add or replace.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::build::{self, Surroundings};
use super::codes::{CodeList, ListError};
use super::entity::Entity;
use super::facts::Facts;
use super::field::FieldKind;
use super::table::{TITLES_NAME, Table, Tables};
use super::{Standard, table_file};
use crate::avro::compat::{self, CompatError, Compatibility};
use crate::contract::Revision;
use crate::contract::reading::document::{At, Document, Report};
use crate::contract::reading::json::{self, Object};
use crate::contract::reading::scalar;

/// Endings of the files.
const KEY: &str = ".key.avsc";
const SCHEMA: &str = ".avsc";
const TABLE: &str = ".csv";

/// A standard, and the entities whose files have problems: what names one of them is not wrong for that.
#[derive(Debug)]
pub(crate) struct Extended {
    pub(crate) standard: Standard,
    pub(crate) broken: BTreeSet<String>,
}

/// Extends the built-in standard. What is wrong with a file is reported, and the standard goes on without it.
pub(crate) fn extend(files: &[Document], revision: Revision, report: &Report) -> Extended {
    let mut standard = Standard::builtin().clone();
    if files.is_empty() {
        return Extended { standard, broken: BTreeSet::new() };
    }
    standard.extension = Some(revision);
    let mut extension = Extension { standard, files, report, broken: BTreeSet::new(), broken_tables: BTreeSet::new() };
    extension.read_tables();
    extension.read_titles();
    extension.read_entities();
    Extended { standard: extension.standard, broken: extension.broken }
}

impl Standard {
    /// The same entities over other tables.
    fn with_tables(&self, tables: Tables) -> Result<Self, ListError> {
        let tables = Arc::new(tables);
        let facts = Arc::new(Facts::build(&tables)?);
        let mut entities = self.entities.clone();
        for entity in entities.values_mut() {
            let entity = Arc::make_mut(entity);
            entity.facts = Arc::clone(&facts);
            for field in &mut entity.fields {
                field.facts = Arc::clone(&facts);
                if let FieldKind::Code(list) | FieldKind::Codes(list) = &mut field.kind {
                    *list = Arc::new(CodeList::build(&list.name, &tables)?);
                }
            }
        }
        Ok(Self { entities, tables, facts, extension: self.extension })
    }

    /// Whether this standard may take an earlier one's place while its records flow: what was written by one is read by the other. Entities
    /// and codes can come and go, and change but for that.
    ///
    /// # Errors
    /// The entity that does not go with its earlier form, and what to do.
    pub fn follows(&self, earlier: &Self) -> Result<(), String> {
        for old in earlier.entities() {
            let Some(new) = self.entity(&old.name) else { continue };
            if let Err(error) = goes_with(old, new) {
                let help = "give the changed entity another name, or undo the change";
                return Err(format!("entity {} does not go with the one in force: {error}; {help}", old.name));
            }
        }
        Ok(())
    }
}

/// Why what was written with one entity cannot be read with the other, or its key is another.
#[derive(Debug, thiserror::Error)]
enum Apart {
    #[error("its key differs, {0}")]
    Key(CompatError),
    #[error("{0}")]
    Record(CompatError),
}

fn goes_with(old: &Entity, new: &Entity) -> Result<(), Apart> {
    let check =
        |old: &str, new: &str| if old == new { Ok(()) } else { compat::check(Compatibility::FullTransitive, new, &[old]) };
    check(&old.key_schema_json, &new.key_schema_json).map_err(Apart::Key)?;
    check(&old.schema_json, &new.schema_json).map_err(Apart::Record)
}

/// A schema names tables in its annotations.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The file's name without its folder.
fn file_name(document: &Document) -> &str {
    document.name.rsplit('/').next().unwrap_or_default()
}

/// A standard on its way.
struct Extension<'a> {
    standard: Standard,
    files: &'a [Document],
    report: &'a Report,
    broken: BTreeSet<String>,
    /// Tables whose files have problems: what asks for one of them is not wrong for that.
    broken_tables: BTreeSet<&'a str>,
}

impl<'a> Extension<'a> {
    fn document(&self, name: &str) -> Option<&'a Document> {
        self.files.iter().find(|document| file_name(document) == name)
    }

    fn read_tables(&mut self) {
        for document in self.files {
            let Some(name) = file_name(document).strip_suffix(TABLE).filter(|name| *name != TITLES_NAME) else { continue };
            if !is_plain(name) {
                let help = "lower-case letters, digits and underscores".to_owned();
                let message = format!("`{}` is no name of a code table", scalar::short(name));
                self.report.push(document.problem(&At::File, "bad-name", message, Some(help)));
                continue;
            }
            table_file::check(name, document, self.report);
            if self.report.refuses(&document.name) {
                self.broken_tables.insert(name);
                continue;
            }
            if !self.standard.tables.names().any(|known| known == name) {
                // Nothing that is built in asks for it.
                Arc::make_mut(&mut self.standard.tables).insert(name.to_owned(), document.text.clone());
                continue;
            }
            let mut tables = Tables::clone(&self.standard.tables);
            tables.insert(name.to_owned(), document.text.clone());
            match self.standard.with_tables(tables) {
                Ok(standard) => self.standard = standard,
                Err(error) => {
                    let message = format!("what is built in cannot use this table: {}", error.message);
                    self.report.push(document.problem(&At::File, "bad-table", message, error.help));
                }
            }
        }
    }

    /// The titles of tables; after the tables, which they name.
    fn read_titles(&mut self) {
        let Some(document) = self.document(&format!("{TITLES_NAME}{TABLE}")) else { return };
        let known = |name: &str| {
            self.standard.tables.names().any(|known| known == name) || self.document(&format!("{name}{TABLE}")).is_some()
        };
        table_file::check_titles(document, self.report, known);
        if let (false, Ok(titles)) = (self.report.refuses(&document.name), Table::parse(&document.text)) {
            Arc::make_mut(&mut self.standard.tables).add_titles(&titles);
        }
    }

    fn read_entities(&mut self) {
        for document in self.files {
            let file = file_name(document);
            if let Some(stem) = file.strip_suffix(KEY) {
                if self.document(&format!("{stem}{SCHEMA}")).is_none() {
                    let help = Some(format!("add {stem}{SCHEMA}, or take the key away"));
                    self.report.push(document.problem(&At::File, "no-entity", format!("a key without its entity {stem}"), help));
                }
                continue;
            }
            let Some(stem) = file.strip_suffix(SCHEMA) else { continue };
            self.broken.insert(stem.to_owned());
            let Some(key) = self.document(&format!("{stem}{KEY}")) else {
                let help = Some(format!("add {stem}{KEY}: a record `{stem}Key` of the fields that identify a record"));
                self.report.push(document.problem(&At::File, "no-key", format!("the entity {stem} has no key"), help));
                continue;
            };
            let around = Surroundings {
                tables: &self.standard.tables,
                broken_tables: &self.broken_tables,
                facts: &self.standard.facts,
                report: self.report,
            };
            let Some(entity) = build::entity(document, key, around) else { continue };
            if entity.name != stem {
                let help = Some(format!("name the file {}{SCHEMA}, or the entity {stem}", scalar::short(&entity.name)));
                let other = self.document(&format!("{}{SCHEMA}", entity.name)).map(file_name);
                let (code, message) = match other {
                    Some(other) => ("duplicate-entity", format!("the entity {} is already that of {other}", entity.name)),
                    None => ("bad-name", format!("the file declares the entity {}", scalar::short(&entity.name))),
                };
                self.report.push(document.problem(&At::File, code, message, help));
                continue;
            }
            if self.goes_with_built_in(&entity, document, key) {
                self.broken.remove(stem);
                self.standard.entities.insert(entity.name.clone(), Arc::new(entity));
            }
        }
    }

    /// Whether what was written with the built-in entity of this name can be read with the one that replaces it, and the other way.
    fn goes_with_built_in(&self, entity: &Entity, document: &Document, key: &Document) -> bool {
        let Some(old) = Standard::builtin().entity(&entity.name) else { return true };
        let (document, at, message, help) = match goes_with(old, entity) {
            Err(Apart::Key(error)) => {
                let message = format!("the key is not that of the built-in {}: {error}", entity.name);
                (
                    key,
                    place(key, |root| Some(root.value("fields")?.at)),
                    message,
                    "what identifies a record cannot change: give an entity with another key another name",
                )
            }
            Err(Apart::Record(error)) => {
                let message = format!("the schema does not go with the built-in {}: {error}", entity.name);
                (
                    document,
                    place(document, |root| retyped(root, old)),
                    message,
                    "fields can be added and left out, and keep their Avro types",
                )
            }
            Ok(()) if old.schema_json != entity.schema_json && entity.version <= old.version => {
                let message = format!("the built-in {} has version {}", entity.name, old.version);
                (
                    document,
                    place(document, |root| Some(root.value("version")?.at)),
                    message,
                    "a changed schema has a higher `version`",
                )
            }
            Ok(()) => return true,
        };
        self.report.push(document.problem(&at, "incompatible", message, Some(help.to_owned())));
        false
    }
}

/// A place in a schema that has been read before.
fn place(document: &Document, find: impl FnOnce(Object<'_>) -> Option<At>) -> At {
    json::understand(document, &Report::default(), find).unwrap_or(At::File)
}

/// The first field's type that does not go with the earlier one.
fn retyped(root: Object<'_>, old: &Entity) -> Option<At> {
    let old: serde_json::Value = serde_json::from_str(&old.schema_json).ok()?;
    let old_fields = old.get("fields")?.as_array()?;
    root.objects("fields").iter().find_map(|field| {
        let (name, held) = (field.text("name")?, field.value("type")?);
        let before = old_fields.iter().find(|old| old.get("name").is_some_and(|old| *old == name.value))?.get("type")?;
        let now: serde_json::Value = serde_json::from_str(field.source(held.value)).ok()?;
        (*before != now).then_some(held.at)
    })
}
