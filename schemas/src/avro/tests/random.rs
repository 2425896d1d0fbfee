//! Random tables and rows: what was meant, what `apache-avro` reads, and what the decode plan reads are the same. Hostile bytes
//! end in errors.

use proptest::prelude::*;

use super::*;

/// A value of a column: what the server would send, and what is to be read.
type Cell = (Given, Json);

fn given(text: impl Into<Vec<u8>>, wanted: Json) -> Cell {
    (Given::Text(text.into()), wanted)
}

/// Any kind of column with values for three rows.
fn cells(kind: ColumnType) -> BoxedStrategy<Vec<Cell>> {
    let one: BoxedStrategy<Cell> = match kind {
        ColumnType::Bool => any::<bool>().prop_map(|flag| given(if flag { "t" } else { "f" }, json!(flag))).boxed(),
        ColumnType::Int16 => any::<i16>().prop_map(|number| given(number.to_string(), json!(number))).boxed(),
        ColumnType::Int32 => any::<i32>().prop_map(|number| given(number.to_string(), json!(number))).boxed(),
        ColumnType::Int64 => any::<i64>().prop_map(|number| given(number.to_string(), json!(number))).boxed(),
        ColumnType::UInt32 => any::<u32>().prop_map(|number| given(number.to_string(), json!(number))).boxed(),
        ColumnType::Float32 => any::<f32>().prop_map(|value| given(format!("{value:?}"), float_json(value.into()))).boxed(),
        ColumnType::Float64 => any::<f64>().prop_map(|value| given(format!("{value:?}"), float_json(value))).boxed(),
        ColumnType::Decimal { scale, .. } => {
            decimal(usize::from(scale)).prop_map(|(text, unscaled)| given(text, hex_json(&unscaled))).boxed()
        }
        ColumnType::Text | ColumnType::Json => "[^\0]{0,12}".prop_map(|text| given(text.clone(), json!(text))).boxed(),
        ColumnType::Bytes => proptest::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| given(format!("\\x{}", hex::encode(&bytes)), hex_json(&bytes)))
            .boxed(),
        ColumnType::Date => date().prop_map(|date| given(date_text(date), json!(days(date)))).boxed(),
        ColumnType::Timestamp { precision } => moment()
            .prop_map(move |(date, micros)| {
                let micros = if precision <= 3 { micros / 1000 * 1000 } else { micros };
                let total = days(date) * 86_400_000_000 + micros;
                let text = with_era(date, |date| format!("{date} {}", clock(micros)));
                given(text, json!(if precision <= 3 { total.div_euclid(1000) } else { total }))
            })
            .boxed(),
        ColumnType::ZonedTimestamp { .. } => (moment(), -57_600_i64..57_600).prop_map(zoned).boxed(),
        ColumnType::Interval => (-5000_i64..5000, -5000_i64..5000, -90_000_000_000_i64..90_000_000_000)
            .prop_map(|(months, days, micros)| {
                let sign = if micros < 0 { "-" } else { "" };
                let text = format!("{months} mons {days} days {sign}{}", clock(micros.abs()));
                given(text, json!(months * 2_629_800_000_000 + days * 86_400_000_000 + micros))
            })
            .boxed(),
        ColumnType::Bit { .. } => proptest::collection::vec(any::<bool>(), 2..70)
            .prop_map(|bits| {
                let text: String = bits.iter().map(|&bit| if bit { '1' } else { '0' }).collect();
                let mut bytes: Vec<u8> = bits
                    .rchunks(8)
                    .map(|byte| byte.iter().rev().enumerate().map(|(at, &bit)| u8::from(bit) << at).sum())
                    .collect();
                while bytes.last() == Some(&0) {
                    bytes.pop();
                }
                given(text, hex_json(&bytes))
            })
            .boxed(),
        ColumnType::Array(_) => proptest::collection::vec(proptest::option::of("[^\0]{0,6}"), 0..6)
            .prop_map(|items| given(array_text(&items), json!(items)))
            .boxed(),
        other => panic!("{other:?}"),
    };
    proptest::collection::vec(one, 3).boxed()
}

fn kinds() -> impl Strategy<Value = ColumnType> {
    let plain = vec![
        ColumnType::Bool,
        ColumnType::Int16,
        ColumnType::Int32,
        ColumnType::Int64,
        ColumnType::UInt32,
        ColumnType::Float32,
        ColumnType::Float64,
        ColumnType::Text,
        ColumnType::Json,
        ColumnType::Bytes,
        ColumnType::Date,
        ColumnType::Timestamp { precision: 3 },
        ColumnType::Timestamp { precision: 6 },
        ColumnType::ZonedTimestamp { precision: 6 },
        ColumnType::Interval,
        ColumnType::Bit { length: 64, varying: true },
        ColumnType::Array(Box::new(ColumnType::Text)),
    ];
    prop_oneof![
        4 => proptest::sample::select(plain),
        1 => (0_u16..20).prop_map(|scale| ColumnType::Decimal { precision: 500, scale }),
    ]
}

