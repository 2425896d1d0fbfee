//! The regional standard: entities, code tables, and the checks of identifiers, dates, texts and amounts.
//!
//! Entities and code tables are data (`schemas/entities/*.avsc`, `schemas/codes/*.csv`): built in, and extended or replaced by the files of
//! an exchange directory's folder `standard/`. Reading a value is pure: no clock but the event's, no place to look but the tables; it gives
//! the canonical form, and findings in three levels. What cannot be read is never guessed: it is null with a finding.

mod amount;
mod avro;
mod build;
mod characters;
mod checks;
mod clock;
mod codes;
mod condition;
mod date;
mod division_names;
mod entity;
mod extend;
mod facts;
mod field;
mod file;
mod finding;
mod guard;
mod identifier;
mod kind;
mod options;
mod read;
mod rule_kinds;
mod rules;
mod steps;
mod table;
mod table_file;
mod text;
mod value;
pub mod vectors;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

pub use avro::{avro_values, shortest};
pub(crate) use characters::{is_empty_word, is_han};
pub use checks::{CHECKS, Check, Checked, Checker, Verdict};
pub use clock::{Clock, Zone};
pub use codes::{Code, CodeList, History, ListError};
pub use condition::Condition;
pub use entity::{Entity, KeyPart, KeySource, RecordContext};
pub(crate) use extend::{Extended, extend};
pub use field::{EntityField, FieldKind, Grade, Obligation};
pub use finding::{Finding, Level, Rule};
pub use guard::Guard;
pub use kind::UnknownKind;
pub use options::{FieldOptions, OptionError};
pub use table::{Table, Title};
pub use value::{Input, OPEN_END, StandardValue, Step};
pub use written::{Written, WrittenError};

use sha2::{Digest, Sha256};

use crate::contract::Revision;
use crate::contract::reading::document::{Document, Report};
pub use crate::contract::reading::scalar::{alike, nearest};
use facts::Facts;
use table::Tables;

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

/// Version of the built-in standard: the year, and its edition within it.
const VERSION: &str = "2026.1";

/// Entities and code tables.
#[derive(Debug, Clone)]
pub struct Standard {
    entities: BTreeMap<String, Arc<Entity>>,
    tables: Arc<Tables>,
    facts: Arc<Facts>,
    /// Of the files that a directory adds, if it adds any.
    extension: Option<Revision>,
}

