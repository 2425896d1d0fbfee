//! Decoders of bytes from outside as fuzz targets: whatever comes, it ends in a value or in an error that says what is wrong.
//!
//! `tests/fuzz/` runs them under libFuzzer for as long as one likes; the suite runs their seeds and a number of changed ones.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_connectors::postgres::{CopyRows, Form, Message, Old, Printed, Rows, Shortener, decode};
use guitong_normalise::Trial;
use guitong_schemas::avro::form::{Binary, Decimals, Intervals, Names, Times, UnknownTypes};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, EncodePlan, EventForm, Marks, Stamp, TableContext, frame};
use guitong_schemas::change::{Before, Cell, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use guitong_schemas::contract::mapping::{FieldMapping, ValueSource};
use guitong_schemas::contract::{Purpose, Resource};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Clock, Standard, Verdict, Zone};
use guitong_schemas::table::{Column, ColumnType, Table, TableName};

/// A decoder, and the folder of its seeds in `tests/fuzz/corpus/`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Changed inputs that the suite runs.
    pub inputs: usize,
}

pub const TARGETS: [Target; 11] = [
    Target { name: "pgoutput", run: pgoutput, inputs: 10_000 },
    Target { name: "shortener", run: shortener, inputs: 10_000 },
    Target { name: "binary", run: binary, inputs: 10_000 },
    Target { name: "row_image", run: row_image, inputs: 10_000 },
    Target { name: "cell", run: cell, inputs: 10_000 },
    Target { name: "envelope", run: envelope, inputs: 10_000 },
    Target { name: "schema", run: schema, inputs: 10_000 },
    Target { name: "date", run: date, inputs: 10_000 },
    Target { name: "check", run: check, inputs: 10_000 },
    Target { name: "mapping", run: mapping, inputs: 500 },
    Target { name: "expression", run: expression, inputs: 500 },
];

/// A message of PostgreSQL's plugin, and every value of the rows in it.
pub fn pgoutput(bytes: &[u8]) {
    let Ok(message) = decode(&Bytes::copy_from_slice(bytes)) else { return };
    let rows = match message {
        Message::Insert { new, .. } => vec![new],
        Message::Update { old, new, .. } => match old {
            Old::Key(old) | Old::Full(old) => vec![old, new],
            Old::None => vec![new],
        },
        Message::Delete { old: Old::Key(old) | Old::Full(old), .. } => vec![old],
        _ => Vec::new(),
    };
    for row in rows {
        assert_eq!(row.image.cells().filter(Result::is_ok).count(), row.columns, "a decoded row has the values that it says");
    }
}

/// A long message whose values are cut while it comes in, in pieces and to a length that the first bytes choose: what decodes, decodes
/// with as many values when it is short.
pub fn shortener(bytes: &[u8]) {
    let [form, kept, piece, message @ ..] = bytes else { return };
    let rows = match form % 4 {
        0 => Rows::Line,
        3 => Rows::Binary,
        form => Rows::Tuples { in_progress: form == 1 },
    };
    let short = |piece: usize| {
        let mut shortener = Shortener::new(rows, usize::from(*kept));
        message.chunks(piece).for_each(|piece| shortener.take(piece));
        shortener.finish()
    };
    let whole = short(message.len().max(1));
    assert_eq!(whole, short(usize::from(*piece).max(1)), "however it is cut into pieces");
    assert!(whole.len() <= message.len() + message.len() / 4 + 2);
    let values = |message: &[u8]| {
        let rows = message.get(25..).and_then(|data| decode(&Bytes::copy_from_slice(data)).ok());
        rows.map(|message| match message {
            Message::Insert { new, .. } | Message::Update { new, .. } => new.columns,
            _ => 0,
        })
    };
    if rows == (Rows::Tuples { in_progress: false }) && values(message).is_some() {
        assert_eq!(values(message), values(&whole));
    }
}