/// Digits as the server prints them, and the unscaled bytes by halving in decimal, which is not how the encoder goes.
fn decimal(scale: usize) -> impl Strategy<Value = (String, Vec<u8>)> {
    (any::<bool>(), prop_oneof!["[0-9]{1,20}", "[0-9]{30,45}", "9{1,60}", "[0-9]{100,200}"]).prop_map(
        move |(negative, digits)| {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let whole = whole.trim_start_matches('0');
            let whole = if whole.is_empty() { "0" } else { whole };
            let is_zero = digits.bytes().all(|digit| digit == b'0');
            let sign = if negative && !is_zero { "-" } else { "" };
            let point = if scale > 0 { "." } else { "" };
            (format!("{sign}{whole}{point}{fraction}"), twos_complement(negative, digits.into_bytes()))
        },
    )
}

fn twos_complement(negative: bool, digits: Vec<u8>) -> Vec<u8> {
    let mut digits: Vec<u8> = digits.iter().map(|digit| digit - b'0').collect();
    let mut bits = vec![];
    while digits.iter().any(|&digit| digit > 0) {
        let mut rest = 0;
        for digit in &mut digits {
            let value = rest * 10 + *digit;
            *digit = value / 2;
            rest = value % 2;
        }
        bits.push(rest == 1);
    }
    if negative {
        let first = bits.iter().position(|&bit| bit);
        bits.iter_mut().enumerate().filter(|(at, _)| first.is_some_and(|first| *at > first)).for_each(|(_, bit)| *bit = !*bit);
    }
    let sign = negative && !bits.is_empty();
    // The sign's bit, and then up to a whole byte.
    bits.push(sign);
    while bits.len() % 8 != 0 {
        bits.push(sign);
    }
    let mut bytes: Vec<u8> =
        bits.rchunks(8).map(|byte| byte.iter().rev().fold(0, |all, &bit| all << 1 | u8::from(bit))).collect();
    while bytes.len() > 1 && (bytes[0] == 0 && bytes[1] < 0x80 || bytes[0] == 0xff && bytes[1] >= 0x80) {
        bytes.remove(0);
    }
    bytes
}

fn date() -> impl Strategy<Value = jiff::civil::Date> {
    (-4000_i16..9999, 1_i8..13, 1_i8..32)
        .prop_filter_map("no such day", |(year, month, day)| jiff::civil::Date::new(year, month, day).ok())
}

fn moment() -> impl Strategy<Value = (jiff::civil::Date, i64)> {
    (date(), 0_i64..86_400_000_000)
}

fn days(date: jiff::civil::Date) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    i64::from(date.since((jiff::Unit::Day, epoch)).unwrap().get_days())
}

/// The year as PostgreSQL writes it: the year 0 of the calendar is 1 BC.
fn with_era(date: jiff::civil::Date, text: impl Fn(String) -> String) -> String {
    let (year, era) = if date.year() > 0 { (date.year(), "") } else { (1 - date.year(), " BC") };
    format!("{}{era}", text(format!("{year:04}-{:02}-{:02}", date.month(), date.day())))
}

fn date_text(date: jiff::civil::Date) -> String {
    with_era(date, |date| date)
}

/// Zeros at the end of the fraction are not written.
fn clock(micros: i64) -> String {
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if rest == 0 { text } else { format!("{text}.{rest:06}").trim_end_matches('0').to_owned() }
}

fn zoned(((date, micros), offset): ((jiff::civil::Date, i64), i64)) -> Cell {
    let sign = if offset < 0 { '-' } else { '+' };
    let size = offset.abs();
    let mut zone = format!("{sign}{:02}", size / 3600);
    if size % 3600 != 0 {
        zone.push_str(&format!(":{:02}", size / 60 % 60));
    }
    if size % 60 != 0 {
        zone.push_str(&format!(":{:02}", size % 60));
    }
    let text = with_era(date, |date| format!("{date} {}{zone}", clock(micros)));
    let local = date.at(0, 0, 0, 0).checked_add(jiff::Span::new().microseconds(micros)).unwrap();
    let utc = local.checked_sub(jiff::Span::new().seconds(offset)).unwrap();
    let year = if utc.year() < 0 { format!("-{:04}", -utc.year()) } else { format!("{:04}", utc.year()) };
    let wanted = format!(
        "{year}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        utc.month(),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.subsec_nanosecond() / 1000
    );
    given(text, json!(wanted))
}

