//! What is particular to MariaDB and MySQL.

use guitong_deliver::sink::SinkErrorKind;
use guitong_deliver::{DeliverError, Phase, Pools};
use guitong_schemas::avro::Value;
use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_tests::servers::mariadb::Mariadb;

use crate::fixture::{Bench, Target, names};

/// A server that crashes under delivery is tried again and again, and nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_goes_on_where_it_was() {
    let mut bench = Bench::new().await;
    let target = Target::mariadb().await;
    let Target::Mariadb(server, ..) = &target else { panic!("MariaDB") };
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut delivering = bench.start(&subscription);
    bench.caught_up(&mut delivering).await;
    let mut server = server.lock().await;
    server.kill().unwrap();
    bench.append(vec![bench.named("B", "乙", 2), bench.delete("A", 3)]).await;
    delivering.reaches(|status| matches!(status.phase, Phase::Retrying { .. })).await;
    server.start_again().await.unwrap();
    bench.caught_up(&mut delivering).await;
    assert_eq!(target.names("t").await, names(&[("B", "乙")]));
    delivering.stop().await.unwrap();
}

/// The table that the exchange makes says in Chinese what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_table_is_typed_keyed_and_commented() {
    let bench = Bench::new().await;
    let target = Target::mariadb().await;
    let fields = ["uscc", "name", "reg_capital", "established", "employees"];
    bench.deliver(&bench.subscription("credit", target.config("企业"), &fields)).await;
    let columns = "SELECT CONCAT_WS(' ', column_name, column_type, column_key, column_comment) FROM information_schema.columns
        WHERE table_schema = 'shared' AND table_name = '企业' ORDER BY ordinal_position";
    let expected = [
        "uscc varchar(255) PRI 统一社会信用代码",
        "name longtext  机构名称",
        "reg_capital decimal(24,6)  注册资本",
        "established date  成立日期",
        "employees bigint(20)  职工人数",
        "guitong_version varbinary(64)  ",
        "guitong_epoch bigint(20)  ",
    ];
    assert_eq!(target.texts(columns).await, expected);
    let comment = "SELECT table_comment FROM information_schema.tables WHERE table_schema = 'shared' AND table_name = '企业'";
    assert_eq!(target.texts(comment).await, ["企业登记基本信息"]);
}

/// Keys that differ in case alone are two rows, and what a server of old settings would cut or change is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_come_as_they_are() {
    let mut bench = Bench::new().await;
    let target = Target::mariadb().await;
    target.execute("SET GLOBAL sql_mode = ''; SET GLOBAL time_zone = '+00:00'").await;
    let odd = "\\' \" ` 𠮷 -- ; %\u{1}\n";
    let long = "长".repeat(100_000);
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name", "established"]);
    let late = [("name", Value::Text("远")), ("established", Value::Int(3_000_000))];
    bench.append(vec![bench.named("a", odd, 1), bench.named("A", &long, 2), bench.upsert("B", &late, 3)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, names(&[("a", odd), ("A", &long)]));
    running.reaches(|status| status.parked == 1).await;
    // As many keys as one statement deletes, and some more.
    bench.append((0..150).map(|n| bench.named(&format!("K{n}"), "k", 10 + n)).collect()).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.count("t").await, 152);
    bench.append((0..150).map(|n| bench.delete(&format!("K{n}"), 1000 + n)).collect()).await;
    bench.caught_up(&mut running).await;
    assert_eq!((target.count("t").await, target.count("guitong_deleted").await), (2, 150));
    running.stop().await.unwrap();
    bench.append(vec![bench.named("K7", "older", 500), bench.named("K8", "newer", 2000)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("a", odd), ("A", &long), ("K8", "newer")]));
}

/// A record that is larger than what the server takes in one packet is set aside; those beside it come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_a_packet_is_set_aside() {
    let mut bench = Bench::new().await;
    let server = Mariadb::start_with(&["max-allowed-packet=1M"]).await.unwrap();
    server.create_user("office", "shared", "ALL").await.unwrap();
    let config = SinkConfig::Mysql { url: Secret::new(server.url("office", "shared")), table: "t".into() };
    let subscription = bench.subscription("credit", config, &["uscc", "name"]);
    let large = "大".repeat(500_000);
    bench.append(vec![bench.named("A", "甲", 1), bench.named("B", &large, 2), bench.named("C", "丙", 3)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    running.reaches(|status| status.parked == 1).await;
    running.stop().await.unwrap();
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT uscc FROM shared.t ORDER BY uscc").fetch_all(&server.admin().await.unwrap()).await.unwrap();
    assert_eq!(kept, ["A", "C"]);
}

/// A table whose other unique index, or whose key without regard to case, would make two records one is not written at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_where_rows_would_overwrite_each_other_is_refused() {
    let mut bench = Bench::new().await;
    let target = Target::mariadb().await;
    let own = "guitong_version VARBINARY(40), guitong_epoch BIGINT";
    for (table, columns, words) in [
        (
            "other",
            format!("uscc VARCHAR(40) COLLATE utf8mb4_bin PRIMARY KEY, name VARCHAR(40) UNIQUE, {own}"),
            "unique index name",
        ),
        ("cases", format!("uscc VARCHAR(40) COLLATE utf8mb4_general_ci PRIMARY KEY, name TEXT, {own}"), "ends with _bin"),
        ("part", format!("uscc VARCHAR(40) COLLATE utf8mb4_bin, name TEXT, {own}, UNIQUE INDEX u (uscc(8))"), "unique index u"),
    ] {
        target.execute(&format!("CREATE TABLE shared.{table} ({columns})")).await;
        bench.append(vec![bench.named("A", "甲", 1)]).await;
        let mut refused = bench.start(&bench.subscription(table, target.config(table), &["uscc", "name"]));
        refused.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
        let error = refused.stop().await.unwrap_err();
        assert!(matches!(error, DeliverError::Sink { .. }) && error.to_string().contains(words), "{words} in {error}");
        assert_eq!(target.count(table).await, 0);
    }
}

/// A user who may create nothing can deliver once everything is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_to_create_are_needed_only_where_something_is_created() {
    let mut bench = Bench::new().await;
    let target = Target::mariadb().await;
    let Target::Mariadb(_, url, _) = &target else { panic!("MariaDB") };
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    bench.deliver(&subscription).await;
    target.execute("REVOKE CREATE, ALTER, DROP ON shared.* FROM 'office'@'127.0.0.1'").await;
    // Connections that are open keep the rights that they came with.
    bench.pools = Pools::default();
    bench.append(vec![bench.named("B", "乙", 2), bench.delete("A", 3)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("B", "乙")]));
    let other = bench.subscription("other", target.config("u"), &["uscc", "name"]);
    let refused = target.sink(&bench, &other).open().await.unwrap_err();
    assert_eq!(refused.kind, SinkErrorKind::Denied, "{refused}");
    let wrong = SinkConfig::Mysql { url: Secret::new(url.replace("synthetic-password", "wrong")), table: "t".into() };
    let wrong = bench.subscription("wrong", wrong, &["uscc", "name"]);
    let refused = target.sink(&bench, &wrong).open().await.unwrap_err();
    assert_eq!((refused.kind, refused.detail.contains("wrong")), (SinkErrorKind::Denied, false), "{refused}");
}
