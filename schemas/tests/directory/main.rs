//! Whole exchange directories: what is said of wrong ones, to the letter, and what valid ones become.

#![allow(clippy::unwrap_used, clippy::panic)]

mod sinks;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guitong_schemas::avro::EventForm;
use guitong_schemas::avro::form::{
    AddedField, Converter, Decimals, DeleteLeaves, Metadata, Names, SourceField, Truncates, Unwrap, UnwrappedDeletes,
};
use guitong_schemas::contract::mapping::{Other, Unit, UnitSource, ValueSource};
use guitong_schemas::contract::resource::Place;
use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::contract::system::{GapPolicy, Origins, PostgresConfig, SnapshotConfig, SqliteConfig, Window};
use guitong_schemas::contract::{
    Directory, KafkaCluster, KafkaConfig, LogConfig, Problems, Purpose, Secret, Sharing, SinkConfig, SourceConfig, load,
    load_standard,
};
use guitong_schemas::table::TableName;
use jiff::Timestamp;

fn noon() -> Timestamp {
    "2026-11-23T12:00:00+08:00".parse().unwrap()
}

fn load_with(root: &Path, environment: &[(&str, &str)], purpose: Purpose) -> Result<Directory, Problems> {
    let environment = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    load(root, &environment, noon(), purpose)
}

const CHECK: Purpose = Purpose::Check { unset_secrets: false };
const URL: (&str, &str) = ("CREDIT_URL", "postgres://guitong:geheim@db.example/credit");

fn directories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/directories")
}

/// Compares with the text beside the directory; `BLESS=1` writes it anew, to be read before it is committed.
fn expect(name: &str, found: &str) {
    let path = directories().join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == found, "{} differs; found:\n{found}", path.display());
}

/// A copy of the valid directory with changes: `(file, text, by)` replaces one text, which must be there.
fn changed(changes: &[(&str, &str, &str)]) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    copy(&directories().join("valid"), target.path());
    for (file, text, by) in changes {
        let path = target.path().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        assert!(before.contains(text), "{file} has no {text}");
        fs::write(path, before.replacen(text, by, 1)).unwrap();
    }
    target
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Codes of the problems of a changed directory.
fn codes(changes: &[(&str, &str, &str)]) -> Vec<&'static str> {
    let directory = changed(changes);
    let problems = load_with(directory.path(), &[URL], CHECK).err().unwrap_or_default();
    problems.list.iter().map(|problem| problem.code).collect()
}

#[test]
fn the_quick_start_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
    match load_with(&root, &[], CHECK) {
        Ok(directory) => {
            assert_eq!((directory.systems.len(), directory.resources.len(), directory.subscriptions.len()), (5, 6, 14));
        }
        Err(problems) => panic!("{}", problems.render(false)),
    }
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let problems = load_with(&directories().join("mistakes"), &[URL], CHECK).unwrap_err();
    expect("mistakes.txt", &problems.render(false));
    expect("mistakes.json", &format!("{:#}\n", problems.to_json()));
    let rendered = format!("{}{}{problems:?}", problems.render(true), problems.to_json());
    assert!(!rendered.contains("geheim"), "a password is shown");
}

#[test]
fn every_mistake_in_the_files_of_the_standard_is_reported_at_its_place() {
    let problems = load_standard(&directories().join("standard-mistakes")).unwrap_err();
    expect("standard-mistakes.txt", &problems.render(false));
}