/// A row of `COPY` in binary: a number, then a value of the type that the first byte chooses, and behind them the row's place where that
/// byte's first bit is set. What reads has two values, and those that the server prints are UTF-8.
pub fn binary(bytes: &[u8]) {
    let [choice, message @ ..] = bytes else { return };
    let Some(&kind) = Printed::ALL.get(usize::from(choice & 0x7f) % Printed::ALL.len()) else { return };
    let mut rows = CopyRows::new(Form::Binary([Printed::Int, kind].into()));
    let read = match choice & 0x80 {
        0 => rows.row(message),
        _ => rows.row_and_place(message).map(|read| read.map(|(row, _)| row)),
    };
    let Ok(Some(row)) = read else { return };
    let values: Vec<_> = row.cells().map(|cell| cell.expect("a cell of a row that was read")).collect();
    assert_eq!(values.len(), 2, "a row that was read has the values of its columns");
    for (value, kind) in values.iter().zip([Printed::Int, kind]) {
        if let (Cell::Text(text), false) = (value, matches!(kind, Printed::Same | Printed::Jsonb)) {
            assert!(std::str::from_utf8(text).is_ok_and(|text| !text.is_empty()), "a value is printed");
        }
    }
}

/// A row as it is kept in memory and in keyed state.
pub fn row_image(bytes: &[u8]) {
    let image = RowImage(Bytes::copy_from_slice(bytes));
    let values = image.cells().take_while(Result::is_ok).count();
    assert!(values <= bytes.len());
}

/// A value as the server writes it, of the type and in the form that the first two bytes choose: what is encoded decodes again.
pub fn cell(bytes: &[u8]) {
    let [kind, form, text @ ..] = bytes else { return };
    let form = form_of(*form);
    let context = TableContext { prefix: "raw.a", name: "a", database: "d", kind: SourceKind::Postgres, form: &form };
    let kinds = kinds();
    let Some(kind) = kinds.get(usize::from(*kind) % kinds.len()) else { return };
    let table = Arc::new(table(vec![kind.clone()]));
    let plan = EncodePlan::compile(&table, &context).expect("a table of two columns has a form");
    let mut row = RowBuilder::default();
    row.text(b"1").and_then(|()| row.text(text)).expect("a short value");
    let (mut out, mut marks) = (Vec::new(), Marks::default());
    if plan.value(&change(&table, row.finish()), Stamp { schema_id: 1, processed_us: 0 }, &mut out, &mut marks).is_err() {
        return;
    }
    let (_, body) = frame::read(&out).expect("a framed value");
    let reader = DecodePlan::compile(plan.value_schema().expect("Avro")).expect("our schema");
    let decoded = reader.envelope(body).expect("what was encoded decodes");
    assert!(decoded.after.is_some());
}

/// An event of a topic, read by a schema with every kind of type.
pub fn envelope(bytes: &[u8]) {
    static PLAN: LazyLock<DecodePlan> = LazyLock::new(|| {
        let context =
            TableContext { prefix: "raw.a", name: "a", database: "d", kind: SourceKind::Postgres, form: &EventForm::DEFAULT };
        let plan = EncodePlan::compile(&table(kinds()), &context).expect("a table of many columns has a form");
        DecodePlan::compile(plan.value_schema().expect("Avro")).expect("our schema")
    });
    let mut spans = Vec::new();
    let found = PLAN.spans(bytes, &mut spans);
    if PLAN.envelope(bytes).is_ok() {
        assert!(found.is_ok(), "what decodes has its places");
        assert!(spans.iter().all(|span| bytes.get(span.clone()).is_some()));
    }
    let _ = frame::read(bytes);
}

/// A writer's schema from a registry, and an empty and a short record under it.
pub fn schema(bytes: &[u8]) {
    let Ok(plan) = std::str::from_utf8(bytes).map_err(drop).and_then(|text| DecodePlan::compile(text).map_err(drop)) else {
        return;
    };
    for record in [&[][..], &[0; 64]] {
        let (_, _) = (plan.record(record), plan.envelope(record));
    }
}

/// A date or a time, in the reading that the first byte chooses.
pub fn date(bytes: &[u8]) {
    const KINDS: [&str; 6] = ["date", "datetime", "partial_date", "date_open_end", "date_excel_serial", "date_epoch_ms"];
    checked(&KINDS, bytes);
}

