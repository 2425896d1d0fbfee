//! The transform with the standard's real entities and the quick start's real mappings; `apache-avro` reads what it writes.

use std::collections::BTreeMap;
use std::time::Instant;

use apache_avro::Schema;
use apache_avro::types::Value as Oracle;
use guitong_schemas::avro::frame;
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::mapping::{FieldMapping, ValueSource};
use guitong_schemas::contract::resource::Place;
use guitong_schemas::standard::{FieldKind, Standard, Zone, shortest};
use guitong_schemas::table::ColumnType;
use proptest::prelude::*;

use super::encode::encode_nested;
use super::*;
use crate::fixtures::{ABSENT, NOW_US, Source, resource, uscc};

mod language;

const ENTERPRISE: [&str; 21] = [
    "tyshxydm", "qymc", "jjlx", "hydm", "fddbr", "frzjlx", "frzjhm", "zczb", "bz", "clrq", "hzrq", "yyqxz", "djzt", "djjg",
    "djjgdm", "zs", "xzqh", "jyfw", "ryrs", "lxr", "lxdh",
];

/// A resource over one source, bound.
struct Case {
    mapping: Mapping,
    bound: Bound,
    source: Source,
}

impl Case {
    fn new(resource: &Resource, source: Source) -> Self {
        let mapping = Mapping::compile(resource, Standard::builtin(), Zone::shanghai()).expect("compiles");
        let bound = mapping.bind(0, source.plan.value_schema().expect("Avro")).expect("binds");
        Self { mapping, bound, source }
    }

    fn enterprise() -> Self {
        let resource = resource("enterprise");
        let source = Source::of_texts(&resource, &ENTERPRISE);
        Self::new(&resource, source)
    }

    fn run(&self, cells: &[Option<&str>], kept: Option<&Columns>) -> Event {
        let (avro, absent) = self.source.event(Operation::Create, cells);
        let raw = Raw { absent: &absent, ..Raw::whole(&avro) };
        Runner::new(&self.mapping, 7).run(&self.bound, &raw, kept, 0).expect("decodes")
    }

    fn good(&self, cells: &[Option<&str>]) -> Vec<EntityRecord> {
        match self.run(cells, None).change {
            Change::Good(records) => records,
            other => panic!("{other:?}"),
        }
    }

    fn bad(&self, cells: &[Option<&str>]) -> Vec<Rejection> {
        match self.run(cells, None).change {
            Change::Bad { rejections } => rejections,
            other => panic!("{other:?}"),
        }
    }

    /// Fields of a record that are not null, in their text form.
    fn fields(&self, record: &EntityRecord) -> BTreeMap<String, String> {
        let (id, mut avro) = frame::read(&record.record).expect("framed");
        assert_eq!(id, 7);
        let schema = Schema::parse_str(&self.mapping.entity.schema_json).expect("a schema");
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().expect("a reader");
        let Oracle::Record(fields) = reader.read_value(&mut avro).expect("reads") else { panic!("no record") };
        assert!(avro.is_empty(), "bytes after the record");
        fields.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()
    }
}

fn text(value: Oracle) -> Option<String> {
    match value {
        Oracle::Union(_, inner) => text(*inner),
        Oracle::Null => None,
        Oracle::String(text) => Some(text),
        Oracle::Date(days) => Some(StandardValue::Date(days).to_string()),
        Oracle::TimestampMicros(micros) => Some(StandardValue::Time(micros).to_string()),
        Oracle::Decimal(number) => Some(format!("{:?}", num(&Vec::<u8>::try_from(number).expect("bytes")))),
        Oracle::Array(items) => Some(items.into_iter().filter_map(text).collect::<Vec<_>>().join(";")),
        Oracle::Record(members) => {
            Some(members.into_iter().map(|(_, value)| text(value).unwrap_or_default()).collect::<Vec<_>>().join(","))
        }
        other => Some(format!("{other:?}")),
    }
}

fn num(bytes: &[u8]) -> i128 {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte))
}

fn enterprise_row(code: &str) -> Vec<Option<&str>> {
    vec![
        Some("1"),
        Some(code),
        Some("南宁市示例商贸有限公司"),
        Some("159"),
        Some("5191"),
        Some("张示例"),
        Some("身份证"),
        Some("450102199001019997"),
        Some("100.50"),
        None,
        Some("20170922"),
        Some("2020-01-02"),
        Some("长期"),
        Some("在营"),
        Some("南宁市市场监督管理局"),
        Some("450100"),
        Some("南宁市青秀区示例路１号"),
        Some("450103"),
        Some("日用百货销售"),
        Some("12"),
        Some("李示例"),
        Some("16000000001"),
    ]
}

