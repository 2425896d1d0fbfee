//! Tables as the stream shows them: names, types and columns from the Relation message; nullability, defaults and enum labels
//! from the catalogue of that moment, and only for columns that agree with it.

use std::collections::HashMap;
use std::sync::Arc;

use guitong_schemas::avro::form::UnknownTypes;
use guitong_schemas::change::RowImage;
use guitong_schemas::contract::system::System;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};

use super::catalogue::{ColumnFacts, DefaultFacts, TableFacts};
use super::copy::Form;
use super::decode::{RelationColumn, RelationMessage, Tuple};
use super::image;
use super::printed::Printed;
use super::types::Types;

/// A table whose changes are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) table: Arc<Table>,
    /// Columns on the wire, before `exclude_columns` and skipped types are applied here.
    wire_columns: usize,
    /// `None`: every column is kept.
    keep: Option<Vec<bool>>,
    /// The key is an index of the server that forbids duplicates and nulls, so that it can be read in chunks.
    pub(crate) chunkable: bool,
    /// How each value that is kept is printed from its binary form; `None` where that is not plain of every column.
    printed: Option<Arc<[Printed]>>,
    /// What it was made from.
    pub(crate) message: RelationMessage,
    /// Columns on the wire that are enums: a new label is not announced.
    enums: Vec<(usize, Vec<String>)>,
}

impl Relation {
    /// The table as the Relation message gives it.
    pub(crate) fn new(message: RelationMessage, facts: Option<&TableFacts>, types: &Types, system: &System) -> Self {
        let name = TableName::new(&message.schema, &message.name);
        let excluded =
            |column: &RelationColumn| system.exclude_columns.iter().any(|(table, cut)| *table == name && *cut == column.name);
        let skipped = |column: &RelationColumn| {
            system.form.unknown_types == UnknownTypes::Skip
                && types.resolve(column.type_oid, column.type_modifier) == ColumnType::Other
        };
        let keep: Vec<bool> = message.columns.iter().map(|column| !excluded(column) && !skipped(column)).collect();
        let kept: Vec<&RelationColumn> =
            message.columns.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(column, _)| column).collect();
        let columns: Vec<Column> = kept.iter().map(|column| self::column(column, facts, types)).collect();
        let printed = kept.iter().zip(&columns).map(|(wire, column)| Printed::of(wire.type_oid, &column.kind)).collect();
        let place = |wanted: &String| kept.iter().position(|column| column.name == *wanted);
        let (key, chunkable) = key(&message, facts, &name, system);
        let key: Vec<usize> = key.iter().filter_map(place).collect();
        let chunkable = chunkable && !key.is_empty();
        let all = keep.iter().all(|keep| *keep);
        let enums = message.columns.iter().enumerate().filter_map(|(at, column)| {
            match types.resolve(column.type_oid, column.type_modifier) {
                ColumnType::Enum { labels } => Some((at, labels)),
                _ => None,
            }
        });
        let enums = enums.collect();
        Self {
            table: Arc::new(Table { name, columns, key }),
            wire_columns: message.columns.len(),
            keep: (!all).then_some(keep),
            chunkable,
            enums,
            printed,
            message,
        }
    }

    /// The row without excluded columns; `None` where the tuple is not of this table's shape.
    pub(crate) fn image(&self, tuple: Tuple) -> Option<RowImage> {
        if tuple.columns != self.wire_columns {
            return None;
        }
        Some(match &self.keep {
            None => tuple.image,
            Some(keep) => image::project(&tuple.image, keep),
        })
    }

    /// Whether an enum column holds what is no label that this relation knows: one was added since.
    pub(crate) fn may_have_new_label(&self, row: &Tuple) -> bool {
        self.enums.iter().any(|(at, labels)| {
            let value = image::fields(&row.image).nth(*at).and_then(image::value);
            value.is_some_and(|value| !labels.iter().any(|label| label.as_bytes() == value))
        })
    }

    /// The columns that are published, as they are on the wire.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &RelationColumn> {
        let kept = |at: usize| self.keep.as_ref().is_none_or(|keep| keep.get(at).copied().unwrap_or(false));
        self.message.columns.iter().enumerate().filter(move |(at, _)| kept(*at)).map(|(_, column)| column)
    }

    /// How its values are printed from their binary form; `None` where it has a column that is to be read in text.
    pub(crate) fn printed(&self) -> Option<&[Printed]> {
        self.printed.as_deref()
    }

    /// Names of these columns.
    pub(crate) fn columns_in_text(&self) -> Vec<&str> {
        let pairs = self.kept().zip(&self.table.columns);
        let in_text = pairs.filter(|(wire, column)| Printed::of(wire.type_oid, &column.kind).is_none());
        in_text.map(|(wire, _)| wire.name.as_str()).collect()
    }

    /// How the table's rows are read: in binary where every column can be.
    pub(crate) fn form(&self) -> Form {
        self.printed.clone().map_or(Form::Text(self.table.columns.len()), Form::Binary)
    }

    pub(crate) fn has_key(&self) -> bool {
        !self.table.key.is_empty()
    }
}