/// A value of any kind of the standard, which the first byte chooses.
pub fn check(bytes: &[u8]) {
    const KINDS: [&str; 18] = [
        "citizen_id",
        "uscc",
        "orgcode",
        "bizreg15",
        "mobile",
        "bankcard",
        "division",
        "project_code",
        "text",
        "name:100",
        "address:400",
        "phone:18",
        "identifier:25",
        "registration_no:100",
        "decimal:24,6",
        "industry",
        "code:gbt3304_ethnic",
        "steps",
    ];
    checked(&KINDS, bytes);
}

/// What is read becomes a canonical text, which reads as itself; what is not read has a reason, or says that there is no value.
fn checked(kinds: &[&str], bytes: &[u8]) {
    let [choice, value @ ..] = bytes else { return };
    let Ok(value) = std::str::from_utf8(value) else { return };
    let kind = kinds[usize::from(*choice) % kinds.len()];
    let checker = Standard::builtin().checker(kind).expect("a kind of the standard");
    // 2026-11-23T12:00+08:00
    let clock = Clock::at(1_795_406_400_000_000, Zone::shanghai());
    let found = checker.check(value, &clock);
    assert!(found.verdict() != Verdict::Error || !found.findings.is_empty(), "a value that is refused has its rule");
    // Serial numbers become dates, and steps a list of names.
    let Some(canonical) = found.normalised.filter(|_| !matches!(kind, "date_excel_serial" | "date_epoch_ms" | "steps")) else {
        return;
    };
    let again = checker.check(&canonical, &clock);
    assert_eq!(again.normalised.as_deref(), Some(canonical.as_str()), "{kind} reads its own canonical form otherwise");
}

/// A resource's file of an exchange directory: it is a resource, whose mapping compiles or says why not, or every mistake has its place.
pub fn mapping(bytes: &[u8]) {
    static ROOT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let root = tempfile::tempdir().expect("a directory");
        let system = "title = \"系统\"\ndepartment = \"office\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.*\"]\n";
        for (name, text) in [
            ("exchange.toml", "name = \"fuzz\"\ntitle = \"交换\"\ntime_zone = \"Asia/Shanghai\"\n"),
            ("departments/office.toml", "title = \"某局\"\ncode = \"11450000PDY00001X0\"\n"),
            ("systems/source.toml", system),
            ("codes/status.csv", "value,code\n在营,1\n吊销,3\n"),
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        std::fs::create_dir(root.path().join("resources")).expect("a folder");
        root
    });
    std::fs::write(ROOT.path().join("resources/one.toml"), bytes).expect("a file");
    match guitong_schemas::contract::load(ROOT.path(), &|_| None, jiff::Timestamp::UNIX_EPOCH, Purpose::Run) {
        Ok(directory) => {
            for resource in directory.resources.values() {
                // What loads may still break a bound of its expressions, and says so.
                let _ = guitong_normalise::verify(resource, &directory.standard, Zone::shanghai());
            }
        }
        Err(problems) => assert!(!problems.render(true).is_empty() && !problems.list.is_empty()),
    }
}

/// An expression of a mapping, over a row of texts: it compiles or says why not, and ends within its budget.
pub fn expression(bytes: &[u8]) {
    static CASE: LazyLock<(Resource, EncodePlan, Vec<u8>)> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
        let directory = guitong_schemas::contract::load(
            &root,
            &|_| None,
            jiff::Timestamp::UNIX_EPOCH,
            Purpose::Check { unset_secrets: true },
        );
        let directory = directory.expect("the quick start is valid");
        let mut resource =
            (**directory.resources.values().find(|it| it.name.as_str() == "enterprise").expect("an enterprise")).clone();
        resource.map.clear();
        let column = |name: &str| Column { name: name.to_owned(), kind: ColumnType::Text, nullable: true, default: None };
        let table = Arc::new(Table { name: resource.table.clone(), columns: ["a", "b", "列"].map(column).into(), key: vec![0] });
        let form = &EventForm::DEFAULT;
        let context = TableContext { prefix: "raw.a", name: "a", database: "d", kind: SourceKind::Changelog, form };
        let plan = EncodePlan::compile(&table, &context).expect("a table of texts has a form");
        let mut row = RowBuilder::default();
        for text in ["南宁市;青秀区,1,2", "91450100PDY00001X1", "2017-09-22"] {
            row.text(text.as_bytes()).expect("short");
        }
        let mut event = Vec::new();
        let change = change(&table, row.finish());
        plan.value(&change, Stamp { schema_id: 1, processed_us: 0 }, &mut event, &mut Marks::default()).expect("encodes");
        (resource, plan, event)
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (resource, plan, event) = &*CASE;
    let mut resource = resource.clone();
    let mapping = FieldMapping::plain(ValueSource::Cel(text.to_owned()), guitong_schemas::contract::resource::Place::default());
    resource.map.insert("scope".to_owned(), mapping);
    resource.condition = Some(text.to_owned());
    let schema = plan.value_schema().expect("Avro");
    let Ok(trial) = Trial::compile(&resource, Standard::builtin(), Zone::shanghai(), schema) else { return };
    let started = Instant::now();
    trial.run([event.as_slice()], 1, drop).expect("an event reads, whatever the expression gives");
    assert!(started.elapsed() < Duration::from_secs(5), "an expression took {:?}", started.elapsed());
}

