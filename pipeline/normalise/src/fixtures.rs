//! What the tests of this crate share: the quick start's resources, tables, and raw events as a connector encodes them.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EncodePlan, EventForm, Marks, Stamp, TableContext, frame};
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use guitong_schemas::contract::mapping::{FieldMapping, ValueSource};
use guitong_schemas::contract::{Directory, Name, Resource, SinkConfig, Subscription, load};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};

/// 2026-11-23T00:00:00Z
pub(crate) const NOW_US: i64 = 1_795_392_000_000_000;

static QUICKSTART: LazyLock<Directory> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quickstart");
    let purpose = load::Purpose::Check { unset_secrets: true };
    let now = jiff::Timestamp::from_microsecond(NOW_US).expect("a time");
    let directory = load::load(&root, &|_| None, now, purpose);
    directory.unwrap_or_else(|problems| panic!("{}", problems.render(false)))
});

/// A resource of the quick start.
pub(crate) fn resource(name: &str) -> Resource {
    (*QUICKSTART.resources[&Name::parse(name).expect("a name")]).clone()
}

/// A credit code that passes its checks: `kind` 91 is an enterprise, `n` numbers the organisation in the range of samples.
pub(crate) fn uscc(n: u32) -> String {
    let value = |c: char| i64::from(c.to_digit(36).unwrap_or(0));
    let organisation = format!("PDY{n:05}");
    let sum: i64 = organisation.chars().zip([3, 7, 9, 10, 5, 8, 4, 2]).map(|(c, weight)| value(c) * weight).sum();
    let check = match 11 - sum % 11 {
        10 => "X".to_owned(),
        11 => "0".to_owned(),
        digit => digit.to_string(),
    };
    let body = format!("91450100{organisation}{check}");
    let alphabet: Vec<char> = "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().collect();
    let mut weight = 1;
    let mut sum = 0;
    for c in body.chars() {
        sum += alphabet.iter().position(|known| *known == c).expect("in the alphabet") * weight;
        weight = weight * 3 % 31;
    }
    format!("{body}{}", alphabet[(31 - sum % 31) % 31])
}

/// A department's table whose rows become raw events.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) table: Arc<Table>,
    pub(crate) plan: EncodePlan,
}

/// A cell that the source did not send.
pub(crate) const ABSENT: &str = "\u{0}absent";

impl Source {
    /// The first column is the key.
    pub(crate) fn new(system: &str, table: &TableName, columns: &[(&str, ColumnType)]) -> Self {
        let column = |(at, (name, kind)): (usize, &(&str, ColumnType))| Column {
            name: (*name).to_owned(),
            kind: kind.clone(),
            nullable: at > 0,
            default: None,
        };
        let table =
            Arc::new(Table { name: table.clone(), columns: columns.iter().enumerate().map(column).collect(), key: vec![0] });
        let prefix = format!("raw.{system}");
        let context = TableContext {
            prefix: &prefix,
            name: system,
            database: "db",
            kind: SourceKind::Changelog,
            form: &EventForm::DEFAULT,
        };
        let plan = EncodePlan::compile(&table, &context).expect("a table with an Avro form");
        Self { table, plan }
    }

    /// A table of the resource's own name with text columns for everything that its mapping reads, and a number as its key.
    pub(crate) fn of_texts(resource: &Resource, columns: &[&str]) -> Self {
        let mut all = vec![("id", ColumnType::Int64)];
        all.extend(columns.iter().map(|name| (*name, ColumnType::Text)));
        Self::new(resource.system.as_str(), &resource.table, &all)
    }

    pub(crate) fn row(cells: &[Option<&str>]) -> RowImage {
        let mut row = RowBuilder::default();
        for cell in cells {
            match cell {
                None => row.null(),
                Some(ABSENT) => row.absent(),
                Some(text) => row.text(text.as_bytes()).expect("short"),
            }
        }
        row.finish()
    }

    /// Avro of an event, without frame, and the header that names its absent columns.
    pub(crate) fn event(&self, operation: Operation, cells: &[Option<&str>]) -> (Vec<u8>, String) {
        let row = Self::row(cells);
        let (before, after) = if operation == Operation::Delete { (Before::Key(row), None) } else { (Before::None, Some(row)) };
        let change = Change {
            table: Arc::clone(&self.table),
            operation,
            version: Version { epoch: 1, commit: 1, ..Version::default() },
            before,
            after,
            origin: Origin { ts_us: NOW_US, snapshot: SnapshotMark::Streamed, place: Place::Changelog { change_id: 1 } },
        };
        let (mut out, mut marks) = (Vec::new(), Marks::default());
        self.plan.value(&change, Stamp { schema_id: 1, processed_us: NOW_US }, &mut out, &mut marks).expect("encodes");
        let absent: Vec<&str> = marks.absent.iter().filter_map(|at| self.plan.field(*at)).map(|name| &**name).collect();
        (out.split_off(frame::LEN), absent.join("\n"))
    }
}

/// Subscriptions of a resource by name, with their fields and their condition.
pub(crate) fn subscriptions(
    resource: &str,
    all: &[(&str, &[&str], Option<&str>)],
) -> std::collections::BTreeMap<Name, Arc<Subscription>> {
    let name = |text: &str| Name::parse(text).expect("a name");
    let subscription = |(own, fields, condition): &(&str, &[&str], Option<&str>)| Subscription {
        name: name(own),
        subscriber: name("credit-office"),
        resource: name(resource),
        purpose: "信用主体建档".into(),
        approval: None,
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        condition: condition.map(str::to_owned),
        masks: std::collections::BTreeMap::new(),
        unchanged: false,
        sink: SinkConfig::Sqlite { path: "sink.db".into(), table: "t".into() },
        table: guitong_schemas::contract::SinkTable::default(),
        secret: None,
    };
    all.iter().map(|one| (name(one.0), Arc::new(subscription(one)))).collect()
}

/// The mapping of a field as it stands in a column.
pub(crate) fn of_column(like: &FieldMapping, column: &str) -> FieldMapping {
    FieldMapping { value: ValueSource::Column(column.to_owned()), ..like.clone() }
}