/// Two standards are the same where the same files extend the built-in one.
impl PartialEq for Standard {
    fn eq(&self, other: &Self) -> bool {
        self.extension == other.extension
    }
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
            LazyLock::new(|| Standard::build_in().expect("this crate's tests load what is built in"));
        &STANDARD
    }

    fn build_in() -> Result<Self, String> {
        let (report, tables) = (Report::default(), Arc::new(Tables::builtin()));
        let facts = Arc::new(Facts::build(&tables).map_err(|error| error.to_string())?);
        let around = build::Surroundings { tables: &tables, broken_tables: &BTreeSet::new(), facts: &facts, report: &report };
        let built = ENTITIES.iter().filter_map(|(schema, key)| {
            let document = |text: &str| Document::new("built in".to_owned(), text.to_owned());
            build::entity(&document(schema), &document(key), around)
        });
        let entities = built.map(|entity| (entity.name.clone(), Arc::new(entity))).collect();
        match report.into_list().first() {
            Some(problem) => Err(format!("{problem:?}")),
            None => Ok(Self { entities, tables, facts, extension: None }),
        }
    }

    /// The version: that of the built-in standard, followed by the beginning of the revision of the files that extend it.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.extension {
            None => VERSION.to_owned(),
            Some(revision) => format!("{VERSION}+{:.8}", revision.to_string()),
        }
    }

    #[must_use]
    pub fn entity(&self, name: &str) -> Option<&Arc<Entity>> {
        self.entities.get(name)
    }

    /// All entities by name.
    pub fn entities(&self) -> impl Iterator<Item = &Arc<Entity>> {
        self.entities.values()
    }

    /// For each row of a code table, or of one of its lists (`table:list`), the cell of column `by` and that of column `to`; a value that
    /// stands for several is left out.
    pub(crate) fn code_pairs(&self, list: &str, by: &str, to: &str) -> Result<BTreeMap<String, String>, ListError> {
        codes::pairs(list, by, to, &self.tables)
    }

    /// A field of this kind by itself: of no entity, mandatory, with no rule but its kind's.
    #[must_use]
    pub fn field_alone(&self, kind: FieldKind) -> EntityField {
        EntityField::alone(kind, &self.facts)
    }

    /// Whether an entity is that of the built-in standard.
    #[must_use]
    pub fn is_builtin_entity(&self, entity: &Entity) -> bool {
        Self::builtin().entity(&entity.name).is_some_and(|own| own.schema_json == entity.schema_json)
    }

    /// Tells what makes and reads an entity's records from what did before: its schemas, the directory's own code tables that its fields
    /// name, and built-in tables that the directory replaces, on which every check may draw.
    #[must_use]
    pub fn fingerprint(&self, entity: &Entity) -> [u8; 32] {
        let lists = entity.fields.iter().filter_map(|field| match &field.kind {
            FieldKind::Code(list) | FieldKind::Codes(list) => list.name.split([':', '#']).next(),
            _ => None,
        });
        let named: BTreeSet<&str> = lists.collect();
        let mut digest = Sha256::new();
        let own = self.tables.replaced().filter(|(name, _)| named.contains(name) || Self::builtin().tables.holds(name));
        let own = own.flat_map(|(name, text)| [name, text]);
        for part in [entity.schema_json.as_str(), &entity.key_schema_json].into_iter().chain(own) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Names of all code tables.
    pub fn tables(&self) -> impl Iterator<Item = &str> + Clone {
        self.tables.names()
    }

    #[must_use]
    pub fn title(&self, table: &str) -> Title {
        self.tables.title(table)
    }

    /// Whether a code table is that of the built-in standard.
    #[must_use]
    pub fn is_builtin_table(&self, table: &str) -> bool {
        self.tables.is_builtin(table)
    }

    /// The rows of a code table.
    ///
    /// # Errors
    /// [`ListError`] with the nearest name where there is no such table.
    pub fn table(&self, name: &str) -> Result<Table, ListError> {
        self.tables.get(name)
    }

    /// The codes that `list` names as a schema does: `gbt2261_1_sex`, `regional_lists:penalty_kind`.
    ///
    /// # Errors
    /// [`ListError`] with the nearest name where there is no such list.
    pub fn code_list(&self, list: &str) -> Result<CodeList, ListError> {
        CodeList::build(list, &self.tables)
    }
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

    #[test]
    fn a_change_of_the_standard_concerns_the_entities_that_draw_on_it() {
        let entity = |name: &str, kind: &str| {
            let schema = format!(
                r#"{{"type": "record", "name": "{name}", "namespace": "cn.guitong.standard", "version": 1, "title": "许可", "doc": "A permit.",
                "fields": [{{"name": "no", "type": "string", "title": "编号", "doc": "Number.", "kind": "identifier:30",
                    "obligation": "mandatory", "grade": "G0"}},
                    {{"name": "what", "type": ["null", "string"], "default": null, "title": "种类", "doc": "Kind.", "kind": "{kind}",
                    "obligation": "optional", "grade": "G0"}}]}}"#
            );
            let key = format!(
                r#"{{"type": "record", "name": "{name}Key", "namespace": "cn.guitong.standard",
                "fields": [{{"name": "no", "type": "string"}}]}}"#
            );
            [(format!("standard/{name}.avsc"), schema), (format!("standard/{name}.key.avsc"), key)]
        };
        let table = |name: &str, code: &str| [(format!("standard/{name}.csv"), format!("code,name\n1,甲\n{code},乙\n"))];
        let forms = |files: &[(String, String)]| -> Vec<[u8; 32]> {
            let files: Vec<_> = files.iter().map(|(name, text)| Document::new(name.clone(), text.clone())).collect();
            let report = Report::default();
            let standard = extend(&files, Revision([1; 32]), &report).standard;
            assert_eq!(report.into_list(), []);
            ["A", "B", "LegalEntity"].map(|name| standard.fingerprint(standard.entity(name).expect("an entity"))).to_vec()
        };
        let (a, b) = (entity("A", "code:kinds"), entity("B", "text:10"));
        let files = [&a[..], &b, &table("kinds", "2"), &table("others", "2")].concat();
        let before = forms(&files);
        let changed =
            |files: &[(String, String)]| -> Vec<bool> { before.iter().zip(forms(files)).map(|(was, is)| *was != is).collect() };
        assert_eq!(changed(&files), [false, false, false]);
        assert_eq!(changed(&[&a[..], &b, &table("kinds", "3"), &table("others", "2")].concat()), [true, false, false]);
        assert_eq!(changed(&[&a[..], &b, &table("kinds", "2"), &table("others", "3")].concat()), [false, false, false]);
        let longer = entity("B", "text:20");
        assert_eq!(changed(&[&a[..], &longer, &table("kinds", "2"), &table("others", "2")].concat()), [false, true, false]);
        let own = [&files[..], &table("gbt2261_1_sex", "2")].concat();
        assert_eq!(changed(&own), [true, true, true], "any check may draw on a built-in table");
    }
}