fn kinds() -> Vec<ColumnType> {
    use ColumnType as Kind;
    vec![
        Kind::Bool,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::UInt32,
        Kind::Float32,
        Kind::Float64,
        Kind::Decimal { precision: 18, scale: 2 },
        Kind::VariableDecimal,
        Kind::Money,
        Kind::Text,
        Kind::Other,
        Kind::Bytes,
        Kind::Date,
        Kind::Time { precision: 6 },
        Kind::Time { precision: 2 },
        Kind::Timestamp { precision: 6 },
        Kind::Timestamp { precision: 3 },
        Kind::ZonedTime,
        Kind::ZonedTimestamp { precision: 6 },
        Kind::Interval,
        Kind::Json,
        Kind::Xml,
        Kind::Uuid,
        Kind::Enum { labels: vec!["好".to_owned(), "a, b".to_owned()] },
        Kind::Bit { length: 11, varying: false },
        Kind::Bit { length: 1, varying: false },
        Kind::Bit { length: 0, varying: true },
        Kind::Point,
        Kind::Hstore,
        Kind::Ltree,
        Kind::TsVector,
        Kind::Array(Box::new(Kind::Int32)),
        Kind::Array(Box::new(Kind::Text)),
        Kind::Array(Box::new(Kind::ZonedTimestamp { precision: 6 })),
        Kind::Array(Box::new(Kind::Decimal { precision: 9, scale: 3 })),
        Kind::Array(Box::new(Kind::Point)),
    ]
}

fn form_of(choice: u8) -> EventForm {
    EventForm {
        decimals: [Decimals::Precise, Decimals::Double, Decimals::String][usize::from(choice % 3)],
        times: [Times::Adaptive, Times::Connect, Times::IsoString][usize::from(choice / 3 % 3)],
        intervals: [Intervals::Numeric, Intervals::String][usize::from(choice / 9 % 2)],
        binary: [Binary::Bytes, Binary::Base64][usize::from(choice / 18 % 2)],
        unknown_types: [UnknownTypes::Text, UnknownTypes::Bytes][usize::from(choice / 36 % 2)],
        names: Names::Escaped,
        ..EventForm::DEFAULT
    }
}

/// A key, and a column of each kind.
fn table(kinds: Vec<ColumnType>) -> Table {
    let column = |name: String, kind, nullable| Column { name, kind, nullable, default: None };
    let mut columns = vec![column("id".to_owned(), ColumnType::Int32, false)];
    columns.extend(kinds.into_iter().enumerate().map(|(at, kind)| column(format!("c{at}"), kind, true)));
    Table { name: TableName::new("public", "t"), columns, key: vec![0] }
}

fn change(table: &Arc<Table>, row: RowImage) -> Change {
    let place = Place::Postgres { lsn: 1, last_commit_lsn: None, xid: Some(1), order: None };
    Change {
        table: Arc::clone(table),
        operation: Operation::Create,
        version: Version::default(),
        before: Before::None,
        after: Some(row),
        origin: Origin { ts_us: 0, snapshot: SnapshotMark::Streamed, place },
    }
}
