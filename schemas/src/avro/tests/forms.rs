//! Events in JSON, and rows without their envelopes.

use std::borrow::Cow;

use super::super::form::{AddedField, Converter, Metadata, SourceField, Unwrap, UnwrappedDeletes};
use super::*;
use crate::change::{Notice, TransactionMark};

/// Every form that a key, a row and an envelope can have.
fn forms() -> Vec<EventForm> {
    let added = vec![
        AddedField { name: "__op".to_owned(), of: Metadata::Operation },
        AddedField { name: "__ts_ms".to_owned(), of: Metadata::TsMs },
        AddedField { name: "__source_lsn".to_owned(), of: Metadata::Source(SourceField::Lsn) },
        AddedField { name: "__source_snapshot".to_owned(), of: Metadata::Source(SourceField::Snapshot) },
        AddedField { name: "__source_xmin".to_owned(), of: Metadata::Source(SourceField::Xmin) },
    ];
    let unwrap = Some(Unwrap { deletes: UnwrappedDeletes::Rewrite, added });
    let of = |converter, unwrap: &Option<Unwrap>| EventForm { converter, unwrap: unwrap.clone(), ..EventForm::DEFAULT };
    [Converter::Avro, Converter::Json].into_iter().flat_map(|form| [of(form, &None), of(form, &unwrap)]).collect()
}

fn plan(table: &Table, form: &EventForm) -> EncodePlan {
    EncodePlan::compile(table, &TableContext { form, ..CONTEXT }).unwrap()
}

fn json_of(table: &Arc<Table>, form: &EventForm, change: &Change) -> String {
    String::from_utf8(encode(&plan(table, form), change).unwrap().0).unwrap()
}

/// The value of one cell in JSON.
fn cell(kind: ColumnType, text: &str) -> String {
    let table = Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column("c", kind, true)], key: vec![] });
    let row = change(&table, Operation::Create, Before::None, Some(texts(&[Some(text)])));
    let unwrap = Some(Unwrap { deletes: UnwrappedDeletes::Rewrite, added: vec![] });
    let form = EventForm { converter: Converter::Json, unwrap, ..EventForm::DEFAULT };
    let text = json_of(&table, &form, &row);
    text.strip_prefix(r#"{"c":"#).and_then(|text| text.strip_suffix(r#","__deleted":"false"}"#)).unwrap().to_owned()
}

#[test]
fn an_envelope_in_json_is_what_the_converter_writes() {
    let table = enterprise();
    let form = EventForm { converter: Converter::Json, ..EventForm::DEFAULT };
    let after = texts(&[Some("91450100MA5N000001"), Some("-1.50"), None, Some("甲\"\n")]);
    let mut change = change(&table, Operation::Update, Before::None, Some(after));
    let transaction = crate::change::Order { total: 2, in_table: 1 };
    let place =
        Place::Postgres { xid: Some(7), lsn: 2_034_520_432, last_commit_lsn: Some(2_034_520_000), order: Some(transaction) };
    change.origin.place = place;
    let wanted = concat!(
        r#"{"before":null,"after":{"统一社会信用代码":"91450100MA5N000001","注册资本":"/2o=","经营状态":null,"备注":"甲\"\n"},"#,
        r#""source":{"version":"VERSION","connector":"postgresql","name":"gx","ts_ms":1795415839442,"snapshot":"false","db":"gx","#,
        r#""sequence":"[\"2034520000\",\"2034520432\"]","ts_us":1795415839442826,"ts_ns":1795415839442826000,"schema":"public","#,
        r#""table":"企业登记","txId":7,"lsn":2034520432,"xmin":null,"origin":null,"origin_lsn":null},"#,
        r#""transaction":{"id":"7:0","total_order":2,"data_collection_order":1},"op":"u","ts_ms":1795415839823,"#,
        r#""ts_us":1795415839823621,"ts_ns":1795415839823621000}"#,
    );
    assert_eq!(json_of(&table, &form, &change), wanted.replace("VERSION", env!("CARGO_PKG_VERSION")));
    let plan = plan(&table, &form);
    assert!(plan.has_key() && plan.key_schema().is_none() && plan.value_schema().is_none());
}

