//! Changes by cursor, in pages and as a stream.

use std::time::{Duration, Instant};

use guitong_tests::exchange::credit_code;
use reqwest::Response;
use reqwest::header::{ACCEPT, RETRY_AFTER};
use serde_json::{Value, json};

use crate::harness::{
    Held, NAME, PATIENCE, Subscriber, company, exchange, field, named, position, problem, run, serve, text, token,
};

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_pulled_once_each_while_the_node_is_killed() {
    let (exchange, mut department) = exchange().await;
    let mut node = exchange.start().unwrap();
    exchange.get("/readyz", PATIENCE).await.unwrap();
    let subscriber = Subscriber::new(&exchange, token(&exchange));
    let mut held = Held::default();
    held.until(&subscriber, &named(1..=3)).await;

    for round in 0..4 {
        for number in (4 + round * 40)..(44 + round * 40) {
            run(&mut department, company(number)).await;
            if number % 10 == 0 {
                held.pull(&subscriber, 7).await;
            }
        }
        node.kill().unwrap();
        node = exchange.start().unwrap();
    }
    run(&mut department, "DELETE FROM qy WHERE bh <= 100; UPDATE qy SET qymc = '新名' WHERE bh = 163".to_owned()).await;
    let mut wanted = named(101..=163);
    wanted.insert(credit_code(163), "新名".to_owned());
    held.until(&subscriber, &wanted).await;
    assert!(held.events >= 163 + 100, "{}", held.events);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_bounded_and_said_in_three_forms() {
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    Held::default().until(&subscriber, &named(1..=3)).await;

    let lines = subscriber.get("events?limit=2").header(ACCEPT, "application/x-ndjson").send().await.unwrap();
    let next = lines.headers()["guitong-next"].to_str().unwrap().to_owned();
    let lines = lines.text().await.unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((lines.lines().count(), last["cursor"].as_str()), (2, Some(next.as_str())));
    let page = subscriber.json(&format!("events?after={next}")).await;
    assert_eq!((page["events"].as_array().unwrap().len(), &page["more"]), (1, &json!(false)));

    let end = page["next"].as_str().unwrap().to_owned();
    let ahead = format!("{}-{}", end.split_once('-').unwrap().0, position(&end) + 1);
    for (rest, status, kind) in [
        ("events?limit=0", 400, "invalid-request"),
        ("events?limit=10001", 400, "invalid-request"),
        ("events?wait=61", 400, "invalid-request"),
        ("events?after=7", 400, "invalid-request"),
        ("events?since=7", 400, "invalid-request"),
        ("events?after=0123456789abcdef-1", 410, "gap"),
        (&format!("events?after={ahead}"), 410, "gap"),
    ] {
        let (code, body) = subscriber.problem(rest).await;
        assert_eq!((code, body["type"].as_str().unwrap()), (status, &*format!("urn:guitong:problem:{kind}")), "{rest}");
        assert!(body["detail"].as_str().unwrap().len() > 20, "{body:#}");
    }
    for rest in ["events", "snapshot", "records/x", "events?limit=0"] {
        assert_eq!(subscriber.send(rest).await.headers()["cache-control"], "no-store", "{rest}");
    }
    let given = async || {
        let metrics = exchange.get("/metrics", PATIENCE).await.unwrap();
        let line = format!("guitong_pull_records_total{{subscription=\"{NAME}\"}} ");
        metrics.lines().find_map(|found| found.strip_prefix(&*line)).unwrap().parse::<u64>().unwrap()
    };
    let told = given().await;
    subscriber.json("events?limit=2").await;
    assert_eq!(given().await, told + 2, "what is given is counted");
    let xml = subscriber.get("events").header(ACCEPT, "text/xml").send().await.unwrap();
    assert_eq!(problem(xml).await.0, 406);

    // A request that waits is answered by the next change, and not before.
    let waiting = tokio::spawn(subscriber.get(&format!("events?wait=30&after={end}")).send());
    run(&mut department, company(4)).await;
    let page: Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(page["events"][0]["record"]["name"], "公司4");

    let ack = |cursor: &str| {
        let url = exchange.url(&format!("/v1/subscriptions/{NAME}/ack"));
        subscriber.http.post(url).bearer_auth(&subscriber.token).json(&json!({ "cursor": cursor })).send()
    };
    assert_eq!(ack(&next).await.unwrap().status(), 204);
    let page = subscriber.json("events").await;
    assert_eq!(position(page["events"][0]["cursor"].as_str().unwrap()), position(&next) + 1, "what was acknowledged is over");
    let before = format!("{}-1", next.split_once('-').unwrap().0);
    assert_eq!(ack(&before).await.unwrap().status(), 204);
    let again = subscriber.json("events").await;
    assert_eq!(again["events"][0], page["events"][0], "an earlier cursor takes nothing back");
    assert_eq!(problem(ack("0123456789abcdef-1").await.unwrap()).await.0, 410);
    let large = subscriber.http.post(exchange.url(&format!("/v1/subscriptions/{NAME}/ack"))).bearer_auth(&subscriber.token);
    let large = large.header("content-type", "application/json").body(format!("{{\"cursor\":\"{next}\"}}{}", " ".repeat(5_000)));
    assert_eq!(problem(large.send().await.unwrap()).await.0, 400, "a body is bounded");

    // Eight answers may be under way; who asks beyond that is told so at once.
    let end = subscriber.json("events").await["next"].as_str().unwrap().to_owned();
    let waiting = (0..8).map(|_| {
        let request = subscriber.get(&format!("events?wait=20&after={end}"));
        tokio::spawn(async move {
            // The requests below are under way for moments, too.
            loop {
                let response = request.try_clone().unwrap().send().await.unwrap();
                if response.status() != 429 {
                    break response;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    });
    let waiting: Vec<_> = waiting.collect();
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let response = subscriber.send(&format!("events?after={end}")).await;
        if response.status() == 429 {
            break response;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(refused.headers().contains_key(RETRY_AFTER));
    assert_eq!(problem(refused).await.1["type"], "urn:guitong:problem:too-many-answers");
    run(&mut department, company(5)).await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().status(), 200);
    }
    assert_eq!(subscriber.send("events").await.status(), 200);
}

/// Reads server-sent events until `enough` of them came: cursor and document of each.
async fn streamed(response: Response, enough: usize) -> Vec<(String, Value)> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut response, mut text, mut events) = (response, String::new(), Vec::new());
    while events.len() < enough {
        let chunk = tokio::time::timeout(PATIENCE, response.chunk()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let of = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let (Some(id), Some(data)) = (of("id: "), of("data: ")) {
                events.push((id, serde_json::from_str(&data).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_the_one_before_was_cut() {
    let (exchange, mut department) = exchange().await;
    let (node, subscriber) = serve(&exchange).await;
    Held::default().until(&subscriber, &named(1..=3)).await;
    let open = |last: Option<&str>| {
        let request = subscriber.get("events").header(ACCEPT, "text/event-stream");
        last.map_or_else(|| request.try_clone().unwrap(), |last| request.try_clone().unwrap().header("Last-Event-ID", last))
            .send()
    };
    let first = streamed(open(None).await.unwrap(), 3).await;
    let stream = open(Some(&first[2].0)).await.unwrap();
    run(&mut department, company(4)).await;
    let live = streamed(stream, 1).await;
    assert_eq!((live[0].1["record"]["name"].as_str(), position(&live[0].0)), (Some("公司4"), 4));
    node.kill().unwrap();
    run(&mut department, company(5)).await;
    let node = exchange.start().unwrap();
    exchange.get("/readyz", PATIENCE).await.unwrap();
    subscriber.json("events").await;
    let resumed = streamed(open(Some(&live[0].0)).await.unwrap(), 1).await;
    assert_eq!((resumed[0].1["record"]["name"].as_str(), position(&resumed[0].0)), (Some("公司5"), 5));
    assert_eq!(problem(open(Some("0123456789abcdef-3")).await.unwrap()).await.0, 410);
    assert_eq!(problem(open(Some("x")).await.unwrap()).await.0, 400);

    // A stream that is open does not hold the node, and is told why it ends.
    let mut open = open(Some(&resumed[0].0)).await.unwrap();
    let (code, time) = tokio::task::spawn_blocking(move || node.terminate().unwrap()).await.unwrap();
    assert_eq!((code, time < Duration::from_secs(8)), (Some(0), true), "stopped in {time:?}");
    let mut rest = String::new();
    while let Some(chunk) = open.chunk().await.unwrap() {
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(rest.contains("event: problem") && rest.contains("interrupted"), "{rest}");
}

/// The same changes in Avro, in the types of the granted fields, of a deleted row the key alone.
#[tokio::test(flavor = "multi_thread")]
async fn changes_come_in_avro_too() {
    use apache_avro::types::Value as Avro;
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    let mut held = Held::default();
    held.until(&subscriber, &named(1..=3)).await;
    run(&mut department, "DELETE FROM qy WHERE bh = 2".to_owned()).await;
    held.until(&subscriber, &named(1..=3).into_iter().filter(|(key, _)| *key != credit_code(2)).collect()).await;
    let page = subscriber.json("events").await;
    let page = page["events"].as_array().unwrap();
    let ask = async |rest: &str| {
        let (headers, records) = subscriber.avro(rest).await;
        (records, headers["guitong-next"].to_str().unwrap().to_owned())
    };
    let (records, next) = ask("events").await;
    assert_eq!(Some(&*next), held.cursor.as_deref());
    assert_eq!(records.len(), page.len());
    for (record, event) in records.iter().zip(page) {
        let plain = |name: &str| field(record, name);
        assert_eq!((plain("guitong_op"), plain("guitong_cursor")), (text(&event["op"]), text(&event["cursor"])));
        let Avro::TimestampMicros(time) = plain("guitong_time") else { panic!("{record:?}") };
        let told: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(time, told.as_microsecond());
        assert_eq!(plain("uscc"), text(&event["key"]["uscc"]));
        for name in ["name", "legal_rep_name"] {
            assert_eq!(plain(name), text(&event["record"][name]), "{name}");
        }
    }
    assert!(page.iter().any(|event| event["op"] == "delete"));
    let (none, same) = ask(&format!("events?after={next}")).await;
    assert_eq!((none.len(), same), (0, next), "nothing more is a whole file, too");
}

/// What stops delivery while somebody waits ends the waiting.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_soon_that_nothing_comes() {
    let (exchange, mut department) = exchange().await;
    let (_node, subscriber) = serve(&exchange).await;
    let mut held = Held::default();
    held.until(&subscriber, &named(1..=3)).await;
    let cursor = held.cursor.clone().unwrap();
    let waiting = tokio::spawn(subscriber.get(&format!("events?wait=60&after={cursor}")).send());
    let open = subscriber.get(&format!("events?after={cursor}")).header(ACCEPT, "text/event-stream").send().await.unwrap();
    let reading = tokio::spawn(async move { open.text().await.unwrap() });
    let paused = exchange.command(&["subscription", "pause", NAME, "--reason", "盘点"]).unwrap();
    assert_eq!(paused.code, Some(0), "{}", paused.err);
    // From here on the status says so; a look comes twice a second.
    let since = Instant::now();
    let (waited, read) = tokio::time::timeout(PATIENCE, async { (waiting.await.unwrap().unwrap(), reading.await.unwrap()) })
        .await
        .expect("both are told");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(problem(waited).await.1["type"], "urn:guitong:problem:paused");
    assert!(read.contains("event: problem") && read.contains("urn:guitong:problem:paused"), "{read}");
    run(&mut department, company(4)).await;
    assert_eq!(subscriber.problem("snapshot").await.1["type"], "urn:guitong:problem:paused");
    assert_eq!(subscriber.problem(&format!("records/{}", credit_code(1))).await.0, 503);
    let resumed = exchange.command(&["subscription", "resume", NAME]).unwrap();
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    held.until(&subscriber, &named(1..=4)).await;
}
