//! The regional standard: entities, code tables, and the checks of identifiers, dates, texts and amounts.
//!
//! Entities and code tables are data (`schemas/entities/*.avsc`, `schemas/codes/*.csv`): built in, and extended or replaced by a
//! directory of further files. Reading a value is pure: no clock but the event's, no place to look but the tables; it gives the canonical form,
//! and findings in three levels. What cannot be read is never guessed: it is null with a finding.

mod amount;
mod characters;
mod clock;
mod codes;
mod condition;
mod date;
mod division_names;
mod entity;
mod field;
mod file;
mod finding;
mod identifier;
mod options;
mod read;
mod rules;
mod steps;
mod tables;
mod text;
mod value;
pub mod vectors;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

pub(crate) use characters::{is_empty_word, is_han};
pub use clock::{Clock, Zone};
pub use codes::{Code, CodeList};
pub use condition::Condition;
pub use division_names::is_division_name;
pub use entity::{Entity, KeyPart, KeySource, RecordContext};
pub use field::{EntityField, FieldKind, Grade, Obligation};
pub use finding::{Finding, Level, Rule};
pub use options::{FieldOptions, OptionError};
pub use value::{Input, OPEN_END, StandardValue, Step};

use codes::{Table, Tables};
use tables::Facts;

macro_rules! entities {
    ($($name:literal),+) => {
        &[$((
            include_str!(concat!("../../entities/", $name, ".avsc")),
            include_str!(concat!("../../entities/", $name, ".key.avsc")),
        )),+]
    };
}

/// Schemas of the built-in entities and their keys.
const ENTITIES: &[(&str, &str)] =
    entities!("NaturalPerson", "LegalEntity", "InvestmentProject", "PublicResourceTransaction", "CreditRecord", "ServiceCase");

/// A standard that does not load, or a file that extends it.
#[derive(Debug, thiserror::Error)]
pub enum StandardError {
    #[error("code table {table}: {reason}")]
    Table { table: String, reason: String },
    #[error("there is no code table {table}{}", .nearest.as_ref().map(|name| format!(" (nearest: {name})")).unwrap_or_default())]
    NoTable { table: String, nearest: Option<String> },
    #[error("the code list {list} has no codes")]
    EmptyList { list: String },
    #[error("entity schema: {0}")]
    Schema(String),
    #[error("entity {entity}: {reason}")]
    Entity { entity: String, reason: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: Box<StandardError> },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Entities and code tables.
#[derive(Debug, Clone)]
pub struct Standard {
    entities: BTreeMap<String, Arc<Entity>>,
    facts: Arc<Facts>,
}

impl Standard {
    /// The standard as built in.
    ///
    /// # Panics
    /// Never in a build whose tests pass: they load it.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn builtin() -> &'static Self {
        static STANDARD: LazyLock<Standard> =
            LazyLock::new(|| Standard::load(None).expect("this crate's tests load what is built in"));
        &STANDARD
    }

    /// The built-in standard with a directory's files added: `*.csv` adds or replaces a code table (named by its file),
    /// `<Entity>.avsc` with `<Entity>.key.avsc` adds or replaces an entity.
    ///
    /// # Errors
    /// [`StandardError`] with the file that cannot be read or does not keep the form.
    pub fn load(directory: Option<&Path>) -> Result<Self, StandardError> {
        let mut tables = Tables::builtin()?;
        let files = directory.map(list_files).transpose()?.unwrap_or_default();
        for path in with_ending(&files, ".csv") {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let table = Table::parse(name, &read_file(path)?).map_err(|error| in_file(path, error))?;
            tables.insert(name.to_owned(), table);
        }
        let facts = Arc::new(Facts::build(&tables)?);
        let mut entities = BTreeMap::new();
        let mut add = |schema: &str, key: &str| {
            let entity = Entity::build(schema, key, &tables, &facts)?;
            entities.insert(entity.name.clone(), Arc::new(entity));
            Ok(())
        };
        for (schema, key) in ENTITIES {
            add(schema, key)?;
        }
        for path in with_ending(&files, ".avsc").filter(|path| !path.to_string_lossy().ends_with(".key.avsc")) {
            let key = read_file(&path.with_extension("key.avsc"))?;
            add(&read_file(path)?, &key).map_err(|error| in_file(path, error))?;
        }
        Ok(Self { entities, facts })
    }

    #[must_use]
    pub fn entity(&self, name: &str) -> Option<&Arc<Entity>> {
        self.entities.get(name)
    }

    /// All entities by name.
    pub fn entities(&self) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.values()
    }

    /// A field of this kind by itself: of no entity, mandatory, with no rule but its kind's.
    #[must_use]
    pub fn field_alone(&self, kind: FieldKind) -> EntityField {
        EntityField::alone(kind, &self.facts)
    }

    /// The entity that a mistyped name probably means.
    #[must_use]
    pub fn nearest_entity(&self, name: &str) -> Option<&str> {
        nearest(name, self.entities.keys().map(String::as_str))
    }
}

/// The candidate nearest to a mistyped name, if one is near enough to be meant.
fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.75)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

fn list_files(directory: &Path) -> Result<Vec<PathBuf>, StandardError> {
    let failed = |source| StandardError::Io { path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    let mut files = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, StandardError>>()?;
    files.sort();
    Ok(files)
}

fn with_ending<'f>(files: &'f [PathBuf], ending: &'f str) -> impl Iterator<Item = &'f PathBuf> {
    files.iter().filter(move |path| path.to_string_lossy().ends_with(ending))
}

fn read_file(path: &Path) -> Result<String, StandardError> {
    fs::read_to_string(path).map_err(|source| StandardError::Io { path: path.to_owned(), source })
}

fn in_file(path: &Path, error: StandardError) -> StandardError {
    StandardError::File { path: path.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_standard_loads_whole() {
        let standard = Standard::builtin();
        let counts: Vec<_> = standard.entities().map(|entity| (entity.name.as_str(), entity.fields.len())).collect();
        assert_eq!(
            counts,
            [
                ("CreditRecord", 37),
                ("InvestmentProject", 24),
                ("LegalEntity", 29),
                ("NaturalPerson", 20),
                ("PublicResourceTransaction", 24),
                ("ServiceCase", 30)
            ]
        );
        let legal = standard.entity("LegalEntity").expect("entity");
        assert_eq!(legal.nearest_field("legal_rep_nam"), Some("legal_rep_name"));
        assert_eq!(legal.nearest_field("zzz"), None);
        assert_eq!(standard.nearest_entity("LegalEntitty"), Some("LegalEntity"));
    }

    #[test]
    fn schemas_are_avro_and_keys_name_their_entities_fields() {
        for entity in Standard::builtin().entities() {
            let record = apache_avro::Schema::parse_str(&entity.schema_json).expect("record schema");
            let key = apache_avro::Schema::parse_str(&entity.key_schema_json).expect("key schema");
            for (schema, name) in [(record, entity.name.clone()), (key, format!("{}Key", entity.name))] {
                let apache_avro::Schema::Record(record) = schema else { panic!("a record") };
                assert_eq!(record.name.fullname(None), format!("cn.guitong.standard.{name}"));
            }
        }
    }
}