/// Quoted as PostgreSQL does it.
fn array_text(items: &[Option<String>]) -> String {
    let quoted = items.iter().map(|item| match item {
        None => "NULL".to_owned(),
        Some(text) => {
            let needs = text.is_empty()
                || text.eq_ignore_ascii_case("null")
                || text.chars().any(|c| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_whitespace());
            if needs { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) } else { text.clone() }
        }
    });
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

fn columns() -> impl Strategy<Value = Vec<(ColumnType, bool, Vec<Cell>)>> {
    let column = kinds().prop_flat_map(|kind| (Just(kind.clone()), any::<bool>(), cells(kind)));
    proptest::collection::vec(column, 1..8)
}

/// What a column holds that is null or was not sent, for the kinds above.
fn placeholder(kind: &ColumnType, nullable: bool) -> Json {
    const TEXT: &str = "__debezium_unavailable_value";
    match kind {
        ColumnType::Text | ColumnType::Json => json!(TEXT),
        ColumnType::Bytes => hex_json(TEXT.as_bytes()),
        ColumnType::Array(_) => json!([TEXT]),
        _ if nullable => Json::Null,
        ColumnType::Bool => json!(false),
        ColumnType::Float32 | ColumnType::Float64 => json!(0.0),
        ColumnType::Decimal { .. } => hex_json(&[0]),
        ColumnType::Bit { .. } => hex_json(&[]),
        ColumnType::ZonedTimestamp { .. } => json!("1970-01-01T00:00:00Z"),
        _ => json!(0),
    }
}