#[test]
fn a_directory_becomes_what_it_declares() {
    let root = directories().join("valid");
    let directory = load_with(&root, &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let secret = |text: &str| Secret::new(text.to_owned());

    let exchange = &directory.exchange;
    assert_eq!((exchange.name.as_str(), exchange.title.as_str()), ("nanning", "南宁市数据共享交换"));
    assert_eq!(exchange.time_zone.iana_name(), Some("Asia/Shanghai"));
    assert_eq!((exchange.listen.to_string().as_str(), exchange.trace.as_secs()), ("127.0.0.1:9000", 90 * 86_400));
    assert_eq!((exchange.budgets.batch, exchange.budgets.linger), (8 << 20, Duration::from_millis(20)));
    let properties = [("sasl.password", "test-only"), ("security.protocol", "sasl_ssl")];
    let log = KafkaConfig {
        cluster: KafkaCluster {
            brokers: vec!["kafka-1:9092".into(), "kafka-2:9092".into()],
            replication_factor: 2,
            properties: properties.map(|(key, value)| (key.to_owned(), secret(value))).into(),
        },
        state_path: root.join("data/state"),
    };
    assert_eq!(exchange.log, LogConfig::Kafka(log));
    let registry = exchange.registry.as_ref().unwrap();
    assert_eq!((registry.url.as_str(), registry.user.as_deref()), ("https://registry.example/apis/ccompat/v7", Some("guitong")));

    let licensing = &directory.systems["licensing"];
    assert_eq!((licensing.department.as_str(), licensing.complete), ("market", false));
    let source = PostgresConfig {
        exchange: "nanning".into(),
        url: secret("postgres://reader:test-only@db.example:5433/licensing?sslmode=require"),
        primary_url: None,
        slot: "nanning_licensing".to_owned(),
        publication: "nanning_licensing".to_owned(),
        heartbeat: Duration::from_secs(30),
        on_gap: GapPolicy::Resnapshot,
        origin: Origins::None,
        streaming: false,
        binary: true,
        failover: true,
    };
    assert_eq!(licensing.source, SourceConfig::Postgres(source));
    assert!(licensing.tables[0].matches(&TableName::new("public", "qy_jbxx")));
    assert_eq!(licensing.exclude_columns, [(TableName::new("public", "qy_jbxx"), "frzjhm".to_owned())]);
    assert_eq!(licensing.keys, [(TableName::new("public", "qy_log"), vec!["rq".to_owned(), "xh".to_owned()])]);
    let snapshot = SnapshotConfig {
        enabled: true,
        chunk: 1 << 20,
        rows_per_second: Some(20_000),
        workers: 4,
        window: Some(Window {
            from: jiff::civil::time(22, 0, 0, 0),
            to: jiff::civil::time(6, 0, 0, 0),
            zone: directory.exchange.time_zone.clone(),
        }),
        filters: vec![(TableName::new("public", "qy_jbxx"), "djzt <> '注销'".to_owned())],
    };
    assert_eq!(licensing.snapshot, snapshot);
    assert_eq!(licensing.limits.retained_log, Some(4 << 30));
    let hall = SqliteConfig {
        exchange: "nanning".into(),
        path: root.join("databases/hall.db"),
        poll: Duration::from_millis(250),
        on_gap: GapPolicy::Stop,
    };
    assert_eq!(directory.systems["hall"].source, SourceConfig::Sqlite(hall));
    assert!(directory.systems["hall"].tables[0].matches(&TableName::new("main", "办件")));
}

#[test]
fn a_mapping_becomes_what_it_declares() {
    let root = directories().join("valid");
    let directory = load_with(&root, &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let resource = &directory.resources["enterprise"];
    assert_eq!((resource.code.as_str(), resource.revision), ("3450010102/000017", 3));
    assert_eq!(resource.table, TableName::new("public", "qy_jbxx"));
    assert_eq!(resource.sharing, Sharing::Conditional { condition: "履行职责所需".to_owned() });
    assert_eq!(resource.not_provided["reg_authority_code"], "系统未采集");
    let rules: Vec<String> = resource.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "uscc.division off (开发区代码不在 GB/T 2260)",
            "established:date.form warning (旧系统手工录入)",
            "reg_address_division:division.no_successor error (只收现行区划)",
        ]
    );
    let column = |name: &str| ValueSource::Column(name.to_owned());
    let map = &resource.map;
    assert_eq!((&map["uscc"].value, map["uscc"].at), (&column("tyshxydm"), Place { line: 10, column: 1 }));
    assert_eq!(map["name"].value, column("qymc"));
    let joined = ValueSource::Joined { columns: vec!["xing".into(), "ming".into()], separator: String::new() };
    assert_eq!(map["legal_rep_name"].value, joined);
    assert_eq!(map["reg_capital"].unit, Some(UnitSource::Fixed(Unit::Yuan)));
    assert_eq!(map["currency"].value, ValueSource::Constant("156".to_owned()));
    assert_eq!(map["established"].formats, ["yyyyMMdd", "yyyy-MM-dd"]);
    assert!(map["term_to"].open_end);
    let status = &map["status"];
    assert_eq!((status.codes["在营"].as_str(), status.codes["吊销"].as_str()), ("1", "3"));
    assert_eq!((&status.other, status.default.as_deref()), (&Some(Other::Value("9".into())), Some("在营")));
    assert_eq!(map["industry"].edition.as_deref(), Some("2011"));
    assert_eq!(map["reg_address"].value, ValueSource::Cel("row.sheng + row['市']".to_owned()));
    let subscription = &directory.subscriptions["credit-enterprise"];
    assert!(subscription.unchanged && resource.publish_unchanged);
    assert_eq!((subscription.subscriber.as_str(), subscription.resource.as_str()), ("credit-office", "enterprise"));
    assert_eq!(subscription.fields, ["uscc", "name", "legal_rep_name", "status"]);
    assert_eq!(subscription.masks, BTreeMap::from([("legal_rep_name".to_owned(), Mask::Name)]));
    let (url, schema, table) = (Secret::new(URL.1.to_owned()), "shared".to_owned(), "enterprise".to_owned());
    assert_eq!(subscription.sink, SinkConfig::Postgres { url, schema, table });
    let sink = SinkConfig::Sqlite { path: root.join("sinks/local.db"), table: "统计".to_owned() };
    assert_eq!(directory.subscriptions["local"].sink, sink);
}