#[test]
fn a_row_becomes_a_record_of_the_standard() {
    let case = Case::enterprise();
    let code = uscc(1);
    let records = case.good(&enterprise_row(&code));
    let fields = case.fields(&records[0]);
    for (field, value) in [
        ("uscc", code.as_str()),
        ("entity_type", "91"),
        ("name", "南宁市示例商贸有限公司"),
        ("legal_rep_doc_type", "111"),
        ("reg_capital", "100500000"),
        ("currency", "CNY"),
        ("established", "2017-09-22"),
        ("approved", "2020-01-02"),
        ("term_to", "9999-12-31"),
        ("status", "1"),
        ("reg_address_division", "450103"),
    ] {
        assert_eq!(fields.get(field).map(String::as_str), Some(value), "{field}");
    }
    assert_eq!(&records[0].key[..], [&[36][..], code.as_bytes()].concat());
    assert!(records[0].quality.is_empty(), "{:?}", records[0].quality);
}

#[test]
fn errors_reject_and_warnings_mark() {
    let case = Case::enterprise();
    let wrong = format!("{}{}", &uscc(1)[..17], if uscc(1).ends_with('0') { '1' } else { '0' });
    let rules = |rejections: &[Rejection]| rejections.iter().map(|r| format!("{}:{}", r.field, r.rule)).collect::<Vec<_>>();
    let rejections = case.bad(&enterprise_row(&wrong));
    assert!(rules(&rejections).contains(&"uscc:uscc.check_digit".to_owned()), "{rejections:?}");
    assert_eq!(rejections[0].value.as_deref(), Some(wrong.as_str()));
    let code = uscc(2);
    let mut row = enterprise_row(&code);
    row[13] = Some("不明");
    assert_eq!(rules(&case.bad(&row)), ["status:code.unknown"], "a mandatory field out of the mapping's list");
    row[13] = None;
    assert_eq!(rules(&case.bad(&row)), ["status:field.missing"]);
    let mut row = enterprise_row(&code);
    row[6] = Some("军官证");
    let records = case.good(&row);
    assert_eq!(&records[0].quality[..], b"legal_rep_doc_type:code.unknown", "an optional field is null and marked");
    assert!(!case.fields(&records[0]).contains_key("legal_rep_doc_type"));
}

fn mapped(value: ValueSource) -> FieldMapping {
    FieldMapping::plain(value, Place { line: 3, column: 1 })
}

#[test]
fn columns_keep_their_types_and_join_and_compute() {
    let mut resource = resource("enterprise");
    let from = |column: &str| mapped(ValueSource::Column(column.to_owned()));
    let joined =
        |separator: &str| ValueSource::Joined { columns: vec!["city".into(), "street".into()], separator: separator.into() };
    resource.map.insert("established".into(), from("day"));
    resource.map.insert("approved".into(), from("moment"));
    resource.map.insert("reg_capital".into(), from("capital"));
    resource.map.insert("employees".into(), from("people"));
    resource.map.insert("reg_address".into(), mapped(joined("")));
    resource.map.insert("status".into(), FieldMapping { codes: [("7".to_owned(), "3".to_owned())].into(), ..from("people") });
    resource.map.insert("name".into(), mapped(ValueSource::Cel("row.city + '公司' + string(row.people)".into())));
    resource.map.insert("op_address".into(), mapped(ValueSource::Constant("无固定地址".into())));
    resource.map.insert("scope".into(), FieldMapping { default: Some("未填".into()), ..from("street") });
    let mut columns: Vec<(&str, ColumnType)> = vec![
        ("id", ColumnType::Int64),
        ("day", ColumnType::Date),
        ("moment", ColumnType::Timestamp { precision: 6 }),
        ("capital", ColumnType::Decimal { precision: 18, scale: 2 }),
        ("people", ColumnType::Int32),
        ("city", ColumnType::Text),
        ("street", ColumnType::Text),
    ];
    columns.extend(ENTERPRISE.iter().map(|name| (*name, ColumnType::Text)));
    let case = Case::new(&resource, Source::new("registration", &resource.table, &columns));
    let code = uscc(3);
    let mut row =
        vec![Some("5"), Some("2017-09-22"), Some("2017-09-22 00:30:00"), Some("100.50"), Some("7"), Some(" 南宁市 "), Some("无")];
    row.extend(&enterprise_row(&code)[1..]);
    let records = case.good(&row);
    let fields = case.fields(&records[0]);
    for (field, value) in [
        ("established", "2017-09-22"),
        ("approved", "2017-09-22"),
        ("reg_capital", "100500000"),
        ("employees", "Long(7)"),
        ("reg_address", "南宁市"),
        ("status", "3"),
        ("name", "南宁市 公司7"),
        ("op_address", "无固定地址"),
        ("scope", "未填"),
    ] {
        assert_eq!(fields.get(field).map(String::as_str), Some(value), "{field}");
    }
}