/// Whether a value of Avro's is the one of JSON, which has bytes in base64 and numbers that the reader rounds.
fn is_same(avro: &Json, json: &Json) -> bool {
    match (avro, json) {
        (Json::Object(a), Json::String(text)) => {
            let [(name, Json::String(value))] = a.iter().collect::<Vec<_>>()[..] else { return false };
            name == "$float" && value == text || name == "$hex" && base64(&hex::decode(value).unwrap()) == *text
        }
        (Json::Object(a), Json::Object(b)) => a.keys().eq(b.keys()) && a.values().zip(b.values()).all(|(a, b)| is_same(a, b)),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Json::Number(a), Json::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            // What is read of a `real`'s fewest digits is the same `real`, not the same double.
            a == b || a as f32 == b as f32 && f64::from(a as f32) == a || (a - b).abs() <= a.abs() * 1e-12
        }
        (a, b) => a == b,
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |group, byte| group << 8 | usize::from(*byte));
        let letters = [18, 12, 6, 0].map(|shift| char::from(LETTERS[group >> shift & 63]));
        out.extend(&letters[..=chunk.len()]);
        out.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_read_as_they_were_meant(columns in columns(), nulls in proptest::collection::vec(0_u8..10, 24)) {
        let table = Arc::new(Table {
            name: TableName::new("业务", "表-1"),
            columns: columns.iter().enumerate().map(|(at, (kind, nullable, _))| column(&format!("列{at}"), kind.clone(), *nullable)).collect(),
            key: vec![0],
        });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let json = EventForm { converter: form::Converter::Json, ..EventForm::DEFAULT };
        let json_plan = EncodePlan::compile(&table, &TableContext { form: &json, ..CONTEXT }).unwrap();
        let decoder = DecodePlan::compile(plan.value_schema().unwrap()).unwrap();
        for number in 0..3 {
            let (mut cells, mut wanted, mut absent) = (vec![], serde_json::Map::new(), vec![]);
            for (at, (kind, nullable, values)) in columns.iter().enumerate() {
                let (cell, value) = match nulls[at * 3 + number] {
                    0 | 1 if *nullable && at > 0 => (Given::Null, Json::Null),
                    2 if at > 0 => {
                        absent.push(at);
                        (Given::Absent, placeholder(kind, *nullable))
                    }
                    _ => values[number].clone(),
                };
                cells.push(cell);
                wanted.insert(format!("列{at}"), value);
            }
            let (before, after) = (row(&cells), row(&cells));
            let change = change(&table, Operation::Update, Before::Full(before), Some(after.clone()));
            let (bytes, marks) = encode(&plan, &change).unwrap();
            prop_assert_eq!(&marks.absent, &absent);
            prop_assert!(marks.lossy.is_empty());
            let read = oracle(plan.value_schema().unwrap(), &bytes);
            prop_assert_eq!(&read["after"], &Json::Object(wanted.clone()));
            prop_assert_eq!(&read["before"], &read["after"]);
            let (text, of_json) = encode(&json_plan, &change).unwrap();
            prop_assert_eq!(of_json, marks);
            let text: Json = serde_json::from_slice(&text).unwrap();
            prop_assert!(is_same(&read["after"], &text["after"]), "{} {}", read["after"], text["after"]);
            prop_assert!(is_same(&read["source"], &text["source"]), "{} {}", read["source"], text["source"]);
            let envelope = decoder.envelope(frame::read(&bytes).unwrap().1).unwrap();
            prop_assert_eq!(of_plan(decoder.fields(), &envelope.after.unwrap()), read["after"].clone());
            prop_assert_eq!(of_plan(decoder.fields(), &envelope.before.unwrap()), read["after"].clone());
            // `before` is at the front and has the same bytes.
            let body = frame::read(&bytes).unwrap().1;
            let mut spans = vec![];
            decoder.spans(body, &mut spans).unwrap();
            prop_assert_eq!(spans.len(), columns.len());
            prop_assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
            let row = spans[0].start..spans[spans.len() - 1].end;
            prop_assert_eq!(&body[row.clone()], &body[1..1 + row.len()]);
            let mut key = vec![];
            plan.key(&after, 1, &mut key).unwrap();
            prop_assert_eq!(&oracle(plan.key_schema().unwrap(), &key)["列0"], &wanted["列0"]);
        }
    }

    #[test]
    fn hostile_bytes_are_errors_or_values(columns in columns(), at in any::<prop::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 0..12)) {
        let table = Arc::new(Table {
            name: TableName::new("public", "t"),
            columns: columns.iter().enumerate().map(|(at, (kind, nullable, _))| column(&format!("c{at}"), kind.clone(), *nullable)).collect(),
            key: vec![],
        });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let cells: Vec<Given> = columns.iter().map(|(_, _, values)| values[0].0.clone()).collect();
        let (bytes, _) = encode(&plan, &change(&table, Operation::Create, Before::None, Some(row(&cells)))).unwrap();
        let decoder = DecodePlan::compile(plan.value_schema().unwrap()).unwrap();
        let body = &bytes[frame::LEN..];
        let cut = at.index(body.len());
        prop_assert!(decoder.envelope(&body[..cut]).is_err());
        let mut damaged = body.to_vec();
        let end = (cut + noise.len()).min(damaged.len());
        damaged.splice(cut..end, noise.iter().copied());
        let _ = decoder.envelope(&damaged);
        let _ = decoder.envelope(&noise);
        // A damaged row image must not bring the encoder down either.
        let mut image = row(&cells).0.to_vec();
        let cut = at.index(image.len());
        let end = (cut + noise.len()).min(image.len());
        image.splice(cut..end, noise);
        let damaged = change(&table, Operation::Create, Before::None, Some(RowImage(image.into())));
        if let Ok((bytes, _)) = encode(&plan, &damaged) {
            oracle(plan.value_schema().unwrap(), &bytes);
        }
    }

    #[test]
    fn any_text_is_encoded_or_refused(kind in kinds(), text in proptest::collection::vec(proptest::sample::select(b"0123456789-+.:{}\",\\ BCNULLabxyT()=>infity\xe4\xb8\xad".to_vec()), 0..24)) {
        let table = Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column("c", kind, true)], key: vec![] });
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let json = EventForm { converter: form::Converter::Json, ..EventForm::DEFAULT };
        let json_plan = EncodePlan::compile(&table, &TableContext { form: &json, ..CONTEXT }).unwrap();
        let change = change(&table, Operation::Create, Before::None, Some(row(&[Given::Text(text)])));
        let (avro, json) = (encode(&plan, &change), encode(&json_plan, &change));
        prop_assert_eq!(avro.as_ref().map(|(_, marks)| marks), json.as_ref().map(|(_, marks)| marks));
        if let (Ok((bytes, _)), Ok((text, _))) = (avro, json) {
            oracle(plan.value_schema().unwrap(), &bytes);
            serde_json::from_slice::<Json>(&text).unwrap();
        }
    }
}

#[test]
fn a_list_that_claims_to_be_endless_takes_no_memory() {
    let decoder =
        DecodePlan::compile(r#"{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":"null"}}]}"#)
            .unwrap();
    let mut bytes = vec![];
    varint::write_long(&mut bytes, i64::MAX);
    let error = decoder.record(&bytes).unwrap_err().to_string();
    assert!(error.contains("R.l") && error.contains("too many"), "{error}");
}

#[test]
fn schemas_that_are_none_are_said_to_be_none() {
    for schema in [
        "",
        "{",
        "\"string\"",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"B"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R"]}]}"#,
    ] {
        assert!(DecodePlan::compile(schema).is_err(), "{schema}");
    }
    let deep = format!("{}\"null\"{}", r#"{"type":"array","items":"#.repeat(5000), "}".repeat(5000));
    let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{deep}}}]}}"#);
    assert!(DecodePlan::compile(&schema).is_err());
}