#[test]
fn the_environment_overrides_the_exchange_file() {
    let root = directories().join("valid");
    let overrides = [
        URL,
        ("GUITONG_LISTEN", "0.0.0.0:80"),
        ("GUITONG_ALLOW_REMOTE", "true"),
        ("GUITONG_LOG__KIND", "embedded"),
        ("GUITONG_LOG__PATH", "/var/lib/guitong/log.db"),
        ("GUITONG_TRACE_DAYS", "7"),
    ];
    let loaded = load_with(&root, &overrides, CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(loaded.exchange.listen.to_string(), "0.0.0.0:80");
    assert_eq!(loaded.exchange.log, LogConfig::Embedded { path: "/var/lib/guitong/log.db".into() });
    assert_eq!(loaded.exchange.trace.as_secs(), 7 * 86_400);

    let without = changed(&[
        ("exchange.toml", "kind = \"kafka\"\nbrokers = [\"kafka-1:9092\", \"kafka-2:9092\"]", "path = \"log.db\""),
        ("exchange.toml", "replication_factor = 2\n", ""),
        (
            "exchange.toml",
            "[log.properties]\n\"security.protocol\" = \"sasl_ssl\"\n\"sasl.password\" = \"${file:kafka-password}\"\n",
            "",
        ),
        ("exchange.toml", "[registry]\nurl = \"https://registry.example/apis/ccompat/v7/\"\nuser = \"guitong\"\n", "[other]\n"),
        ("exchange.toml", "[other]\npassword = \"${file:kafka-password}\"\n", ""),
    ]);
    let kafka = [
        URL,
        ("GUITONG_LOG__KIND", "kafka"),
        ("GUITONG_LOG__BROKERS", "kafka-1:9092, kafka-2:9092"),
        ("GUITONG_REGISTRY__URL", "http://registry:8080/apis/ccompat/v7"),
    ];
    let loaded = load_with(without.path(), &kafka, CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let LogConfig::Kafka(log) = loaded.exchange.log else { panic!("not Kafka") };
    let cluster = log.cluster;
    assert_eq!((cluster.brokers, cluster.replication_factor), (vec!["kafka-1:9092".to_owned(), "kafka-2:9092".to_owned()], 3));
    assert_eq!(loaded.exchange.registry.map(|registry| registry.url).as_deref(), Some("http://registry:8080/apis/ccompat/v7"));
    let embedded = load_with(without.path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert_eq!(embedded.exchange.registry, None);

    let wrong = [URL, ("GUITONG_LISTEN", "everywhere"), ("GUITONG_TRACE_DAYS", "0")];
    let problems = load_with(&root, &wrong, CHECK).unwrap_err();
    let files: Vec<&str> = problems.list.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(files, ["environment variable GUITONG_LISTEN", "environment variable GUITONG_TRACE_DAYS"]);
}

#[test]
fn an_ended_approval_is_an_error_of_the_check_and_stops_nothing_else() {
    let ended = changed(&[("subscriptions/local.toml", "2027-12-31", "2026-11-22")]);
    let problems = load_with(ended.path(), &[URL], CHECK).unwrap_err();
    assert_eq!(problems.list.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["approval-expired"]);
    let directory = load_with(ended.path(), &[URL], Purpose::Run).unwrap();
    assert_eq!(directory.subscriptions.len(), 2);
    assert_eq!(directory.lapsed.iter().map(|problem| problem.file.as_str()).collect::<Vec<_>>(), ["subscriptions/local.toml"]);
}

#[test]
fn a_standby_that_decodes_has_its_primary_named() {
    let with = |more: &str| changed(&[("systems/licensing.toml", "failover = true\n", more)]);
    let primary = "primary_url = \"${env:CREDIT_URL}\"\n";
    let directory =
        load_with(with(primary).path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let SourceConfig::Postgres(source) = &directory.systems["licensing"].source else { panic!("not PostgreSQL") };
    assert_eq!(source.primary_url.as_ref().map(|url| url.reveal().to_owned()).as_deref(), Some(URL.1));
    let both = load_with(with(&format!("failover = true\n{primary}")).path(), &[URL], CHECK).unwrap_err();
    assert_eq!(both.list.len(), 1);
    assert!(both.render(false).contains("a slot on a standby cannot be copied to standbys"), "{}", both.render(false));
    let broken = load_with(with("primary_url = \"mysql://reader:hunter2@db\"\n").path(), &[URL], CHECK).unwrap_err();
    assert!(!broken.render(false).contains("hunter2"), "{}", broken.render(false));
}

#[test]
fn unset_secrets_pass_only_where_they_may() {
    let root = directories().join("valid");
    let problems = load_with(&root, &[], CHECK).unwrap_err();
    assert_eq!(problems.list.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["unset-secret"]);
    assert!(load_with(&root, &[], Purpose::Run).is_err());
    assert!(load_with(&root, &[], Purpose::Check { unset_secrets: true }).is_ok());
}

#[test]
fn what_depends_on_a_broken_file_is_not_reported_as_well() {
    assert_eq!(codes(&[("systems/licensing.toml", "title = ", "title ")]), ["syntax"]);
    assert_eq!(codes(&[("resources/enterprise.toml", "LegalEntity", "LegalEntitty")]), ["unknown-entity"]);
    assert_eq!(codes(&[("departments/market.toml", "title", "titel")]), ["missing-key", "unknown-key"]);
    assert_eq!(codes(&[("exchange.toml", "nanning", "南宁")]), ["bad-value"]);
}

#[test]
fn the_revision_is_that_of_what_the_files_say() {
    let revision = |changes: &[(&str, &str, &str)]| {
        let directory = changed(changes);
        load_with(directory.path(), &[URL], CHECK)
            .map(|directory| directory.revision)
            .unwrap_or_else(|it| panic!("{}", it.render(false)))
    };
    let first = revision(&[]);
    assert_eq!(first.to_string().len(), 64);
    assert_eq!(revision(&[("exchange.toml", "trace_days = 90", "trace_days   = 0x5A # days")]), first);
    for change in [
        ("resources/enterprise.toml", "term_to", "term_from"),
        ("resources/enterprise.toml", "\"xing\", \"ming\"", "\"ming\", \"xing\""),
        ("resources/enterprise.toml", "revision = 3", "revision = 4"),
        ("systems/licensing.toml", "complete = false", "complete = true"),
        ("subscriptions/local.toml", "2027-12-31", "2027-12-30"),
    ] {
        assert_ne!(revision(&[change]), first, "{change:?}");
    }
}

#[test]
fn a_topic_has_a_name_that_kafka_takes() {
    let long = "企业".repeat(25);
    let change = [("resources/enterprise.toml", "qy_jbxx", long.as_str()), ("systems/licensing.toml", "\"qy_*\"", "\"*\"")];
    assert_eq!(codes(&change), ["topic-too-long"]);
}

#[test]
fn events_have_the_form_that_is_declared() {
    let with = |options: &str| {
        changed(&[
            ("systems/licensing.toml", "complete = false\n", "complete = false\nnames = \"debezium\"\ntruncate = \"event\"\n"),
            ("systems/licensing.toml", "[snapshot]", &format!("[debezium]\n{options}\n[snapshot]")),
        ])
    };
    let options = "topic.prefix = \"gx\"\ndecimal.handling.mode = \"string\"\ntombstones.on.delete = false\n";
    let directory =
        load_with(with(options).path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let form = EventForm {
        topic_prefix: Some("gx".to_owned()),
        names: Names::Debezium,
        truncates: Truncates::Event,
        decimals: Decimals::String,
        tombstones: false,
        ..EventForm::DEFAULT
    };
    assert_eq!(directory.systems["licensing"].form, form);
    let resource = &directory.resources["enterprise"];
    assert_eq!((resource.raw_topic.as_str(), resource.names), ("gx.public.qy_jbxx", Names::Debezium));
    assert_eq!(directory.systems["hall"].form, EventForm::DEFAULT);

    let codes = |options: &str| {
        let problems = load_with(with(options).path(), &[URL], CHECK).unwrap_err();
        problems.list.iter().map(|problem| (problem.code, problem.message.clone())).collect::<Vec<_>>()
    };
    let unknown = codes("decimal.handling.mod = \"string\"");
    assert_eq!(unknown, [("unknown-key", "unknown key `mod` in `debezium.decimal.handling`".to_owned())]);
    let wrong = codes("time.precision.mode = \"nanoseconds\"");
    assert_eq!(wrong, [("bad-value", "`debezium.time.precision.mode` cannot be `nanoseconds`".to_owned())]);
    for prefix in ["std", "a..b", "企业", ""] {
        assert_eq!(codes(&format!("topic.prefix = \"{prefix}\""))[0].0, "bad-value", "{prefix}");
    }

    let shared = with("topic.prefix = \"gx.a\"");
    let hall = shared.path().join("systems/hall.toml");
    let text = fs::read_to_string(&hall).unwrap();
    fs::write(&hall, format!("{text}\n[debezium]\ntopic.prefix = \"gx\"\n")).unwrap();
    let problems = load_with(shared.path(), &[URL], CHECK).unwrap_err();
    assert_eq!(problems.list.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["duplicate"]);
}

/// With `options` under `[debezium]` of the system that no resource is read from.
fn with_debezium(options: &str) -> tempfile::TempDir {
    let directory = changed(&[]);
    let hall = directory.path().join("systems/hall.toml");
    let text = fs::read_to_string(&hall).unwrap();
    fs::write(&hall, format!("{text}\n[debezium]\n{options}\n")).unwrap();
    directory
}

#[test]
fn events_can_be_json_or_rows_without_envelopes() {
    const TRANSFORM: &str = "transforms.unwrap.type = \"io.debezium.transforms.ExtractNewRecordState\"\n";
    let form = |options: &str| {
        let directory = load_with(with_debezium(options).path(), &[URL], CHECK);
        directory.unwrap_or_else(|problems| panic!("{}", problems.render(false))).systems["hall"].form.clone()
    };
    let json = form("key.converter = \"json\"\nvalue.converter = \"json\"");
    assert_eq!(json, EventForm { converter: Converter::Json, ..EventForm::DEFAULT });
    let mode = |mode: &str| format!("{TRANSFORM}transforms.unwrap.delete.tombstone.handling.mode = \"{mode}\"\n");
    let unwrapped = form(&(mode("rewrite") + "transforms.unwrap.add.fields = \"op, table,source.ts_ms\""));
    let added = [
        ("__op", Metadata::Operation),
        ("__table", Metadata::Source(SourceField::Table)),
        ("__source_ts_ms", Metadata::Source(SourceField::TsMs)),
    ];
    let added = added.map(|(name, of)| AddedField { name: name.to_owned(), of }).to_vec();
    assert_eq!(unwrapped.unwrap, Some(Unwrap { deletes: UnwrappedDeletes::Rewrite, added }));
    for (options, leaves) in [
        ("", DeleteLeaves::EventAndTombstone),
        ("tombstones.on.delete = false", DeleteLeaves::Event),
        (&mode("rewrite"), DeleteLeaves::Event),
        (&mode("rewrite-with-tombstone"), DeleteLeaves::EventAndTombstone),
        (&mode("tombstone"), DeleteLeaves::Tombstone),
    ] {
        assert_eq!(form(options).delete_leaves(), leaves, "{options}");
    }

    let problem = |options: &str| {
        let problems = load_with(with_debezium(options).path(), &[URL], CHECK).unwrap_err();
        let [problem] = &problems.list[..] else { panic!("{}", problems.render(false)) };
        format!("{}: {}", problem.code, problem.message)
    };
    for (options, wanted) in [
        ("value.converter = \"json\"".to_owned(), "bad-value: keys and values would be written by different converters"),
        ("transforms = {}".to_owned(), "missing-key: `debezium.transforms.unwrap` is missing"),
        (TRANSFORM.to_owned(), "missing-key: `debezium.transforms.unwrap.delete.tombstone.handling.mode` is missing"),
        (mode("drop"), "bad-value: `debezium.transforms.unwrap.delete.tombstone.handling.mode` cannot be `drop`"),
        (
            mode("tombstone") + "tombstones.on.delete = false",
            "bad-value: deletes would leave nothing: `transforms.unwrap` leaves a tombstone alone, and `tombstones.on.delete` takes it",
        ),
        (
            mode("rewrite") + "transforms.unwrap.add.fields = \"op,source.pos\"",
            "bad-value: `add.fields` cannot name `source.pos`",
        ),
        (mode("rewrite") + "transforms.unwrap.add.fields = \"op,op\"", "duplicate: `add.fields` would add `__op` twice"),
        (mode("rewrite") + "transforms.unwrap.add.fields = \"lsn\"", "bad-value: `add.fields` cannot name `lsn`"),
    ] {
        assert_eq!(problem(&options), wanted, "{options}");
    }
}

#[test]
fn messages_are_outbox_events_where_a_system_says_so() {
    let with = |outbox: &str| changed(&[("systems/licensing.toml", "[snapshot]", &format!("[outbox]\n{outbox}\n[snapshot]"))]);
    let form = |outbox: &str| {
        let directory = load_with(with(outbox).path(), &[URL], CHECK);
        directory.unwrap_or_else(|problems| panic!("{}", problems.render(false))).systems["licensing"].form.clone()
    };
    for (outbox, taken, left) in [
        ("prefix = \"outbox\"", vec!["outbox"], vec!["outbox2", "outbo", ""]),
        ("prefix = \"outbox*\"", vec!["outbox", "outbox.order"], vec!["outbo", "an outbox"]),
        ("prefix = \"*\"", vec!["", "any"], vec![]),
    ] {
        let outbox = form(outbox).outbox.unwrap();
        assert!(taken.iter().all(|prefix| outbox.takes(prefix)), "{outbox:?}");
        assert!(!left.iter().any(|prefix| outbox.takes(prefix)), "{outbox:?}");
    }

    let problem = |directory: tempfile::TempDir| {
        let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
        let [problem] = &problems.list[..] else { panic!("{}", problems.render(false)) };
        let place = problem.excerpt.as_ref().map(|excerpt| excerpt.line.clone()).unwrap_or_default();
        format!("{place}: {}: {}", problem.code, problem.message)
    };
    let prefix = "must be the prefix of messages as `outbox`, or `outbox*` for all that begin so";
    for (outbox, wanted) in [
        ("", "[outbox]: missing-key: `outbox.prefix` is missing".to_owned()),
        ("prefix = \"\"", format!("prefix = \"\": bad-value: `outbox.prefix` {prefix}")),
        ("prefix = \"a*b\"", format!("prefix = \"a*b\": bad-value: `outbox.prefix` {prefix}")),
        ("prefix = \"a\"\nsubject = \"b\"", "subject = \"***\": unknown-key: unknown key `subject` in `outbox`".to_owned()),
    ] {
        assert_eq!(problem(with(outbox)), wanted);
    }
    let hall = changed(&[("systems/hall.toml", "[snapshot]", "[outbox]\nprefix = \"outbox\"\n[snapshot]")]);
    let wanted = "[outbox]: unknown-key: only a PostgreSQL database has messages that can be outbox events";
    assert_eq!(problem(hall), wanted);
}

#[test]
fn no_resource_is_read_from_events_that_are_not_envelopes_in_avro() {
    let unwrap = "transforms.unwrap = { type = \"io.debezium.transforms.ExtractNewRecordState\", delete.tombstone.handling.mode = \"rewrite\" }";
    let json = "key.converter = \"json\"\nvalue.converter = \"json\"";
    for (options, what) in [(unwrap, "rows without their envelopes (`transforms.unwrap`)"), (json, "JSON (`value.converter`)")] {
        let options = format!("[debezium]\n{options}\n[snapshot]");
        let directory = changed(&[("systems/licensing.toml", "[snapshot]", &options)]);
        let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
        let problem = problems.list.iter().find(|problem| problem.file == "resources/enterprise.toml").unwrap();
        assert_eq!((problem.code, problem.excerpt.as_ref().map(|excerpt| excerpt.place.line)), ("unreadable-events", Some(3)));
        assert_eq!(problem.message, format!("the events of system licensing are {what}, from which no resource can be read"));
        let help = "take that option out of systems/licensing.toml, or tail the table once more in a system of its own, which has its own slot";
        assert_eq!(problem.help.as_deref(), Some(help));
    }
    let event = changed(&[
        ("systems/licensing.toml", "complete = false\n", "complete = false\ntruncate = \"event\"\n"),
        ("systems/licensing.toml", "[snapshot]", &format!("[debezium]\n{unwrap}\n[snapshot]")),
    ]);
    let problems = load_with(event.path(), &[URL], CHECK).unwrap_err();
    let of_system: Vec<&str> = problems
        .list
        .iter()
        .filter(|problem| problem.file == "systems/licensing.toml")
        .map(|problem| &*problem.message)
        .collect();
    assert_eq!(of_system, ["an unwrapped event is a row, which a truncate has not"]);
}

#[test]
fn unreadable_files_are_named() {
    let directory = changed(&[]);
    fs::write(directory.path().join("systems/large.toml"), "#".repeat(2 << 20)).unwrap();
    fs::write(directory.path().join("systems/gbk.toml"), b"title = \"\xc6\xf3\xd2\xb5\"\n").unwrap();
    let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
    let found: Vec<_> = problems.list.iter().map(|problem| (problem.code, problem.file.as_str())).collect();
    assert_eq!(found, [("not-utf8", "systems/gbk.toml"), ("too-large", "systems/large.toml")]);
    let problems = load_with(&directory.path().join("nowhere"), &[], CHECK).unwrap_err();
    assert_eq!(problems.list[0].code, "no-directory");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(load_with(empty.path(), &[], CHECK).unwrap_err().list[0].code, "no-exchange");
}