/// Names of the key's columns, and whether an index of the server vouches for them.
fn key(message: &RelationMessage, facts: Option<&TableFacts>, name: &TableName, system: &System) -> (Vec<String>, bool) {
    if let Some((_, declared)) = system.keys.iter().find(|(table, _)| table == name) {
        let vouched = facts.is_some_and(|facts| same_names(&facts.key, declared));
        return (declared.clone(), vouched);
    }
    let by_catalogue = || facts.map(|facts| facts.key.clone()).unwrap_or_default();
    // Under FULL every column is flagged, so only the catalogue knows the primary key.
    if message.identity == b'f' {
        let key = by_catalogue();
        let vouched = !key.is_empty();
        return (key, vouched);
    }
    let flagged: Vec<String> =
        message.columns.iter().filter(|column| column.identity).map(|column| column.name.clone()).collect();
    let key = by_catalogue();
    if same_names(&key, &flagged) {
        let vouched = !key.is_empty();
        (key, vouched)
    } else {
        (flagged, false)
    }
}

fn same_names(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|name| b.contains(name))
}

fn column(column: &RelationColumn, facts: Option<&TableFacts>, types: &Types) -> Column {
    let agreed = facts
        .and_then(|facts| facts.column(&column.name))
        .filter(|facts| facts.type_oid == column.type_oid && facts.type_modifier == column.type_modifier);
    let kind = types.resolve(column.type_oid, column.type_modifier);
    let default = match agreed.and_then(|facts| facts.default.as_ref()) {
        Some(DefaultFacts::Constant(text)) => Some(text.clone()),
        Some(DefaultFacts::Function) => neutral(&kind).map(str::to_owned),
        None => None,
    };
    Column { name: column.name.clone(), nullable: agreed.is_none_or(|facts| !facts.not_null), default, kind }
}

/// What a schema says in the place of a default that a function gives, as Debezium's does.
fn neutral(kind: &ColumnType) -> Option<&'static str> {
    Some(match kind {
        ColumnType::Bool => "f",
        ColumnType::Int16
        | ColumnType::Int32
        | ColumnType::Int64
        | ColumnType::UInt32
        | ColumnType::Float32
        | ColumnType::Float64
        | ColumnType::Decimal { .. }
        | ColumnType::VariableDecimal => "0",
        ColumnType::Text => "",
        ColumnType::Date => "1970-01-01",
        ColumnType::Time { .. } => "00:00:00",
        ColumnType::ZonedTime => "00:00:00+00",
        ColumnType::Timestamp { .. } => "1970-01-01 00:00:00",
        ColumnType::ZonedTimestamp { .. } => "1970-01-01 00:00:00+00",
        ColumnType::Interval => "00:00:00",
        ColumnType::Uuid => "00000000-0000-0000-0000-000000000000",
        _ => return None,
    })
}

/// What a publication lists of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'p> {
    pub(crate) columns: &'p [String],
    /// Generated columns among them are sent (18); older servers list them all the same.
    pub(crate) generated: bool,
}

/// The Relation message that the server would send for a table now: what a snapshot reads by. `published` is what the publication
/// lists; `None` where the server has no column lists.
pub(crate) fn message_of(facts: &TableFacts, published: Option<Listed<'_>>) -> RelationMessage {
    let is_published = |column: &&ColumnFacts| match published {
        Some(Listed { columns, generated }) => (generated || !column.generated) && columns.contains(&column.name),
        None => !column.generated,
    };
    let columns = facts.columns.iter().filter(is_published).map(|column| RelationColumn {
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        identity: facts.identity == b'f' || facts.key.contains(&column.name),
    });
    RelationMessage {
        oid: facts.oid,
        schema: facts.name.schema.clone(),
        name: facts.name.name.clone(),
        identity: facts.identity,
        columns: columns.collect(),
    }
}

/// Relations of one connection, by oid; `None` for tables that are published but not wanted.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    by_oid: HashMap<u32, Option<Arc<Relation>>>,
    /// The last relation of each table, so that a snapshot and the stream share one `Table`.
    by_name: HashMap<TableName, Arc<Relation>>,
    pub(crate) types: Types,
}

impl Relations {
    pub(crate) fn get(&self, oid: u32) -> Option<&Option<Arc<Relation>>> {
        self.by_oid.get(&oid)
    }

    /// A stream that begins announces every relation before its first change.
    pub(crate) fn begin(&mut self) {
        self.by_oid.clear();
    }

    pub(crate) fn ignore(&mut self, oid: u32) {
        self.by_oid.insert(oid, None);
    }

    pub(crate) fn put(&mut self, oid: u32, relation: Relation) -> Arc<Relation> {
        let relation = self.shared(relation);
        self.by_oid.insert(oid, Some(Arc::clone(&relation)));
        relation
    }

