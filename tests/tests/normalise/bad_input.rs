//! Every value that the standard's examples reject, through the whole stage, and expressions that run away: each costs its own row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use guitong_normalise::{Filter, QuarantineItem};
use guitong_schemas::change::{Operation, RowBuilder, RowImage};
use guitong_schemas::contract::mapping::ValueSource;
use guitong_schemas::contract::quality::PauseAbove;
use guitong_schemas::contract::{Name, load};
use guitong_schemas::standard::{Clock, Level, Rule, Standard, Zone};
use guitong_schemas::table::{Column, ColumnType, Table, TableName};

use super::harness::{NOW_US, RAW, World, uscc};

/// Kinds of the examples, each as a schema and a mapping write it, with the grade of its field here.
const KINDS: [(&str, &str, &str, &str); 14] = [
    ("citizen_id", "citizen_id", "", "G3"),
    ("citizen_id15", "citizen_id", "", "G3"),
    ("uscc", "uscc", "", "G1"),
    ("orgcode", "org_code", "", "G1"),
    ("bizreg15", "business_registration", "", "G1"),
    ("mobile", "mobile", "", "G2"),
    ("bankcard", "bank_card", "", "G3"),
    ("date", "date", "", "G1"),
    ("date_excel_serial", "date", ", format = \"excel\"", "G0"),
    ("birth_date", "date", "", "G2"),
    ("datetime", "time", "", "G1"),
    ("division", "division", "", "G0"),
    ("project_code", "project_code", "", "G0"),
    ("text", "text:256", "", "G1"),
];

/// Every rule by which an example is rejected.
const RULES: [&str; 34] = [
    "card.check_digit",
    "card.form",
    "citizen_id.birth_date",
    "citizen_id.check_digit",
    "citizen_id.division",
    "citizen_id.form",
    "citizen_id.in_future",
    "date.form",
    "date.in_future",
    "date.no_such_day",
    "date.open_end",
    "date.too_early",
    "date.weekday",
    "division.form",
    "division.unknown",
    "field.missing",
    "mobile.form",
    "org_code.check_digit",
    "org_code.form",
    "project_code.division",
    "project_code.form",
    "registration_no.check_digit",
    "registration_no.form",
    "text.control",
    "text.damaged",
    "text.invisible",
    "text.private_use",
    "text.too_long",
    "time.form",
    "time.range",
    "uscc.alphabet",
    "uscc.check_digit",
    "uscc.department",
    "uscc.length",
];

/// One row of the file of examples.
struct Example {
    kind: String,
    input: String,
    valid: bool,
    reason: String,
}

fn examples() -> Vec<Example> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/tests/data/standard_vectors.csv");
    let mut reader = csv::Reader::from_path(path).unwrap();
    let example = |row: csv::StringRecord| Example {
        kind: row[0].to_owned(),
        input: serde_json::from_str(&format!("\"{}\"", &row[1])).unwrap(),
        valid: &row[2] == "true",
        reason: row[4].to_owned(),
    };
    reader.records().map(|row| example(row.unwrap())).collect()
}