const DEAL: [&str; 21] = [
    "UNIFIED_DEAL_CODE",
    "SECTOR",
    "INVEST_PROJECT_CODE",
    "PROJECT_CODE",
    "TENDER_PROJECT_CODE",
    "BID_SECTION_CODE",
    "NOTICE_NAME",
    "NOTICE_SEND_TIME",
    "OPEN_TIME",
    "TENDERER_NAME",
    "TENDERER_CODE",
    "WIN_BIDDER_NAME",
    "BIDDER_CODE_TYPE",
    "WIN_BIDDER_CODE",
    "BIDDER_ROLE",
    "BID_AMOUNT",
    "CURRENCY_CODE",
    "PLATFORM_CODE",
    "PUB_SERVICE_PLAT_CODE",
    "URL",
    "DATA_TIMESTAMP",
];

#[test]
fn several_winners_in_one_row_are_several_records() {
    let mut resource = resource("deal");
    for field in ["winner_name", "winner_code"] {
        resource.map.get_mut(field).expect("mapped").split = Some(";".to_owned());
    }
    let case = Case::new(&resource, Source::of_texts(&resource, &DEAL));
    let (tenderer, first, second) = (uscc(10), uscc(11), uscc(12));
    let codes = format!("{first}; {second}");
    let mut row: Vec<Option<&str>> = vec![Some("1")];
    row.extend(
        [
            "DEAL-1",
            "政府采购",
            "",
            "P-1",
            "T-1",
            "S-1",
            "示例公告",
            "20260102030405",
            "20260103030405",
            "示例采购人",
            &tenderer,
            "甲公司;乙公司",
            "法人",
            &codes,
            "",
            "1000000",
            "156",
            "PLAT1",
            "PLAT2",
            "http://example.invalid/1",
            "20260104030405",
        ]
        .map(Some),
    );
    let records = case.good(&row);
    let fields: Vec<_> = records.iter().map(|record| case.fields(record)).collect();
    let names: Vec<_> = fields.iter().map(|fields| (fields["winner_name"].as_str(), fields["winner_code"].as_str())).collect();
    assert_eq!(names, [("甲公司", first.as_str()), ("乙公司", second.as_str())]);
    assert_eq!(fields[0]["amount"], "100000000", "yuan are ten-thousandths of 万元");
    assert_ne!(records[0].key, records[1].key);
    row[12] = Some("甲公司");
    let rules: Vec<_> = case.bad(&row).into_iter().map(|rejection| rejection.rule).collect();
    assert_eq!(rules, ["row.parallel_lists"; 2]);
}

#[test]
fn absent_columns_come_from_what_was_kept_and_never_from_fillers() {
    let case = Case::enterprise();
    let (code, scope) = (uscc(4), "销售".repeat(300));
    let mut row = enterprise_row(&code);
    row[18] = Some(&scope);
    let whole = case.run(&row, None);
    let kept = whole.columns.expect("a row");
    assert_eq!(kept.get("jyfw"), Some(scope.as_str()), "a large value of a large row is kept");
    assert_eq!(kept.get("bz"), None);
    row[18] = Some(ABSENT);
    row[21] = Some("16000000002");
    let update = case.run(&row, Some(&kept));
    let Change::Good(records) = update.change else { panic!("{:?}", update.change) };
    assert_eq!(case.fields(&records[0])["scope"], scope);
    assert_eq!(update.columns.expect("a row").get("jyfw"), Some(scope.as_str()), "it is kept on");
    let rules: Vec<_> = case.bad(&row).into_iter().map(|rejection| (rejection.field, rejection.rule)).collect();
    assert_eq!(
        rules,
        [("scope".to_owned(), "column.absent".to_owned())],
        "what is not known is not made up, even in an optional field"
    );
}

