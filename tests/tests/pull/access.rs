//! Who may have what, for how long, and how slowly.

use std::time::{Duration, Instant};

use guitong_tests::exchange::{Exchange, Layout, credit_code};
use reqwest::header::ACCEPT;

use crate::harness::{Held, MASK, NAME, PATIENCE, Subscriber, change, exchange, named, open, problem, run, serve, token};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_token_learns_anything() {
    let (exchange, _department) = exchange().await;
    // Without a node the token is issued all the same, once there is a log.
    assert_eq!(exchange.command(&["subscription", "token", NAME]).unwrap().code, Some(3));
    let node = exchange.start().unwrap();
    exchange.get("/readyz", PATIENCE).await.unwrap();
    let other = exchange.command(&["subscription", "token", "nobody"]).unwrap();
    assert_eq!(other.code, Some(1), "{}", other.err);
    let mut subscriber = Subscriber::new(&exchange, token(&exchange));
    assert_eq!(subscriber.token.len(), 3 + 64);
    subscriber.json("events").await;

    let url = exchange.url(&format!("/v1/subscriptions/{NAME}/events"));
    let unknown = exchange.url("/v1/subscriptions/nobody/events");
    let wrong = format!("gt_{}", "0".repeat(64));
    let answers = [
        subscriber.http.get(&url),
        subscriber.http.get(&url).bearer_auth(&wrong),
        subscriber.http.get(&url).basic_auth("credit", Some(&subscriber.token)),
        subscriber.http.get(&unknown).bearer_auth(&subscriber.token),
        subscriber.http.get(&unknown).bearer_auth(&wrong),
        subscriber.http.post(exchange.url(&format!("/v1/subscriptions/{NAME}/ack"))).bearer_auth(&wrong),
    ];
    let mut bodies = Vec::new();
    for answer in answers {
        let response = answer.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        bodies.push(problem(response).await);
    }
    assert_eq!(bodies[0].0, 401);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");

    let rotated = token(&exchange);
    assert_eq!(subscriber.problem("events").await, bodies[0], "the one before is void");
    let outboxes = exchange.path().join("data/exchange.outbox.db");
    assert!(
        !std::fs::read(&outboxes).unwrap().windows(64).any(|part| part == &rotated.as_bytes()[3..]),
        "the hash alone is kept"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&outboxes).unwrap().permissions().mode() & 0o777, 0o600);
    }
    subscriber.token = rotated;
    subscriber.json("events").await;
    let mut file = open(&outboxes).await;
    let moment = jiff::Timestamp::now().as_microsecond();
    run(&mut file, format!("UPDATE guitong_tokens SET expires_us = {moment}")).await;
    assert_eq!(subscriber.problem("events").await, bodies[0], "it has ended");

    // Another department that comes to have the name has not the token of the one before.
    let token = token(&exchange);
    subscriber.token = token;
    subscriber.json("events").await;
    change(&exchange, "subscriber = \"credit\"", "subscriber = \"registry\"");
    let deadline = Instant::now() + PATIENCE;
    while subscriber.send("events").await.status() != 401 {
        assert!(Instant::now() < deadline, "the token of another department is still good");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(exchange.path().join("node.log")).unwrap();
    assert!(!log.contains("gt_"), "no token stands in the log");
    node.terminate().unwrap();
}