/// The directory of an entity with a mandatory field of each kind, and a resource that maps a column to each.
fn directory() -> tempfile::TempDir {
    let string = |name: &str, kind: &str| match kind {
        "date" => format!(r#"{{"name": "{name}", "type": ["null", {{"type": "int", "logicalType": "date"}}]"#),
        "time" => format!(r#"{{"name": "{name}", "type": ["null", {{"type": "long", "logicalType": "timestamp-micros"}}]"#),
        _ => format!(r#"{{"name": "{name}", "type": ["null", "string"]"#),
    };
    let fields = KINDS.map(|(name, kind, _, grade)| {
        let born = if name == "birth_date" { r#", "not_before": "1850-01-01", "not_after": "today""# } else { "" };
        format!(
            r#",{}, "default": null, "title": "{name} 栏", "doc": "A value.", "kind": "{kind}", "obligation": "mandatory", "grade": "{grade}"{born}}}"#,
            string(name, kind)
        )
    });
    let head = r#"{"type": "record", "name": "Example", "namespace": "cn.guitong.standard", "version": 1, "title": "例", "doc": "Examples."#;
    let key = r#"{"name": "no", "type": "string""#;
    let schema = format!(
        r#"{head}", "fields": [{key}, "title": "编号", "doc": "Number.", "kind": "identifier:20", "obligation": "mandatory", "grade": "G0"}}{}]}}"#,
        fields.concat()
    );
    let key = format!(r#"{{"type": "record", "name": "ExampleKey", "namespace": "cn.guitong.standard", "fields": [{key}}}]}}"#);
    let map = KINDS.map(|(name, _, options, _)| format!("{name} = {{ from = \"{name}\"{options} }}\n"));
    let resource = format!(
        "code = \"3450010102/000009\"\ntitle = \"例\"\nsystem = \"registration\"\ntable = \"main.qy_jbxx\"\nentity = \"Example\"\n\
         sharing = {{ type = 2, condition = \"履职所需\" }}\n[map]\nno = \"id\"\n{}",
        map.concat()
    );
    let system = "title = \"登记\"\ndepartment = \"registry\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.*\"]\n";
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n"),
        ("departments/registry.toml", "title = \"市场监督管理局\"\ncode = \"11450000PDY00001X0\"\n"),
        ("systems/registration.toml", system),
        ("standard/Example.avsc", &schema),
        ("standard/Example.key.avsc", &key),
        ("resources/example.toml", &resource),
    ] {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// A row that is good but for one kind's value.
fn row_of(id: usize, good: &BTreeMap<&str, &str>, bad: Option<(&str, &str)>) -> RowImage {
    let mut out = RowBuilder::default();
    out.text(id.to_string().as_bytes()).unwrap();
    for (name, ..) in KINDS {
        let value = bad.filter(|(kind, _)| *kind == name).map_or(good[name], |(_, value)| value);
        out.text(value.as_bytes()).unwrap();
    }
    out.finish()
}

/// What may be shown of a value to who looks after the quarantine.
fn masked(text: &str, grade: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let (head, tail) = match grade {
        "G3" if characters.len() >= 15 => (3, 2),
        "G2" if characters.len() > 1 => (1, 0),
        "G2" | "G3" => (0, 0),
        _ if characters.len() > 64 => return characters[..64].iter().chain(&['…']).collect(),
        _ => return text.to_owned(),
    };
    let (hidden, last) = (characters.len() - head - tail, characters.len() - tail);
    let stars = vec!['*'; hidden.min(64)];
    characters[..head].iter().chain(&stars).chain(&characters[last..]).collect()
}

#[tokio::test]
async fn each_rejected_example_is_kept_with_its_reason_and_the_next_row_flows() {
    let root = directory();
    let now = jiff::Timestamp::from_microsecond(NOW_US).unwrap();
    let loaded = load::load(root.path(), &|_| None, now, load::Purpose::Check { unset_secrets: true });
    let loaded = loaded.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let mut world = World::new().await;
    world.standard = Arc::clone(&loaded.standard);
    world.resource = (*loaded.resources[&Name::parse("example").unwrap()]).clone();
    world.resource.quality.pause_above = PauseAbove { percent: 100, of: 1_000 };
    let column = |name: &str| Column { name: name.into(), kind: ColumnType::Text, nullable: name != "id", default: None };
    let columns = ["id"].into_iter().chain(KINDS.map(|(name, ..)| name)).map(column).collect();
    world.table = Arc::new(Table { name: TableName::new("main", "qy_jbxx"), columns, key: vec![0] });

    let examples = examples();
    let good = |kind| {
        let plain = |example: &&Example| example.kind == kind && example.valid && !example.reason.contains("warn:");
        examples.iter().find(plain).map(|example| (kind, example.input.as_str()))
    };
    let good: BTreeMap<&str, &str> = KINDS.iter().filter_map(|(name, ..)| good(*name)).collect();
    let bad: Vec<&Example> = examples.iter().filter(|example| !example.valid).collect();
    assert_eq!(bad.len(), 280);
    for (at, example) in bad.iter().enumerate() {
        let rejected = row_of(2 * at, &good, Some((&example.kind, &example.input)));
        let next = row_of(2 * at + 1, &good, None);
        world.transaction(&[(Operation::Create, rejected), (Operation::Create, next)]).await;
    }
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.entities), (bad.len() as u64, bad.len() as u64));
    let items = stage.handle.list(Filter::default(), None, 1_000).await.unwrap().items;
    let mut rules = BTreeSet::new();
    for (at, (example, item)) in bad.iter().zip(&items).enumerate() {
        assert_eq!((item.key.as_str(), item.topic.as_str(), item.offset), (&*format!("id={}", 2 * at), RAW, 2 * at as u64));
        explains(example, item);
        rules.extend(item.rejections.iter().map(|rejection| rejection.rule.clone()));
    }
    assert_eq!(rules.iter().map(String::as_str).collect::<Vec<_>>(), RULES);
    stage.stop().await;
}

/// An entry says of its row's one bad value which rule it breaks, in both languages, and shows no more of it than may be seen.
fn explains(example: &Example, item: &QuarantineItem) {
    let Example { kind, input, reason, .. } = example;
    let [rejection] = item.rejections.as_slice() else { panic!("{kind} {input:?} ({reason}): {item:?}") };
    let (_, _, _, grade) = KINDS.iter().find(|(name, ..)| name == kind).unwrap();
    let checker = Standard::builtin().checker(kind).unwrap();
    let checked = checker.check(input, &Clock::at(NOW_US, Zone::shanghai()));
    let broken = checked.findings.iter().find(|finding| finding.level > Level::Note);
    let broken = broken.map_or(Rule::FieldMissing, |finding| finding.rule);
    let said = (rejection.rule.as_str(), rejection.field.as_str(), rejection.zh.as_str(), rejection.en.as_str());
    let (zh, en) = (format!("{kind} 栏：{}", broken.zh()), format!("{kind}: {}", broken.en()));
    assert_eq!(said, (broken.code(), kind.as_str(), zh.as_str(), en.as_str()), "{input:?} ({reason})");
    let shown = rejection.value.clone().unwrap_or_default();
    assert_eq!(shown, masked(input, grade), "{kind} {input:?} ({reason})");
}

#[tokio::test]
async fn an_expression_that_runs_away_costs_its_own_row() {
    let mut world = World::new().await;
    let squared = |column: &str| {
        let pairs = format!("row.{column}.split('').map(x, row.{column}.split('').map(y, x + y).join('')).join('')");
        ValueSource::Cel(format!("row.{column}.size() > 40 ? {pairs} : row.{column}"))
    };
    for (field, column) in [("name", "qymc"), ("scope", "jyfw")] {
        world.resource.map.get_mut(field).unwrap().value = squared(column);
    }
    let ValueSource::Cel(outside) = squared("zs") else { unreachable!() };
    world.resource.condition = Some(format!("({outside}).size() > 0"));
    let (usual, long) = (("jyfw", Some("批发")), ("长".repeat(300)));
    for (id, column) in (1..).zip(["qymc", "jyfw", "zs"]) {
        world.create(2 * id, &uscc(2 * id), &[(column, Some(&long)), usual]).await;
        world.create(2 * id + 1, &uscc(2 * id + 1), &[usual]).await;
    }
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.entities), (2, 4));
    let items = stage.handle.list(Filter::default(), None, 10).await.unwrap().items;
    let said = |item: &QuarantineItem| {
        let [rejection] = item.rejections.as_slice() else { panic!("{item:?}") };
        (item.key.clone(), rejection.field.clone(), rejection.rule.clone())
    };
    let stopped = |key: &str, field: &str| (key.to_owned(), field.to_owned(), "mapping.expression_stopped".to_owned());
    assert_eq!(items.iter().map(said).collect::<Vec<_>>(), [stopped("id=2", "name"), stopped("id=6", "")]);
    assert!(items[0].rejections[0].zh.contains("已中止") && items[0].rejections[0].en.contains("was stopped"), "{items:?}");
    let standing = world.standing().await;
    let marked: Vec<_> = standing.values().filter_map(|record| record.headers.get("guitong-quality")).collect();
    assert_eq!(marked, ["scope:mapping.expression_stopped"], "an optional field is empty, and the row is delivered");
    stage.stop().await;
}