#[test]
fn what_the_wire_could_not_hold_is_no_null() {
    let case = Case::enterprise();
    let code = uscc(4);
    let (avro, _) = case.source.event(Operation::Create, &enterprise_row(&code));
    let run = |lossy| Runner::new(&case.mapping, 7).run(&case.bound, &Raw { lossy, ..Raw::whole(&avro) }, None, 0);
    let Change::Good(records) = run("zczb").expect("decodes").change else { panic!("an optional field") };
    assert_eq!(&records[0].quality[..], b"reg_capital:column.lossy");
    let Change::Bad { rejections } = run("clrq").expect("decodes").change else { panic!("a mandatory field") };
    assert_eq!(rejections[0].rule, "column.lossy");
}

#[test]
fn a_column_that_the_table_does_not_have_leaves_its_fields_empty_where_they_may_be() {
    let gone = |column: &str| {
        let at = ENTERPRISE.iter().position(|name| *name == column).expect("a column");
        let (mut columns, code) = (ENTERPRISE.to_vec(), uscc(1));
        let mut cells = enterprise_row(&code);
        columns.remove(at);
        cells.remove(at + 1);
        let resource = resource("enterprise");
        Case::new(&resource, Source::of_texts(&resource, &columns)).run(&cells, None).change
    };
    let Change::Good(records) = gone("lxr") else { panic!("an optional field") };
    assert_eq!(&records[0].quality[..], b"contact:column.gone");
    let Change::Bad { rejections } = gone("tyshxydm") else { panic!("a mandatory field") };
    assert!(
        rejections.iter().any(|rejection| (&*rejection.rule, &*rejection.field) == ("column.gone", "uscc")),
        "{rejections:?}"
    );
}

#[test]
fn what_is_no_change_event_is_not_read() {
    let resource = resource("enterprise");
    let mapping = Mapping::compile(&resource, Standard::builtin(), Zone::shanghai()).expect("compiles");
    let source = Source::of_texts(&resource, &ENTERPRISE);
    assert!(mapping.bind(0, source.plan.key_schema().expect("a key")).is_err());
    assert!(mapping.bind(0, "{").is_err());
}

#[test]
fn mistakes_of_a_mapping_name_their_line() {
    let compile = |field: &str, mapping: FieldMapping| {
        let mut resource = resource("enterprise");
        resource.map.insert(field.to_owned(), mapping);
        Mapping::compile(&resource, Standard::builtin(), Zone::shanghai()).expect_err("a mistake").to_string()
    };
    let cel = compile("name", mapped(ValueSource::Cel("row.".into())));
    assert!(cel.starts_with("line 3: field `name`: the expression does not compile"), "{cel}");
    assert!(compile("nam", mapped(ValueSource::Column("a".into()))).contains("no field `nam`"));
    let open = FieldMapping { open_end: true, ..mapped(ValueSource::Column("a".into())) };
    assert!(compile("name", open).starts_with("line 3: field `name`:"));
}

#[test]
fn a_delete_and_a_truncate_have_no_row() {
    let case = Case::enterprise();
    let mut cells = vec![None; ENTERPRISE.len() + 1];
    cells[0] = Some("1");
    let (avro, absent) = case.source.event(Operation::Delete, &cells);
    let event = Runner::new(&case.mapping, 7).run(&case.bound, &Raw { absent: &absent, ..Raw::whole(&avro) }, None, 0);
    let event = event.expect("decodes");
    assert!(
        matches!(event, Event { change: Change::Delete, columns: None, source_ts_us: NOW_US, operation: Operation::Delete, .. }),
        "{event:?}"
    );
}

#[test]
fn keys_are_told_by_column_and_masked() {
    let case = Case::enterprise();
    let mut key = Vec::new();
    let row = Source::row(&enterprise_row(&uscc(1)));
    case.source.plan.key(&row, 1, &mut key).expect("encodes");
    let plan = DecodePlan::compile(case.source.plan.key_schema().expect("a key")).expect("a plan");
    assert_eq!(describe_key(&case.mapping, &plan, &key[frame::LEN..]), "id=1");
}

