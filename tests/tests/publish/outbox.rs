//! Messages that are outbox events, and those that are only declared so.

use bytes::Bytes;
use guitong_connectors::source::SourceBatch;
use guitong_log::Record;
use guitong_schemas::avro::EventForm;
use guitong_schemas::avro::form::{Converter, Outbox};
use guitong_schemas::change::{Notice, Operation};
use guitong_schemas::position::Version;

use crate::{Exchange, batch, change, table};

fn message(at: usize, prefix: &str, content: impl Into<Bytes>) -> Notice {
    let at = at as u64;
    Notice::Message {
        prefix: prefix.to_owned(),
        content: content.into(),
        version: Version { epoch: 1, commit: at, change: at, index: 0, revision: 0 },
        origin: change(&table(), Operation::Create, at, 0, None, None).origin,
    }
}

fn of(notices: Vec<Notice>) -> SourceBatch {
    SourceBatch { notices, ..batch(vec![], "messages") }
}

fn form(outbox: Outbox) -> EventForm {
    EventForm { outbox: Some(outbox), converter: Converter::Json, ..EventForm::DEFAULT }
}

/// Key, value and headers.
fn text(record: &Record) -> (String, Option<String>, Vec<String>) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = record.headers.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    (text(record.key.as_ref().unwrap()), record.value.as_ref().map(text), headers)
}

async fn of_topic(exchange: &Exchange, topic: &str) -> Vec<(String, Option<String>, Vec<String>)> {
    exchange.records_of(topic).await.iter().map(text).collect()
}

