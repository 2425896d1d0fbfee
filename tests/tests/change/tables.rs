//! `ALTER TABLE` in mid-stream, under each policy, through to the subscriber's table.

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};

use super::office::{
    Companies, Office, PATIENCE, SINK, command, declare, held, open, resource, resource_is, run, status_where, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_pauses_at_a_column_that_is_gone_and_goes_on_by_itself() {
    let office = Office::new("").await;
    let node = office.start().await;
    let clerks = office.clerks();
    office.execute("UPDATE qy SET jyfw = '零售' WHERE bh < 20").await;
    // What no mapping reads may come and go.
    office.execute("ALTER TABLE qy ADD COLUMN beizhu text DEFAULT '无'").await;
    office.typed(20).await;
    office.execute("ALTER TABLE qy ALTER COLUMN beizhu TYPE varchar(200)").await;
    office.execute("ALTER TABLE qy DROP COLUMN beizhu").await;
    office.execute("ALTER TABLE qy ALTER COLUMN qymc TYPE text").await;
    office.typed(20).await;
    status_where(&office.exchange, resource_is("running")).await;
    office.execute("ALTER TABLE qy RENAME COLUMN jyfw TO jingying").await;
    office.typed(20).await;
    let status = status_where(&office.exchange, resource_is("paused")).await;
    let resource = &status["resources"][0];
    let problem = resource["problem"].as_str().unwrap();
    for said in ["`jyfw` of public.qy is gone", "perhaps renamed to `jingying`", "scope", "credit-enterprise"] {
        assert!(problem.contains(said), "{said}: {problem}");
    }
    let change = &resource["column_changes"][0];
    assert_eq!((&change["change"], &change["perhaps"]), (&"gone".into(), &"jingying".into()), "{change}");
    assert_eq!(change["subscriptions"], serde_json::json!(["credit-enterprise"]));
    assert!(command(&office.exchange, &["status"]).contains("perhaps renamed to `jingying`"));
    let metrics = office.exchange.get("/metrics", PATIENCE).await.unwrap();
    assert!(metrics.contains("guitong_normalise_changed_columns{resource=\"enterprise\",system=\"licensing\"} 1"));

    // A restart finds it as it was; then the department takes it back.
    node.terminate().unwrap();
    let _node = office.exchange.start().unwrap();
    status_where(&office.exchange, resource_is("paused")).await;
    office.execute("ALTER TABLE qy RENAME COLUMN jingying TO jyfw").await;
    office.typed(20).await;
    clerks.stop().await;
    // What came in between waits.
    let waits = |status: &serde_json::Value| status["resources"][0]["quarantined"].as_u64() > Some(20);
    status_where(&office.exchange, |status| resource_is("running")(status) && waits(status)).await;
    let list = command(&office.exchange, &["quarantine", "list", "enterprise", "--json"]);
    assert!(list.contains("column.gone") && list.contains("credit-enterprise"), "{list}");
    command(&office.exchange, &["system", "snapshot", "licensing", "--table", "public.qy"]);
    office.arrived("jyfw").await;
    status_where(&office.exchange, |status| status["resources"][0]["quarantined"] == 0).await;
    let log = std::fs::read_to_string(office.exchange.path().join("node.log")).unwrap();
    let said = log.lines().filter(|line| line.contains("`jyfw` of public.qy is gone")).count();
    assert_eq!(said, 2, "once by each node that met it: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_mapping_is_taken_where_the_resource_stands() {
    let office = Office::new("").await;
    let _node = office.start().await;
    let clerks = office.clerks();
    office.execute("UPDATE qy SET jyfw = '零售' WHERE bh < 20").await;
    office.typed(20).await;
    office.execute("ALTER TABLE qy RENAME COLUMN jyfw TO jingying").await;
    status_where(&office.exchange, resource_is("paused")).await;
    // A file that is broken is refused, and the old one stays.
    declare(&office.exchange, &resource("public", "{ from = \"jingying\" ", ""));
    status_where(&office.exchange, |status| !status["refused_change"].is_null() && resource_is("paused")(status)).await;
    declare(&office.exchange, &resource("public", "\"jingying\"", ""));
    office.typed(20).await;
    clerks.stop().await;
    office.arrived("jingying").await;
    let status = status_where(&office.exchange, resource_is("running")).await;
    assert_eq!(status["resources"][0]["quarantined"], 0, "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_continues_leaves_the_field_empty() {
    let office = Office::new("on_change = \"continue\"").await;
    let _node = office.start().await;
    office.execute("UPDATE qy SET jyfw = '零售' WHERE bh < 20").await;
    office.arrived("jyfw").await;
    let before = held(&office.exchange).await;
    let clerks = office.clerks();
    office.typed(20).await;
    office.execute("ALTER TABLE qy DROP COLUMN jyfw").await;
    office.typed(60).await;
    clerks.stop().await;
    let wanted: Companies = office
        .companies("NULL")
        .await
        .into_iter()
        .map(|(code, (name, _))| {
            // Rows that nobody touched since stay as they were.
            let kept = before.get(&code).filter(|(before, _)| *before == name).and_then(|(_, scope)| scope.clone());
            (code, (name, kept))
        })
        .collect();
    // A row that was touched before the column went has its scope still; all others of another name have none.
    let status = status_where(&office.exchange, |status| !status["resources"][0]["problem"].is_null()).await;
    assert!(status["resources"][0]["problem"].as_str().unwrap().contains("the fields are empty from there on"), "{status:#}");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let held = held(&office.exchange).await;
        let names = |all: &Companies| all.iter().map(|(code, (name, _))| (code.clone(), name.clone())).collect::<Vec<_>>();
        if names(&held) == names(&wanted) {
            assert!(wanted.iter().all(|(code, (_, scope))| scope.is_none() || held[code].1 == *scope), "{held:?}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{held:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // The column is there again, and its values are read.
    office.execute("ALTER TABLE qy ADD COLUMN jyfw text").await;
    office.execute("UPDATE qy SET jyfw = '批发'").await;
    office.arrived("jyfw").await;
    status_where(&office.exchange, |status| status["resources"][0]["problem"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_retyped_column_wait_and_replay_under_a_changed_mapping() {
    let office = Office::new("on_change = \"quarantine\"").await;
    let _node = office.start().await;
    office.execute("UPDATE qy SET jyfw = '7' WHERE bh < 20").await;
    office.arrived("jyfw").await;
    let clerks = office.clerks();
    office.typed(20).await;
    office.execute("ALTER TABLE qy ALTER COLUMN jyfw TYPE integer USING jyfw::integer").await;
    office.typed(40).await;
    clerks.stop().await;
    let status = status_where(&office.exchange, |status| status["resources"][0]["quarantined"].as_u64() > Some(40)).await;
    let change = &status["resources"][0]["column_changes"][0];
    assert_eq!((&change["from"], &change["to"]), (&"text".into(), &"integer".into()), "{status:#}");
    declare(&office.exchange, &resource("public", "{ cel = \"string(row.jyfw)\" }", "on_change = \"quarantine\""));
    status_where(&office.exchange, |status| status["resources"][0]["problem"].is_null()).await;
    // Null has no text.
    office.execute("UPDATE qy SET jyfw = 8 WHERE jyfw IS NULL").await;
    command(&office.exchange, &["quarantine", "replay", "enterprise"]);
    office.arrived("jyfw::text").await;
    status_where(&office.exchange, |status| status["resources"][0]["quarantined"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_sqlite_is_renamed() {
    let layout = Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".into(),
        schema: "main",
        log: String::new(),
        sink: SINK.into(),
    };
    let exchange = Exchange::write(&layout).unwrap();
    let mut department = open(&exchange, "department.db").await;
    run(&mut department, &format!("PRAGMA journal_mode = WAL; {COMPANIES}; ALTER TABLE qy ADD COLUMN jyfw text")).await;
    let insert =
        |number: u32| format!("INSERT INTO qy VALUES ({number}, '{}', '公司{number}', '韦小明', '零售')", credit_code(number));
    for number in 1..=20 {
        run(&mut department, &insert(number)).await;
    }
    command(&exchange, &["system", "prepare", "licensing", "--apply"]);
    let wanted = |last: u32| -> Companies {
        (1..=last).map(|number| (credit_code(number), (format!("公司{number}"), Some("零售".to_owned())))).collect()
    };
    let renamed = ["jyfw", "jingying", "jyfw", "jingying"];
    let mut last = 20;
    for (policy, names) in ["pause", "quarantine", "continue"].into_iter().zip(renamed.windows(2)) {
        let lines = format!("on_change = \"{policy}\"");
        declare(&exchange, &resource("main", &format!("\"{}\"", names[0]), &lines));
        let node = exchange.start().unwrap();
        until(&exchange, &wanted(last)).await;
        node.terminate().unwrap();
        run(&mut department, &format!("ALTER TABLE qy RENAME COLUMN {} TO {}", names[0], names[1])).await;
        command(&exchange, &["system", "prepare", "licensing", "--apply"]);
        last += 1;
        run(&mut department, &insert(last)).await;
        let _node = exchange.start().unwrap();
        let status = status_where(&exchange, |status| !status["resources"][0]["column_changes"][0].is_null()).await;
        assert_eq!(status["resources"][0]["column_changes"][0]["perhaps"], names[1], "{status:#}");
        match policy {
            "pause" => drop(status_where(&exchange, resource_is("paused")).await),
            // The table is read again, since it has other columns.
            "quarantine" => drop(status_where(&exchange, |status| status["resources"][0]["quarantined"] == last).await),
            _ => {
                let without = wanted(last).into_iter().map(|(code, (name, _))| (code, (name, None))).collect();
                until(&exchange, &without).await;
            }
        }
        declare(&exchange, &resource("main", &format!("\"{}\"", names[1]), &lines));
        status_where(&exchange, |status| status["resources"][0]["problem"].is_null()).await;
        match policy {
            "pause" => {}
            "quarantine" => drop(command(&exchange, &["quarantine", "replay", "enterprise"])),
            _ => run(&mut department, "UPDATE qy SET qymc = qymc").await,
        }
        until(&exchange, &wanted(last)).await;
        let status = status_where(&exchange, resource_is("running")).await;
        assert_eq!(status["resources"][0]["quarantined"], 0, "{policy}: {status:#}");
    }
}