proptest! {
    #[test]
    fn damaged_bytes_are_errors_or_events_and_never_more(at in 0_usize..600, byte: u8, cut in 0_usize..600) {
        let case = Case::enterprise();
        let code = uscc(1);
        let (mut avro, _) = case.source.event(Operation::Create, &enterprise_row(&code));
        let at = at % avro.len();
        avro[at] ^= byte;
        avro.truncate(avro.len() - cut % avro.len());
        let raw = Raw { absent: "djzt\nno_such", ..Raw::whole(&avro) };
        let _ = Runner::new(&case.mapping, 7).run(&case.bound, &raw, None, 0);
    }
}

proptest! {
    #[test]
    fn both_encoders_write_the_same(
        texts in proptest::collection::vec("[a-z企业]{0,5}", 29), number: i128, long: i64, days: i32, which in 0_u32..(1 << 29),
    ) {
        let mut mapping = Mapping::compile(&resource("deal"), Standard::builtin(), Zone::shanghai()).expect("compiles");
        for name in ["CreditRecord", "ServiceCase", "LegalEntity", "InvestmentProject", "PublicResourceTransaction", "NaturalPerson"] {
            let entity = Standard::builtin().entity(name).expect("an entity");
            mapping.encoder = guitong_schemas::avro::RecordEncoder::compile(&entity.schema_json).expect("compiles");
            mapping.entity = entity.clone();
            let value = |(at, field): (usize, &EntityField)| {
                let text = texts[at % texts.len()].clone();
                match field.kind {
                    _ if !field.in_key && which >> (at % 29) & 1 == 0 => StandardValue::Null,
                    FieldKind::Date => StandardValue::Date(days),
                    FieldKind::Time => StandardValue::Time(long),
                    FieldKind::Int => StandardValue::Int(long),
                    FieldKind::Decimal { scale, .. } => StandardValue::Decimal { unscaled: number, scale },
                    FieldKind::Codes(_) => StandardValue::TextList(texts.iter().take(at % 3).map(|text| text.as_str().into()).collect()),
                    FieldKind::Steps => StandardValue::Null,
                    _ => StandardValue::Text(text.into()),
                }
            };
            let values: Vec<_> = entity.fields.iter().enumerate().map(value).collect();
            let (mut fast, mut oracle) = (Vec::new(), Vec::new());
            encode(&mapping, &values, 7, &mut fast).expect("encodes");
            encode_nested(&mapping, &values, 7, &mut oracle).expect("encodes");
            prop_assert_eq!(fast, oracle);
        }
    }
}

#[test]
fn numbers_take_their_shortest_form() {
    for (number, bytes) in [(0_i128, &[0][..]), (-1, &[0xFF]), (127, &[0x7F]), (128, &[0, 0x80]), (-129, &[0xFF, 0x7F])] {
        assert_eq!(shortest(&number.to_be_bytes()), bytes, "{number}");
    }
}

#[test]
fn values_are_masked_by_grade() {
    for (text, grade, shown) in [
        ("91450100PDY00001X1", Grade::G0, "91450100PDY00001X1"),
        ("张三丰", Grade::G2, "张**"),
        ("张", Grade::G2, "*"),
        ("450102199001019997", Grade::G3, "450*************97"),
        ("短", Grade::G3, "*"),
    ] {
        assert_eq!(conceal(text, grade), shown);
    }
    assert_eq!(conceal(&"长".repeat(65), Grade::G0).chars().count(), SHOWN + 1);
}

/// Prints the rate; the bar of 300,000 events a second is for a release build on a free core.
#[test]
fn events_run_at_a_steady_rate() {
    let case = Case::enterprise();
    let events: Vec<Vec<u8>> = (0..64).map(|n| case.source.event(Operation::Create, &enterprise_row(&uscc(n + 1))).0).collect();
    let rounds = if cfg!(debug_assertions) { 20 } else { 20_000 };
    let mut runner = Runner::new(&case.mapping, 7);
    let (started, mut records) = (Instant::now(), 0);
    for _ in 0..rounds {
        for avro in &events {
            let event = runner.run(&case.bound, &Raw::whole(avro), None, 0).expect("decodes");
            records += usize::from(matches!(event.change, Change::Good(_)));
        }
    }
    let rate = (rounds * events.len()) as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} events/s, {} bytes each", events[0].len());
    assert_eq!(records, rounds * events.len());
}