fn record(key: &str, value: Option<&str>, headers: &[&str]) -> (String, Option<String>, Vec<String>) {
    (key.to_owned(), value.map(str::to_owned), headers.iter().map(|&header| header.to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn outbox_events_are_records_of_topics_of_their_own() {
    outbox_events_on(&Exchange::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outbox_events_are_records_of_topics_of_their_own_on_kafka() {
    outbox_events_on(&Exchange::on_kafka().await).await;
}

async fn outbox_events_on(exchange: &Exchange) {
    let event = |id: &str, aggregate: &str, key: &str, rest: &str| {
        format!(r#"{{"id": {id}, "aggregatetype": "{aggregate}", "aggregateid": {key}, "type": "Made", {rest}}}"#)
    };
    let exact = r#"{"fee": 1.10,  "no": 123456789012345678901234567890}"#;
    let contents = [
        event("\"e1\"", "order", "\"甲-7\"", &format!("\"payload\": {exact}")),
        event("2", "order", "-7.50", r#""payload": "a \"text\"", "timestamp": 1790000000000, "trace": [1]"#),
        event("\"e3\"", "order", "\"甲-7\"", r#""payload": null, "timestamp": null"#),
        event("\"e4\"", "企业.A-1", "\"1\"", r#""payload": "", "timestamp": "2026-11-26T08:00:00Z""#),
    ];
    let mut notices: Vec<_> = contents.into_iter().zip(1..).map(|(content, at)| message(at, "outbox", content)).collect();
    notices.insert(2, message(9, "outbox.b", "kept"));
    let mut publisher = exchange.publisher_in(9, form(Outbox::Prefix("outbox".to_owned()))).await;
    publisher.publish(of(notices)).await.unwrap().unwrap();
    assert_eq!(publisher.totals().outbox_errors, 0);
    let orders = of_topic(exchange, "raw.licensing.outbox-order").await;
    let wanted = [
        record("甲-7", Some(exact), &["id=e1", "eventType=Made", "guitong-version=1/1/1/0/0"]),
        record("-7.50", Some("a \"text\""), &["id=2", "eventType=Made", "timestamp=1790000000000", "guitong-version=1/2/2/0/0"]),
        record("甲-7", None, &["id=e3", "eventType=Made", "guitong-version=1/3/3/0/0"]),
    ];
    assert_eq!(orders, wanted);
    let enterprises = of_topic(exchange, "raw.licensing.outbox-_u4f01_u4e1a_u002eA-1").await;
    let headers = ["id=e4", "eventType=Made", "timestamp=2026-11-26T08:00:00Z", "guitong-version=1/4/4/0/0"];
    assert_eq!(enterprises, [record("1", Some(""), &headers)]);
    let others = of_topic(exchange, "raw.licensing.message").await;
    let [(key, Some(_), headers)] = &others[..] else { panic!("{others:?}") };
    assert_eq!((key.as_str(), headers.as_slice()), (r#"{"prefix":"outbox.b"}"#, &["guitong-version=1/9/9/0/0".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_outbox_event_is_published_as_a_message_that_says_why() {
    const SOUND: &str = r#"{"id":"1","aggregatetype":"order","aggregateid":"1","type":"Made","payload":1}"#;
    let long = "企".repeat(256);
    let with = |from: &str, to: &str| {
        assert!(SOUND.contains(from), "{from}");
        SOUND.replacen(from, to, 1).into_bytes()
    };
    let cases = [
        (b"\xc6\xf3\xd2\xb5".to_vec(), "the content is not in UTF-8"),
        (b"".to_vec(), "the content is not JSON (line 1, column 0)"),
        (with("}", ""), "the content is not JSON (line 1, column 77)"),
        (with("}", "}}"), "the content is not JSON (line 1, column 79)"),
        (b"12".to_vec(), "the content is not a JSON object"),
        (br#"["1","order","1","Made",1,2]"#.to_vec(), "the content is not a JSON object"),
        (with("payload", "id"), "a field stands twice in the content"),
        (with("aggregateid", "aggregate_id"), "`aggregateid` is missing"),
        (with("payload", "paylaod"), "`payload` is missing"),
        (with("\"Made\"", "null"), "`type` is neither text nor a number"),
        (with("\"1\"", "{}"), "`id` is neither text nor a number"),
        (with("order", ""), "`aggregatetype` is empty"),
        (with("Made", &long), "`type` is longer than 255 characters"),
        (with("order", &long[..255]), "`aggregatetype` would make a longer name of a topic than Kafka takes"),
        (with(":1}", r#":"\ud842"}"#), "`payload` holds half a character"),
        (
            with(":1}", &format!(":\"{}\"}}", "x".repeat(16 << 20))),
            "the record would be 16778281 bytes long, over the limit of 16777216",
        ),
    ];
    let exchange = Exchange::new().await;
    let mut publisher = exchange.publisher_in(9, form(Outbox::Beginning("out".to_owned()))).await;
    let mut notices: Vec<_> = cases.iter().zip(0..).map(|((content, _), at)| message(at, "outbox", content.clone())).collect();
    notices.push(message(cases.len(), "out", SOUND));
    assert!(publisher.publish(of(notices)).await.unwrap().is_some(), "the position goes on");
    assert_eq!(publisher.totals().outbox_errors, cases.len() as u64);
    assert_eq!(exchange.records_of("raw.licensing.outbox-order").await.len(), 1);
    let records = exchange.records_of("raw.licensing.message").await;
    assert_eq!(records.len(), cases.len());
    for (at, (record, (content, why))) in records.iter().zip(&cases).enumerate() {
        let header = |name| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(header("guitong-outbox-error").as_deref(), Some(*why));
        assert_eq!(header("guitong-version"), Some(format!("1/{at:X}/{at:X}/0/0")));
        let value: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        assert_eq!(value["message"]["prefix"], "outbox");
        let is_whole = value["message"]["content"].as_str().map(|text| text.len()) == Some(content.len().div_ceil(3) * 4);
        assert_eq!(
            (is_whole, header("guitong-too-large").is_some()),
            (content.len() < 16 << 20, content.len() >= 16 << 20),
            "{why}"
        );
    }
}

/// An application that takes ids for types fills no broker with topics.
#[tokio::test(flavor = "multi_thread")]
async fn so_many_types_of_outbox_events_have_topics_and_no_more() {
    let exchange = Exchange::new().await;
    let mut publisher = exchange.publisher_in(9, form(Outbox::Beginning(String::new()))).await;
    let event = |at: usize, kind: usize| {
        let content = format!(r#"{{"id":"{at}","aggregatetype":"t{kind}","aggregateid":"1","type":"Made","payload":1}}"#);
        message(at, "any", content)
    };
    let mut notices: Vec<_> = (0..1001).map(|at| event(at, at)).collect();
    notices.push(event(1001, 0));
    publisher.publish(of(notices)).await.unwrap().unwrap();
    let refused = exchange.records_of("raw.licensing.message").await;
    let why: Vec<_> = refused.iter().map(|record| record.header("guitong-outbox-error").unwrap()).collect();
    assert_eq!(why, ["there are more than 1000 different `aggregatetype`s, each a topic"]);
    assert_eq!(exchange.records_of("raw.licensing.outbox-t999").await.len(), 1);
    assert_eq!(exchange.records_of("raw.licensing.outbox-t0").await.len(), 2);
}
