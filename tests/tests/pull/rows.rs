//! All rows, single ones, and the document of the whole API.

use std::collections::BTreeMap;
use std::time::Instant;

use guitong_tests::exchange::credit_code;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};

use crate::harness::{
    Held, MASK, NAME, PATIENCE, Subscriber, change, company, exchange, field, named, position, run, serve, text, token,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_what_follows_it_are_the_table_without_gap_or_double() {
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    for number in 4..=60 {
        run(&mut department, company(number)).await;
    }
    let mut all = Held::default();
    all.until(&subscriber, &named(1..=60)).await;

    // Rows come, change and go between its pages.
    let (mut held, mut page, mut next, mut pages) = (BTreeMap::new(), json!(null), String::new(), 0);
    loop {
        let answer = subscriber.json(&format!("snapshot?limit=7{next}")).await;
        for record in answer["records"].as_array().unwrap() {
            let key = record["key"]["uscc"].as_str().unwrap().to_owned();
            let twice = held.insert(key, record["record"]["name"].as_str().unwrap().to_owned());
            assert_eq!(twice, None, "a row is in one page: {record}");
        }
        let first = page.is_null();
        assert!(first || page["cursor"] == answer["cursor"], "one cursor for all pages");
        page = answer;
        pages += 1;
        let Some(token) = page["page"].as_str() else { break };
        next = format!("&page={token}");
        let (gone, changed, new) = (pages * 3, pages * 5 + 20, 100 + pages);
        let acts =
            format!("DELETE FROM qy WHERE bh = {gone}; UPDATE qy SET qymc = '新{pages}' WHERE bh = {changed}; {}", company(new));
        run(&mut department, acts).await;
        // What was just done is in the outbox before the next page is read.
        let deadline = Instant::now() + PATIENCE;
        while !all.rows.contains_key(&credit_code(new)) {
            assert!(Instant::now() < deadline);
            all.pull(&subscriber, 100).await;
        }
    }
    assert!(pages >= 5, "{pages} pages");
    let live = page["cursor"].as_str().unwrap().to_owned();
    let mut follower = Held { rows: held, position: position(&live), cursor: Some(live), events: 0 };
    follower.until(&subscriber, &all.rows).await;

    let bad = subscriber.problem("snapshot?page=7").await;
    assert_eq!((bad.0, bad.1["type"].as_str()), (400, Some("urn:guitong:problem:invalid-request")));
    assert_eq!(subscriber.problem("snapshot?page=0123456789abcdef-3-1").await.0, 410);
    let lines = subscriber.get("snapshot?limit=2").header(ACCEPT, "application/x-ndjson").send().await.unwrap();
    assert!(lines.headers().contains_key("guitong-cursor") && lines.headers().contains_key("guitong-page"));
    assert_eq!(lines.text().await.unwrap().lines().count(), 2);
}

/// The same rows in Avro, page by page, and their key's hash where that is all that is granted of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_comes_in_avro_too() {
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    run(&mut department, company(4)).await;
    Held::default().until(&subscriber, &named(1..=4)).await;
    let whole = subscriber.json("snapshot").await;
    let (mut records, mut next) = (Vec::new(), String::new());
    let live = loop {
        let (headers, page) = subscriber.avro(&format!("snapshot?limit=3{next}")).await;
        assert!(page.len() <= 3);
        records.extend(page);
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        match header("guitong-page") {
            Some(page) => next = format!("&page={page}"),
            None => break header("guitong-cursor"),
        }
    };
    assert_eq!(live.as_deref(), whole["cursor"].as_str());
    let rows = whole["records"].as_array().unwrap();
    assert_eq!((records.len(), rows.len()), (4, 4));
    for (record, row) in records.iter().zip(rows) {
        let names: Vec<_> = record.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["uscc", "name", "legal_rep_name"], "the granted fields and nothing else");
        for name in names {
            assert_eq!(field(record, name), text(&row["record"][name]), "{name}");
        }
    }

    std::fs::write(exchange.path().join("secret"), "synthetic-secret").unwrap();
    let fields = "fields = [\"uscc\", \"name\", \"legal_rep_name\"]";
    change(&exchange, &format!("{fields}\n{MASK}"), "fields = [\"name\"]\nsecret = \"${file:secret}\"\n");
    let deadline = Instant::now() + PATIENCE;
    let whole = loop {
        let whole = subscriber.json("snapshot").await;
        if whole["records"][3]["key"]["guitong_key"].is_string() {
            break whole;
        }
        assert!(Instant::now() < deadline, "{whole:#}");
    };
    let (_, records) = subscriber.avro("snapshot").await;
    assert_eq!(records.len(), 4);
    for (record, row) in records.iter().zip(whole["records"].as_array().unwrap()) {
        assert_eq!(record.len(), 2, "{record:?}");
        assert_eq!(field(record, "guitong_key"), text(&row["key"]["guitong_key"]));
        assert_eq!(field(record, "name"), text(&row["record"]["name"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_is_there_by_its_key_and_by_its_hash_where_that_is_all_that_is_granted() {
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    Held::default().until(&subscriber, &named(1..=3)).await;
    let code = credit_code(2);
    let record = subscriber.json(&format!("records/{code}")).await;
    assert_eq!((&record["key"], &record["record"]["name"]), (&json!({ "uscc": code }), &json!("公司2")));
    assert!(!record.to_string().contains("韦小明"), "{record}");
    for unknown in [credit_code(9), "x".to_owned(), "%E4%BC%81".to_owned(), "'%20OR%201=1".to_owned()] {
        let (status, body) = subscriber.problem(&format!("records/{unknown}")).await;
        assert_eq!((status, body["type"].as_str()), (404, Some("urn:guitong:problem:no-record")), "{unknown}");
    }
    assert_eq!(subscriber.problem("records/a/b").await.0, 400);
    assert_eq!(subscriber.problem("records/%FF").await.0, 400);
    run(&mut department, "DELETE FROM qy WHERE bh = 2".to_owned()).await;
    Held::default().until(&subscriber, &BTreeMap::from_iter(named(1..=3).into_iter().filter(|(key, _)| *key != code))).await;
    assert_eq!(subscriber.problem(&format!("records/{code}")).await.0, 404);

    std::fs::write(exchange.path().join("secret"), "synthetic-secret").unwrap();
    let fields = "fields = [\"uscc\", \"name\", \"legal_rep_name\"]";
    change(&exchange, &format!("{fields}\n{MASK}"), "fields = [\"name\"]\nsecret = \"${file:secret}\"\n");
    let deadline = Instant::now() + PATIENCE;
    let hashed = loop {
        let page = subscriber.json("events?wait=1").await;
        if let Some(hashed) = page["events"][0]["key"]["guitong_key"].as_str() {
            break hashed.to_owned();
        }
        assert!(Instant::now() < deadline, "{page:#}");
    };
    let record = subscriber.json(&format!("records/{hashed}")).await;
    assert_eq!((hashed.len(), &record["key"]), (32, &json!({ "guitong_key": hashed })));
    assert!(!record.to_string().contains(&credit_code(1)) && !record.to_string().contains(&credit_code(3)), "{record}");
    assert_eq!(
        subscriber.problem(&format!("records/{}", credit_code(1))).await.0,
        404,
        "the key that is not granted finds nothing"
    );
}

/// The document that is served and the routes are the same, and answers have the fields that it says.
#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_says_what_is_served() {
    let (exchange, _department) = exchange().await;
    let _node = exchange.start().unwrap();
    let document: Value = serde_json::from_str(&exchange.get("/v1/openapi.json", PATIENCE).await.unwrap()).unwrap();
    exchange.get("/readyz", PATIENCE).await.unwrap();
    let subscriber = Subscriber::new(&exchange, token(&exchange));
    Held::default().until(&subscriber, &named(1..=3)).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let url = exchange.url(&path.replace("{name}", NAME).replace("{key}", &credit_code(1)));
        for method in ["get", "post", "put", "delete"] {
            let declared = methods.get(method);
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let status = subscriber.http.request(method.clone(), &url).send().await.unwrap().status().as_u16();
            let open = declared.is_some_and(|declared| declared.get("security").is_some());
            let wanted = match (declared, open) {
                (None, _) => 405,
                (Some(_), true) => 200,
                (Some(_), false) => 401,
            };
            assert_eq!(status, wanted, "{method} {path}");
        }
    }
    let fits = |schema: &str, value: &Value| {
        let schema = &document["components"]["schemas"][schema];
        let known = schema["properties"].as_object().unwrap();
        let unknown: Vec<_> = value.as_object().unwrap().keys().filter(|key| !known.contains_key(*key)).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {value:#}");
        for required in schema["required"].as_array().unwrap() {
            assert!(value.get(required.as_str().unwrap()).is_some(), "{required} of {value:#}");
        }
    };
    let page = subscriber.json("events").await;
    fits("Events", &page);
    fits("Event", &page["events"][0]);
    let snapshot = subscriber.json("snapshot").await;
    fits("Snapshot", &snapshot);
    fits("Record", &snapshot["records"][0]);
    fits("Record", &subscriber.json(&format!("records/{}", credit_code(1))).await);
    fits("Problem", &subscriber.problem("events?after=0123456789abcdef-1").await.1);
}