    /// Stops looking for new labels in this table's rows.
    pub(crate) fn accept_labels(&mut self, oid: u32) {
        if let Some(Some(relation)) = self.by_oid.get_mut(&oid) {
            let accepting = Relation { enums: Vec::new(), ..(**relation).clone() };
            *relation = Arc::new(accepting);
        }
    }

    /// The same relation where it is known already.
    pub(crate) fn shared(&mut self, relation: Relation) -> Arc<Relation> {
        let known = self.by_name.get(&relation.table.name).filter(|known| ***known == relation);
        let relation = known.map_or_else(|| Arc::new(relation), Arc::clone);
        self.by_name.insert(relation.table.name.clone(), Arc::clone(&relation));
        relation
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use guitong_schemas::avro::EventForm;
    use guitong_schemas::contract::system::{
        GapPolicy, Limits, Origins, PostgresConfig, SnapshotConfig, SourceConfig, TablePattern,
    };
    use guitong_schemas::contract::{Name, Secret};

    use super::*;

    pub(crate) fn system() -> System {
        let config = PostgresConfig {
            exchange: "exchange".into(),
            url: Secret::new("postgres://reader:secret@127.0.0.1:5432/register".into()),
            primary_url: None,
            slot: "exchange_register".into(),
            publication: "exchange_register".into(),
            heartbeat: Duration::from_secs(10),
            on_gap: GapPolicy::Stop,
            origin: Origins::Any,
            streaming: true,
            binary: false,
            failover: false,
        };
        System {
            name: Name::parse("register").unwrap(),
            title: "企业登记".into(),
            department: Name::parse("market").unwrap(),
            source: SourceConfig::Postgres(config),
            tables: vec![TablePattern { schema: "public".into(), name: "*".into() }],
            exclude_columns: Vec::new(),
            keys: Vec::new(),
            snapshot: SnapshotConfig { enabled: true, chunk: 1 << 20, ..SnapshotConfig::default() },
            limits: Limits::default(),
            complete: false,
            form: EventForm::DEFAULT,
        }
    }

    pub(crate) fn facts() -> TableFacts {
        let column = |name: &str, type_oid, not_null| ColumnFacts {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            not_null,
            generated: false,
            default: None,
            readable: true,
        };
        TableFacts {
            oid: 16_400,
            name: TableName::new("public", "企业"),
            partitioned: false,
            identity: b'd',
            columns: vec![column("区划", 25, true), column("编号", 20, true), column("电话", 25, false)],
            key: vec!["编号".into(), "区划".into()],
            rows: 0,
            bytes: 0,
            schema_usage: true,
        }
    }

    #[test]
    fn the_key_has_the_order_of_its_index() {
        let facts = facts();
        let relation = Relation::new(message_of(&facts, None), Some(&facts), &Types::default(), &system());
        assert_eq!(relation.table.key, [1, 0]);
        assert!(relation.chunkable);
        assert!(!relation.table.columns[1].nullable);
    }

    #[test]
    fn a_column_that_disagrees_with_the_catalogue_is_nullable() {
        let facts = facts();
        let mut message = message_of(&facts, None);
        message.columns[1].type_oid = 23;
        let relation = Relation::new(message.clone(), Some(&facts), &Types::default(), &system());
        assert!(relation.table.columns[1].nullable);
        assert_eq!(relation.table.columns[1].kind, ColumnType::Int32);
        assert!(!relation.table.columns[0].nullable);
        let gone = Relation::new(message.clone(), None, &Types::default(), &system());
        assert!(gone.table.columns.iter().all(|column| column.nullable));
        assert_eq!(gone.table.key, [0, 1], "the identity's flags are all that is left");
    }

    #[test]
    fn excluded_columns_are_cut_here_where_the_server_sent_them() {
        let facts = facts();
        let mut system = system();
        system.exclude_columns.push((facts.name.clone(), "电话".into()));
        let relation = Relation::new(message_of(&facts, None), Some(&facts), &Types::default(), &system);
        assert_eq!(relation.table.columns.len(), 2);
        let mut builder = guitong_schemas::change::RowBuilder::default();
        for text in ["450102", "7", "13900000000"] {
            builder.text(text.as_bytes()).unwrap();
        }
        let image = relation.image(Tuple { columns: 3, binary: false, image: builder.finish() }).unwrap();
        assert!(!String::from_utf8_lossy(&image.0).contains("13900000000"));
        assert_eq!(relation.image(Tuple { columns: 2, binary: false, image }), None);
    }

    #[test]
    fn a_declared_key_without_an_index_is_not_chunked() {
        let mut facts = facts();
        facts.identity = b'f';
        facts.key.clear();
        let mut system = system();
        let message = message_of(&facts, None);
        let keyless = Relation::new(message.clone(), Some(&facts), &Types::default(), &system);
        assert!(!keyless.has_key() && !keyless.chunkable);
        system.keys.push((facts.name.clone(), vec!["编号".into()]));
        let declared = Relation::new(message.clone(), Some(&facts), &Types::default(), &system);
        assert_eq!(declared.table.key, [1]);
        assert!(!declared.chunkable);
    }
}