#[test]
fn floating_point_is_as_java_prints_it() {
    for (text, wanted) in [
        ("0", "0.0"),
        ("-0", "-0.0"),
        ("1", "1.0"),
        ("0.1", "0.1"),
        ("0.001", "0.001"),
        ("0.00099", "9.9E-4"),
        ("9999999", "9999999.0"),
        ("10000000", "1.0E7"),
        ("-1e20", "-1.0E20"),
        ("1.7976931348623157e+308", "1.7976931348623157E308"),
        ("5e-324", "4.9E-324"),
        ("1e-323", "9.9E-324"),
        ("2e-320", "2.0E-320"),
        ("NaN", "\"NaN\""),
        ("Infinity", "\"Infinity\""),
        ("-Infinity", "\"-Infinity\""),
    ] {
        assert_eq!(cell(ColumnType::Float64, text), wanted, "{text}");
    }
    for (text, wanted) in [("0.1", "0.1"), ("1e-45", "1.4E-45"), ("3.4028235e38", "3.4028235E38"), ("16777216", "1.6777216E7")] {
        assert_eq!(cell(ColumnType::Float32, text), wanted, "{text}");
    }
}

#[test]
fn values_in_json_are_those_of_the_converter() {
    let array = |items| ColumnType::Array(Box::new(items));
    for (kind, text, wanted) in [
        (ColumnType::Text, "\u{1}\u{1f}\u{7f}\\/é😀", "\"\\u0001\\u001F\u{7f}\\\\/é\\uD83D\\uDE00\""),
        (ColumnType::Bool, "f", "false"),
        (ColumnType::Int64, "-9223372036854775808", "-9223372036854775808"),
        (ColumnType::VariableDecimal, "1.50", r#"{"scale":1,"value":"Dw=="}"#),
        (ColumnType::Bytes, "\\x", r#""""#),
        (ColumnType::Bytes, "\\x00ff10", r#""AP8Q""#),
        (ColumnType::Point, "(1.5,-2)", r#"{"x":1.5,"y":-2.0,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAADA","srid":null}"#),
        (ColumnType::Hstore, r#""a"=>"1", "b"=>NULL"#, r#""{\"a\":\"1\",\"b\":null}""#),
        (array(ColumnType::Int32), "{}", "[]"),
        (array(ColumnType::Text), r#"{NULL,"a\"b",c}"#, r#"[null,"a\"b","c"]"#),
        (array(ColumnType::Decimal { precision: 5, scale: 1 }), "{1.5,NaN}", r#"["Dw==",null]"#),
        (ColumnType::VariableDecimal, "NaN", "null"),
        (ColumnType::Date, "1970-01-02", "1"),
    ] {
        assert_eq!(cell(kind, text), wanted, "{text}");
    }
}

#[test]
fn notices_in_json_are_those_of_the_converter() {
    let form = EventForm { converter: Converter::Json, ..EventForm::DEFAULT };
    let plan = NoticePlan::compile(&TableContext { form: &form, ..CONTEXT });
    let mark = TransactionMark { xid: 7, commit: 9, ts_us: 1_999 };
    let begin = Notice::Begin(mark);
    let end = |tables| Notice::End { mark, events: 3, tables };
    let text = |notice: &Notice, with_content| {
        let (mut key, mut value) = (vec![], vec![]);
        plan.key(notice, 0, &mut key);
        plan.value(notice, with_content, Stamp { schema_id: 0, processed_us: 5_000 }, &mut value);
        [key, value].map(|text| String::from_utf8(text).unwrap())
    };
    let id = r#"{"id":"7:9"}"#;
    for (notice, wanted) in [
        (begin, r#"{"status":"BEGIN","id":"7:9","event_count":null,"data_collections":null,"ts_ms":1}"#),
        (end(vec![]), r#"{"status":"END","id":"7:9","event_count":3,"data_collections":[],"ts_ms":1}"#),
        (
            end(vec![("public.表".into(), 2), ("message".into(), 1)]),
            concat!(
                r#"{"status":"END","id":"7:9","event_count":3,"data_collections":[{"data_collection":"public.表","event_count":2},"#,
                r#"{"data_collection":"message","event_count":1}],"ts_ms":1}"#
            ),
        ),
    ] {
        assert_eq!(text(&notice, true), [id, wanted]);
    }
    let origin = change(&enterprise(), Operation::Create, Before::None, None).origin;
    let message = Notice::Message { prefix: "a\"".into(), content: "甲".into(), version: Version::default(), origin };
    for (with_content, content) in [(true, r#""55Sy""#), (false, "null")] {
        let [key, value] = text(&message, with_content);
        assert_eq!(key, r#"{"prefix":"a\""}"#);
        let tail = format!(r#""origin_lsn":null}},"transaction":null,"message":{{"prefix":"a\"","content":{content}}}}}"#);
        assert!(value.starts_with(r#"{"op":"m","ts_ms":5,"source":{"version":"#) && value.ends_with(&tail), "{value}");
    }
}

/// Avro takes fewer names than JSON, which has every column under its own.
#[test]
fn columns_keep_their_names_in_json_unless_they_are_to_be_avros() {
    let table =
        Table { name: TableName::new("public", "t"), columns: vec![column("a-\"b", ColumnType::Int32, true)], key: vec![] };
    let named = |converter, names| {
        let form = EventForm { converter, names, ..EventForm::DEFAULT };
        plan(&table, &form).field(0).unwrap().to_string()
    };
    assert_eq!(named(Converter::Json, form::Names::Escaped), "a-\"b");
    assert_eq!(named(Converter::Json, form::Names::Avro), "a__b");
    assert_eq!(named(Converter::Avro, form::Names::Escaped), "a_u002d_u0022b");
}

#[test]
fn a_row_alone_says_what_is_added_to_it() {
    let table = enterprise();
    let [_, avro, _, json] = forms().try_into().unwrap();
    let removed = change(&table, Operation::Delete, Before::Key(texts(&[Some("a"), None, None, None])), None);
    let written = change(&table, Operation::Create, Before::None, Some(texts(&[Some("a"), None, Some("2"), Some("b")])));
    let plan = plan(&table, &avro);
    let schema: Json = serde_json::from_str(plan.value_schema().unwrap()).unwrap();
    assert_eq!(schema["connect.name"], json!("gx.public._u4f01_u4e1a_u767b_u8bb0.Value"));
    let kinds: Vec<String> = schema["fields"].as_array().unwrap()[4..].iter().map(|field| field["type"].to_string()).collect();
    let allowed = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental";
    let snapshot = format!(
        r#"["null",{{"type":"string","connect.version":1,"connect.parameters":{{"allowed":"{allowed}"}},"connect.name":"io.debezium.data.Enum"}}]"#
    );
    let (text, long) = (r#"["null","string"]"#, r#"["null","long"]"#);
    assert_eq!(kinds, [text, text, long, long, &snapshot, long]);
    for (change, deleted, op, note) in [(&removed, "true", "d", ""), (&written, "false", "c", "b")] {
        let (bytes, marks) = encode(&plan, change).unwrap();
        let row = oracle(plan.value_schema().unwrap(), &bytes);
        let state = if op == "c" { json!(2) } else { Json::Null };
        let wanted = json!({
            "统一社会信用代码": "a", "注册资本": null, "经营状态": state, "备注": note, "__deleted": deleted, "__op": op,
            "__ts_ms": 1_795_415_839_823_i64, "__source_lsn": 2_034_520_432_i64, "__source_snapshot": "false", "__source_xmin": null
        });
        assert_eq!(row, wanted);
        assert_eq!(marks.absent, if op == "d" { vec![3] } else { vec![] });
        assert_eq!(json_of(&table, &json, change), wanted.to_string());
    }
    let nothing = change(&table, Operation::Truncate, Before::None, None);
    assert!(matches!(encode(&plan, &nothing), Err(EncodeError::Image { .. })));
}

#[test]
fn tables_that_a_row_alone_cannot_say_are_refused() {
    let unwrap = |deletes| EventForm { unwrap: Some(Unwrap { deletes, added: vec![] }), ..EventForm::DEFAULT };
    let compile = |table: &Table, form: &EventForm| EncodePlan::compile(table, &TableContext { form, ..CONTEXT }).unwrap_err();
    let mut table = (*enterprise()).clone();
    table.key.clear();
    assert!(matches!(compile(&table, &unwrap(UnwrappedDeletes::Tombstone)), SchemaError::DeletesLost { .. }));
    table.columns.push(column("__deleted", ColumnType::Text, true));
    assert!(matches!(compile(&table, &unwrap(UnwrappedDeletes::Rewrite)), SchemaError::Added { .. }));
}

/// A key that was published gives the delete that its row would have given.
#[test]
fn a_delete_by_its_published_key_is_as_one_by_its_row() {
    let kinds = [ColumnType::Text, ColumnType::VariableDecimal, ColumnType::Int32, ColumnType::Text, ColumnType::Bool];
    let columns = kinds.into_iter().enumerate().map(|(at, kind)| column(&format!("c{at}"), kind, at == 4)).collect();
    let table = Arc::new(Table { name: TableName::new("public", "t"), columns, key: vec![2, 0, 1] });
    let key_row = texts(&[Some("a,\"}\\"), Some("1.5"), Some("-7"), None, None]);
    let removed = change(&table, Operation::Delete, Before::Key(key_row.clone()), None);
    for form in forms() {
        let plan = plan(&table, &form);
        let (wanted, marks) = encode(&plan, &removed).unwrap();
        let mut key = vec![];
        plan.key(&key_row, 3, &mut key).unwrap();
        let mut spans = vec![];
        let fields: Vec<&[u8]> = match plan.key_schema() {
            None => plan.fields_of_json_key(&key).unwrap(),
            Some(schema) => {
                let avro = frame::read(&key).unwrap().1;
                DecodePlan::compile(schema).unwrap().spans(avro, &mut spans).unwrap();
                spans.iter().map(|span| &avro[span.clone()]).collect()
            }
        };
        let (mut out, mut found) = (vec![], Marks::default());
        plan.delete(&fields, &removed, Stamp { schema_id: 9, processed_us: 1_795_415_839_823_621 }, &mut out, &mut found);
        assert_eq!((Cow::from(out), found), (Cow::from(wanted), marks), "{form:?}");
    }
}

#[test]
fn what_is_no_key_of_the_plan_has_no_fields() {
    let table = Table {
        name: TableName::new("public", "t"),
        columns: vec![column("a", ColumnType::Int32, false), column("b", ColumnType::Text, false)],
        key: vec![0, 1],
    };
    let plan = plan(&table, &EventForm { converter: Converter::Json, ..EventForm::DEFAULT });
    assert_eq!(plan.fields_of_json_key(br#"{"a":1,"b":"}"}"#).unwrap(), [&b"1"[..], br#""}""#]);
    for other in [
        "",
        "{",
        "{}",
        r#"{"a":1}"#,
        r#"{"a":1,"b":"x"#,
        r#"{"b":"x","a":1}"#,
        r#"{"a":1,"b":"x","c":2}"#,
        "\0\0\0\0\x03\x02\x02x",
    ] {
        assert!(plan.fields_of_json_key(other.as_bytes()).is_none(), "{other}");
    }
}
