//! Schemas and values of real Debezium, from the text that the server sent. Where Debezium is known to be wrong the extract holds
//! what is right: null for a NULL in a column with a default, and `name` columns with their value.

use super::*;

#[derive(serde::Deserialize)]
struct Extract {
    envelope: Json,
    tables: Vec<Golden>,
}

#[derive(serde::Deserialize)]
struct Golden {
    table: String,
    columns: Vec<GoldenColumn>,
    key: Vec<String>,
    key_schema: Json,
    row_schema: Json,
    rows: Vec<GoldenRow>,
    delete: Option<GoldenDelete>,
}

#[derive(serde::Deserialize)]
struct GoldenColumn {
    name: String,
    kind: String,
    nullable: bool,
    default: Option<String>,
}

#[derive(serde::Deserialize)]
struct GoldenRow {
    cells: Vec<Option<String>>,
    after: Json,
}

#[derive(serde::Deserialize)]
struct GoldenDelete {
    id: String,
    before: Json,
}

fn kind(text: &str) -> ColumnType {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let number = |at: usize| rest.split(' ').nth(at).unwrap().parse::<u32>().unwrap();
    let small = |at| u8::try_from(number(at)).unwrap();
    match word {
        "array" => ColumnType::Array(Box::new(kind(rest))),
        "bool" => ColumnType::Bool,
        "int16" => ColumnType::Int16,
        "int32" => ColumnType::Int32,
        "int64" => ColumnType::Int64,
        "uint32" => ColumnType::UInt32,
        "float32" => ColumnType::Float32,
        "float64" => ColumnType::Float64,
        "decimal" => ColumnType::Decimal { precision: number(0) as u16, scale: number(1) as u16 },
        "variable" => ColumnType::VariableDecimal,
        "money" => ColumnType::Money,
        "text" => ColumnType::Text,
        "bytes" => ColumnType::Bytes,
        "date" => ColumnType::Date,
        "time" => ColumnType::Time { precision: small(0) },
        "timestamp" => ColumnType::Timestamp { precision: small(0) },
        "zonedtime" => ColumnType::ZonedTime,
        "zonedtimestamp" => ColumnType::ZonedTimestamp { precision: small(0) },
        "interval" => ColumnType::Interval,
        "json" => ColumnType::Json,
        "xml" => ColumnType::Xml,
        "uuid" => ColumnType::Uuid,
        "enum" => ColumnType::Enum { labels: ["sad", "ok", "happy", "良好"].map(str::to_owned).to_vec() },
        "bit" => ColumnType::Bit { length: number(0), varying: false },
        "varbit" => ColumnType::Bit { length: number(0), varying: true },
        "point" => ColumnType::Point,
        "hstore" => ColumnType::Hstore,
        "ltree" => ColumnType::Ltree,
        "tsvector" => ColumnType::TsVector,
        other => panic!("{other}"),
    }
}

fn extract() -> Extract {
    serde_json::from_str(include_str!("debezium.json")).unwrap()
}

fn table(golden: &Golden) -> Arc<Table> {
    let column = |it: &GoldenColumn| Column {
        name: it.name.clone(),
        kind: kind(&it.kind),
        nullable: it.nullable,
        default: it.default.clone(),
    };
    let columns: Vec<Column> = golden.columns.iter().map(column).collect();
    let key = golden.key.iter().map(|name| columns.iter().position(|column| column.name == *name).unwrap()).collect();
    Arc::new(Table { name: TableName::new("public", &golden.table), columns, key })
}

/// Elements of enum arrays are nullable here: Debezium turns such an array with a NULL into a null.
fn with_nullable_elements(mut row: Json) -> Json {
    for field in row["fields"].as_array_mut().unwrap() {
        if let Some(items) = field.pointer_mut("/type/1/items").filter(|items| items.is_object()) {
            *items = json!(["null", items.clone()]);
        }
    }
    row
}