/// Eight readers that take nothing of a backlog of megabytes: the node keeps a page for each at most, goes on for others, and lets the
/// connections go.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_hold_up_nobody_and_little() {
    let (exchange, mut department) = exchange().await;
    let rows: u32 = 20_000;
    let filler = "很长的名字".repeat(12);
    let insert =
        |number: u32| format!("INSERT INTO qy VALUES ({number}, '{}', '{filler}{number}', '韦小明');", credit_code(number));
    let all: String = (4..=rows).map(insert).collect();
    run(&mut department, format!("BEGIN; {all} COMMIT;")).await;
    let (node, subscriber) = serve(&exchange).await;
    let mut first = String::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    let (mut count, mut bytes) = (0, 0);
    while count < rows {
        let page = subscriber.get(&format!("events?limit=10000&wait=5{first}")).header(ACCEPT, "application/x-ndjson").send();
        let page = page.await.unwrap();
        assert!(Instant::now() < deadline, "{count} of {rows}");
        if page.status() != 200 {
            continue;
        }
        first = format!("&after={}", page.headers()["guitong-next"].to_str().unwrap());
        let text = page.text().await.unwrap();
        (count, bytes) = (count + text.lines().count() as u32, bytes + text.len());
        assert!(text.len() < 2 << 20, "a page is bounded: {} bytes", text.len());
    }
    assert!(bytes > 6 << 20, "{bytes}");
    let rows_page = loop {
        let page = subscriber.get("snapshot?limit=10000").header(ACCEPT, "application/x-ndjson").send().await.unwrap();
        // The last change may be given before everything counts as met.
        match page.status().as_u16() {
            503 => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => break page,
        }
        assert!(Instant::now() < deadline, "the rows are whole");
    };
    assert!(rows_page.headers().contains_key("guitong-page"), "there are more");
    let rows_page = rows_page.text().await.unwrap();
    assert!(rows_page.len() < 2 << 20, "a page of rows is bounded: {} bytes", rows_page.len());
    let before = resident(node.pid());
    let mut stalled = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        stalled.push(stall(&subscriber).await);
        if subscriber.send("snapshot?limit=1").await.status() == 429 {
            break;
        }
        assert!(Instant::now() < deadline, "eight answers are under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Others are served meanwhile.
    exchange.get("/readyz", Duration::from_secs(1)).await.unwrap();
    let grown = resident(node.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "eight readers cost {grown} KiB");
    let deadline = Instant::now() + Duration::from_secs(60);
    while subscriber.send("snapshot?limit=1").await.status() != 200 {
        assert!(Instant::now() < deadline, "connections that take nothing end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(stalled);
}

/// A connection on which everything is asked for and nothing is read.
async fn stall(subscriber: &Subscriber<'_>) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = subscriber.exchange.url("").trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!(
        "GET /v1/subscriptions/{NAME}/events HTTP/1.1\r\nHost: node\r\nAccept: text/event-stream\r\nAuthorization: Bearer {}\r\n\r\n",
        subscriber.token
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    stream
}

/// KiB of a process in memory.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_grant_and_an_end_hold_at_once() {
    let (exchange, _department) = exchange().await;
    let (node, subscriber) = serve(&exchange).await;
    Held::default().until(&subscriber, &named(1..=3)).await;
    let page = subscriber.json("events").await;
    let text = page.to_string();
    assert!(text.contains("\"legal_rep_name\":\"韦**\""), "{text}");
    assert!(!text.contains("韦小明"), "what is masked is masked: {text}");
    let old = page["next"].as_str().unwrap().to_owned();

    let waiting = tokio::spawn(subscriber.get(&format!("events?wait=30&after={old}")).send());
    change(&exchange, &format!(", \"legal_rep_name\"]\n{MASK}"), "]\n");
    assert_eq!(problem(waiting.await.unwrap().unwrap()).await.1["type"], "urn:guitong:problem:interrupted");
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let response = subscriber.send(&format!("events?after={old}")).await;
        match response.status().as_u16() {
            410 => break,
            503 => {}
            status => panic!("{status}: {}", response.text().await.unwrap()),
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while seen.len() < 3 {
        let page = subscriber.json("events?wait=1").await;
        assert!(!page.to_string().contains("legal_rep_name"), "{page:#}");
        seen = page["events"].as_array().unwrap().clone();
        assert!(Instant::now() < deadline, "{seen:#?}");
    }

    let waiting = tokio::spawn(subscriber.get(&format!("events?wait=30&after={}", seen[2]["cursor"].as_str().unwrap())).send());
    change(&exchange, "[sink]", "approval = { number = \"桂数共〔2026〕1号\", until = 2020-12-31 }\n\n[sink]");
    assert_eq!(waiting.await.unwrap().unwrap().status(), 503);
    loop {
        let (status, body) = subscriber.problem("events").await;
        match status {
            403 => {
                assert!(body["detail"].as_str().unwrap().contains("the approval ended"), "{body:#}");
                break;
            }
            _ => assert_eq!(status, 503, "{body:#}"),
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Withdrawn altogether it is as if it had never been.
    std::fs::remove_file(exchange.path().join(format!("subscriptions/{NAME}.toml"))).unwrap();
    while subscriber.send("events").await.status() != 401 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.terminate().unwrap();
}

#[test]
fn a_subscription_is_pulled_only_with_the_embedded_log() {
    let layout = |log: &str, sink: &str| Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: log.to_owned(),
        sink: sink.to_owned(),
    };
    let check = |log: &str, sink: &str| Exchange::write(&layout(log, sink)).unwrap().command(&["check", "--json"]).unwrap();
    let kafka = "[log]\nkind = \"kafka\"\nbrokers = [\"kafka-1:9092\"]\n\n[registry]\nurl = \"http://registry:8080\"\n";
    let refused = check(kafka, "kind = \"pull\"\n");
    assert!(refused.code == Some(1) && refused.out.contains("pull-log"), "{:?} {}", refused.code, refused.out);
    assert_eq!(check("", "kind = \"pull\"\nkeep_days = 30\n").code, Some(0));
    for wrong in ["keep_days = 0\n", "keep_days = 367\n", "table = \"t\"\n"] {
        assert_eq!(check("", &format!("kind = \"pull\"\n{wrong}")).code, Some(1), "{wrong}");
    }
}
