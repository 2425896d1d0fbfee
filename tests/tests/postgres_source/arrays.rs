//! Arrays of more than one dimension, and those that begin elsewhere than at 1: elements in a row and dimensions beside them, which
//! together are the value that the server has.

use guitong_log::Record;
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_tests::servers::postgres::Postgres;

use super::harness::*;

const VALUES: &str = r#"'{{1,2},{3,NULL}}', '{{"a,b","}"},{"NULL",NULL}}', '[0:1][2:3]={{0.5,1},{2,3}}', '{7}'"#;

fn header(record: &Record, name: &str) -> String {
    String::from_utf8(record.header(name).map(|bytes| bytes.to_vec()).unwrap_or_default()).unwrap()
}

/// The columns of the row as it is after the event, in the form of `array_to_json`.
fn lists(exchange: &Exchange, record: &Record) -> Vec<String> {
    let (id, body) = frame::read(record.value.as_ref().unwrap()).unwrap();
    let plan = DecodePlan::compile(&exchange.schema(id)).unwrap();
    let after = plan.envelope(body).unwrap().after.unwrap();
    after[1..].iter().map(list).collect()
}

fn list(value: &Value<'_>) -> String {
    let Value::List(items) = value else { panic!("{value:?} is no array") };
    let items = items.iter().map(|item| match item {
        Value::Null => "null".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Text(text) => serde_json::to_string(text).unwrap(),
        other => panic!("{other:?}"),
    });
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_of_more_dimensions_are_whole_in_first_load_and_stream() {
    let server = Postgres::start().await.unwrap();
    let table = "CREATE TABLE t (id int PRIMARY KEY, m int[], w text[][], f float8[], one int[])";
    server.execute(&format!("{table}; ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, {VALUES})")).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    server
        .execute(&format!("INSERT INTO t VALUES (2, {VALUES}); UPDATE t SET m = '{{5}}', one = '{{{{6}}}}' WHERE id = 2"))
        .await
        .unwrap();
    session.take(2).await;
    let elements = "SELECT json_build_array(ARRAY(SELECT unnest(m)), ARRAY(SELECT unnest(w)), ARRAY(SELECT unnest(f)),
                                            ARRAY(SELECT unnest(one)))::text FROM t WHERE id = ";
    let pool = server.admin().await.unwrap();
    let records = exchange.records("raw.register.public.t").await;
    assert_eq!(records.len(), 3);
    let shapes = "[1:2][1:2] m\n[1:2][1:2] w\n[0:1][2:3] f";
    for (record, id, dimensions, before) in [
        (&records[0], Some(1), shapes, ""),
        (&records[1], None, shapes, ""),
        (&records[2], Some(2), "[1:2][1:2] w\n[0:1][2:3] f\n[1:1][1:1] one", shapes),
    ] {
        assert_eq!(
            (header(record, "guitong-dimensions"), header(record, "guitong-before-dimensions")),
            (dimensions.into(), before.into())
        );
        assert_eq!(header(record, "guitong-lossy"), "");
        if let Some(id) = id {
            let wanted: String =
                sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{elements}{id}"))).fetch_one(&pool).await.unwrap();
            let wanted: serde_json::Value = serde_json::from_str(&wanted).unwrap();
            let found: serde_json::Value = serde_json::from_str(&format!("[{}]", lists(&exchange, record).join(","))).unwrap();
            let floats =
                |value: &serde_json::Value| value[2].as_array().unwrap().iter().map(|item| item.as_f64()).collect::<Vec<_>>();
            assert_eq!((&found[0], &found[1], &found[3]), (&wanted[0], &wanted[1], &wanted[3]));
            assert_eq!(floats(&found), floats(&wanted));
        }
    }
}