/// Equal, but for the last binary digit of a number, which the dump's text does not hold.
fn same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Number(ours), Json::Number(theirs)) if ours.is_f64() || theirs.is_f64() => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            (ours - theirs).abs() <= ours.abs() * f64::EPSILON
        }
        (Json::Array(ours), Json::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same(a, b))
        }
        (Json::Object(ours), Json::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, ours)| theirs.get(name).is_some_and(|theirs| same(ours, theirs)))
        }
        _ => ours == theirs,
    }
}

#[test]
fn schemas_are_debeziums() {
    let extract = extract();
    for golden in &extract.tables {
        let plan = EncodePlan::compile(&table(golden), &CONTEXT).unwrap();
        let value: Json = serde_json::from_str(plan.value_schema().unwrap()).unwrap();
        let wanted = with_nullable_elements(golden.row_schema.clone());
        for (ours, theirs) in
            value["fields"][0]["type"][1]["fields"].as_array().unwrap().iter().zip(wanted["fields"].as_array().unwrap())
        {
            assert_eq!(ours, theirs, "{}", golden.table);
        }
        assert_eq!(value["fields"][0]["type"][1], wanted, "{}", golden.table);
        let key: Json = serde_json::from_str(plan.key_schema().unwrap()).unwrap();
        assert_eq!(key, golden.key_schema, "{}", golden.table);
        if golden.table == "t_int" {
            assert_eq!(value, extract.envelope);
        }
    }
}

#[test]
fn values_are_debeziums() {
    let mut compared = 0;
    for golden in &extract().tables {
        let table = table(golden);
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let decoder = DecodePlan::compile(plan.value_schema().unwrap()).unwrap();
        for expected in &golden.rows {
            let cells: Vec<Option<&str>> = expected.cells.iter().map(Option::as_deref).collect();
            let (bytes, marks) = encode(&plan, &change(&table, Operation::Create, Before::None, Some(texts(&cells)))).unwrap();
            assert_eq!(marks, Marks::default());
            let read = oracle(plan.value_schema().unwrap(), &bytes);
            for (name, wanted) in expected.after.as_object().unwrap() {
                assert!(same(&read["after"][name], wanted), "{}.{name} of {cells:?}: {}", golden.table, read["after"][name]);
                compared += 1;
            }
            let envelope = decoder.envelope(frame::read(&bytes).unwrap().1).unwrap();
            assert_eq!(of_plan(decoder.fields(), &envelope.after.unwrap()), read["after"], "{}", golden.table);
        }
    }
    assert!(compared > 500, "{compared}");
}

#[test]
fn fillers_of_a_delete_are_debeziums() {
    for golden in &extract().tables {
        let Some(delete) = &golden.delete else { continue };
        let table = table(golden);
        let plan = EncodePlan::compile(&table, &CONTEXT).unwrap();
        let mut cells = vec![None; table.columns.len()];
        cells[0] = Some(delete.id.as_str());
        let (bytes, marks) = encode(&plan, &change(&table, Operation::Delete, Before::Key(texts(&cells)), None)).unwrap();
        assert_eq!(oracle(plan.value_schema().unwrap(), &bytes)["before"], delete.before, "{}", golden.table);
        let not_null = table.columns.iter().enumerate().skip(1).filter(|(_, column)| !column.nullable).map(|(index, _)| index);
        assert_eq!(marks.absent, not_null.collect::<Vec<_>>());
    }
}

#[test]
fn debeziums_own_schemas_are_read() {
    let extract = extract();
    let decoder = DecodePlan::compile(&extract.envelope.to_string()).unwrap();
    assert!(decoder.is_envelope());
    assert_eq!(decoder.name(), "gx.public.t_int.Envelope");
    let golden = extract.tables.iter().find(|golden| golden.table == "t_int").unwrap();
    let plan = EncodePlan::compile(&table(golden), &CONTEXT).unwrap();
    let cells: Vec<Option<&str>> = golden.rows[0].cells.iter().map(Option::as_deref).collect();
    let (bytes, _) = encode(&plan, &change(&table(golden), Operation::Read, Before::None, Some(texts(&cells)))).unwrap();
    let envelope = decoder.envelope(frame::read(&bytes).unwrap().1).unwrap();
    assert!(same(&of_plan(decoder.fields(), &envelope.after.unwrap()), &golden.rows[0].after));
}
