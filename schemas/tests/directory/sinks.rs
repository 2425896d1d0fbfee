//! What a subscription says of its sink.

use std::collections::BTreeMap;
use std::time::Duration;

use guitong_schemas::contract::files::{Addressing, Bucket, Close, Csv, Encoding, FileFormat, Formulas, Header, Place};
use guitong_schemas::contract::kafka::TopicFormat;
use guitong_schemas::contract::webhook::Mode;
use guitong_schemas::contract::{Deletes, RegistryConfig, SinkConfig, SinkTable, Webhook};

use super::*;

#[test]
fn a_sink_is_nobody_elses_table() {
    let own = ("subscriptions/local.toml", "table = \"统计\"", "table = \"办件\"");
    let source = [
        own,
        ("subscriptions/local.toml", "sinks/local.db", "databases/hall.db"),
        ("resources/enterprise.toml", "system = \"licensing\"", "system = \"hall\""),
        ("resources/enterprise.toml", "qy_jbxx", "办件"),
    ];
    assert_eq!(codes(&source), ["sink-is-source"]);
    assert_eq!(codes(&[own]), [""; 0]);
    // The same database under another user, with the default port written out.
    let taken = "sink = { kind = \"postgres\", url = \"postgresql://other:geheim@DB.example:5432/credit\", table = \"shared.enterprise\" }";
    let sink = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    assert_eq!(codes(&[("subscriptions/local.toml", sink, taken)]), ["sink-taken"]);
}

#[test]
fn files_have_one_of_four_formats_and_are_closed_in_time() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |rest: &str| format!("sink = {{ kind = \"files\", path = \"drop\"{rest} }}");
    let read = |rest: &str| {
        let directory = changed(&[("subscriptions/local.toml", sqlite, &of(rest))]);
        let root = directory.path().to_owned();
        let loaded = load_with(&root, &[URL], CHECK).unwrap();
        let SinkConfig::Files(files) = loaded.subscriptions["local"].sink.clone() else { panic!("files") };
        assert_eq!(files.place, Place::Folder(root.join("drop")));
        (*files, root)
    };
    let (files, root) = read(", format = \"csv\"");
    let csv = Csv { encoding: Encoding::Utf8Marked, header: Header::Titles, formulas: Formulas::Escaped };
    assert_eq!((files.format, files.state), (FileFormat::Csv(csv), root.join("drop/.guitong")));
    assert_eq!(files.close, Close { size: 64 << 20, after: Duration::from_secs(300), daily: false });
    let (files, _) = read(", format = \"jsonl\", close = { size = \"1 MiB\", daily = true }");
    assert_eq!(files.format, FileFormat::JsonLines);
    assert_eq!(files.close, Close { size: 1 << 20, after: Duration::from_secs(86_400), daily: true });
    for (name, format) in [("avro", FileFormat::Avro), ("parquet", FileFormat::Parquet)] {
        assert_eq!(read(&format!(", format = \"{name}\"")).0.format, format);
    }
    for (rest, code) in [
        ("", "missing-key"),
        (", format = \"parquet\", header = \"names\"", "csv-only"),
        (", format = \"jsonl\", encoding = \"gb18030\"", "csv-only"),
        (", format = \"csv\", encoding = \"gbk\"", "bad-value"),
        (", format = \"csv\", close = { size = \"1 KiB\" }", "bad-value"),
    ] {
        let problems = codes(&[("subscriptions/local.toml", sqlite, &of(rest))]);
        assert_eq!(problems.first(), Some(&code), "{rest}: {problems:?}");
    }
}

#[test]
fn objects_are_put_encrypted_or_on_this_machine_and_the_state_lies_elsewhere() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of =
        |more: &str, store: &str| format!("sink = {{ kind = \"files\", format = \"parquet\"{more}, store = {{ {store} }} }}");
    let keys = "access_key_id = \"geheim1\", secret_access_key = \"geheim2\"";
    let (state, bucket) = (", state = \"credit\"", format!("bucket = \"exchange\", {keys}"));
    let right =
        of(state, &format!("endpoint = \"https://OBS.example:9000/\", prefix = \"a/b/\", addressing = \"host\", {bucket}"));
    let directory = changed(&[("subscriptions/local.toml", sqlite, &right)]);
    let directory = load_with(directory.path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let SinkConfig::Files(files) = &directory.subscriptions["local"].sink else { panic!("files") };
    let read = Bucket {
        endpoint: "https://OBS.example:9000".to_owned(),
        region: "us-east-1".to_owned(),
        bucket: "exchange".to_owned(),
        prefix: "a/b".to_owned(),
        addressing: Addressing::Host,
        access_key_id: Secret::new("geheim1".to_owned()),
        secret_access_key: Secret::new("geheim2".to_owned()),
        ca: None,
    };
    assert_eq!((&files.place, &files.state), (&Place::Bucket(read), &directory.root.join("credit")));
    assert!(!format!("{files:?}").contains("geheim"));
    let secure = format!("endpoint = \"https://obs.example\", {bucket}");
    for (more, store, code) in [
        ("", secure.clone(), "missing-key"),
        (", state = \"credit\", path = \"drop\"", secure.clone(), "one-place"),
        (state, bucket.clone(), "missing-key"),
        (state, format!("endpoint = \"http://obs.example\", {bucket}"), "bad-value"),
        (state, format!("endpoint = \"http://127.0.0.1.example\", {bucket}"), "bad-value"),
        (state, format!("endpoint = \"https://u:geheim@obs.example\", {bucket}"), "bad-value"),
        (state, format!("endpoint = \"https://obs.example/exchange\", {bucket}"), "bad-value"),
        (state, format!("endpoint = \"https://obs.example\", bucket = \"Ex\", {keys}"), "bad-value"),
        (state, "endpoint = \"https://obs.example\", bucket = \"exchange\"".to_owned(), "missing-key"),
        (state, format!("{secure}, prefix = \"a//b\""), "bad-value"),
        (state, format!("{secure}, prefix = \"../b\""), "bad-value"),
        (state, format!("{secure}, allow_http = true"), "unknown-key"),
    ] {
        let directory = changed(&[("subscriptions/local.toml", sqlite, &of(more, &store))]);
        let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
        assert_eq!(problems.list.first().map(|problem| problem.code), Some(code), "{store}: {}", problems.render(false));
        assert!(!problems.render(false).contains("geheim"), "{}", problems.render(false));
    }
    for local in ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:9000"] {
        assert_eq!(
            codes(&[("subscriptions/local.toml", sqlite, &of(state, &format!("endpoint = \"{local}\", {bucket}")))]),
            [""; 0]
        );
    }
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/files.md")).unwrap();
    let environment = [URL, ("CREDIT_S3_ID", "geheim"), ("CREDIT_S3_KEY", "geheim")];
    for sample in guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        // Keys that are shown as not given are right too.
        let given = |line: &str| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n";
        let bare: String = sample.lines().map(given).collect();
        for sample in [sample.to_owned(), bare] {
            let directory = changed(&[("subscriptions/local.toml", sqlite, "")]);
            let path = directory.path().join("subscriptions/local.toml");
            fs::write(&path, fs::read_to_string(&path).unwrap() + &sample).unwrap();
            load_with(directory.path(), &environment, CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        }
    }
}

#[test]
fn a_mysql_sink_is_a_table_of_the_database_in_its_address() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |kind: &str, rest: &str| format!("sink = {{ kind = \"{kind}\", {rest} }}");
    let url = "mysql://u:geheim@DB.example/stat";
    let right = of("mariadb", &format!("url = \"{url}\", table = \"统计\""));
    let directory = changed(&[("subscriptions/local.toml", sqlite, &right)]);
    let directory = load_with(directory.path(), &[URL], CHECK).unwrap();
    let sink = SinkConfig::Mysql { url: Secret::new(url.to_owned()), table: "统计".to_owned() };
    assert_eq!(directory.subscriptions["local"].sink, sink);
    for (rest, code) in [
        ("url = \"postgres://u:geheim@h/d\", table = \"t\"", "bad-url"),
        ("url = \"mysql://u:geheim@h/d?ssl-mode=verify-full\", table = \"t\"", "bad-url"),
        ("url = \"mysql://u:geheim@h/d\", table = \"shared.t\"", "bad-value"),
        ("url = \"mysql://u:geheim@h/d\"", "missing-key"),
        ("path = \"a.db\", table = \"t\"", "missing-key"),
    ] {
        let problems = codes(&[("subscriptions/local.toml", sqlite, &of("mysql", rest))]);
        assert_eq!(problems.first(), Some(&code), "{rest}: {problems:?}");
    }
    // One table, once with the usual port written out and in other letters.
    let other = [
        ("subscriptions/local.toml", sqlite, right.as_str()),
        ("subscriptions/credit-enterprise.toml", "kind = \"postgres\"", "kind = \"mysql\""),
        ("subscriptions/credit-enterprise.toml", "${env:CREDIT_URL}", "mysql://v:x@db.example:3306/stat"),
        ("subscriptions/credit-enterprise.toml", "shared.enterprise", "统计"),
    ];
    assert_eq!(codes(&other), ["sink-taken"]);
}

#[test]
fn a_table_keeps_rows_that_are_gone_and_versions_that_are_past() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |rest: &str| format!("sink = {{ kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\"{rest} }}");
    let directory = changed(&[("subscriptions/local.toml", sqlite, &of(", deletes = \"soft\", history = true"))]);
    let directory = load_with(directory.path(), &[URL], CHECK).unwrap();
    let kept = |name: &str| directory.subscriptions[name].table.clone();
    assert_eq!(kept("local"), SinkTable { deletes: Deletes::Soft, history: true, ..SinkTable::default() });
    assert_eq!(kept("credit-enterprise"), SinkTable::default());
    for (rest, code) in [(", deletes = \"never\"", "bad-value"), (", history = \"yes\"", "wrong-type")] {
        assert_eq!(codes(&[("subscriptions/local.toml", sqlite, &of(rest))]), [code], "{rest}");
    }
    // The table of a history is the subscription's too.
    let history = of(", history = true");
    let other = [
        ("subscriptions/local.toml", sqlite, history.as_str()),
        ("subscriptions/credit-enterprise.toml", "kind = \"postgres\"", "kind = \"sqlite\""),
        ("subscriptions/credit-enterprise.toml", "url = \"${env:CREDIT_URL}\"", "path = \"sinks/local.db\""),
        ("subscriptions/credit-enterprise.toml", "shared.enterprise", "统计_history"),
    ];
    assert_eq!(codes(&other), ["sink-taken"]);
    let long = [(
        "subscriptions/credit-enterprise.toml",
        "shared.enterprise\"",
        &*format!("shared.{}\"\nhistory = true", "e".repeat(56)),
    )];
    assert_eq!(codes(&long), ["bad-value"]);
    // Validity is the licence's own, and a field of its entity.
    let fields = [
        ("resources/enterprise.toml", "entity = \"LegalEntity\"", "entity = \"CreditRecord\""),
        ("subscriptions/local.toml", "\"established\"", "\"valid_to\""),
        ("subscriptions/local.toml", sqlite, history.as_str()),
    ];
    assert!(codes(&fields).contains(&"column-taken"));
}

#[test]
fn a_departments_own_table_is_written_by_a_column_map() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |rest: &str| format!("sink = {{ kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\", {rest} }}");
    let directory = changed(&[("subscriptions/local.toml", sqlite, &of("columns = { status = \"djzt\" }"))]);
    let directory = load_with(directory.path(), &[URL], CHECK).unwrap();
    assert_eq!(directory.subscriptions["local"].table.columns, BTreeMap::from([("status".into(), "djzt".into())]));
    for (rest, code) in [
        ("columns = { statu = \"djzt\" }", "not-granted"),
        ("columns = { status = \"Guitong_version\" }", "column-taken"),
        ("columns = { status = \"a\", established = \"A\" }", "duplicate"),
        ("columns = { status = \"established\" }", "duplicate"),
        ("columns = { status = \"djzt\" }, history = true", "own-table"),
        ("columns = { status = 1 }", "wrong-type"),
    ] {
        assert_eq!(codes(&[("subscriptions/local.toml", sqlite, &of(rest))]), [code], "{rest}");
    }
}

#[test]
fn a_webhook_is_called_encrypted_or_within_networks_that_are_named() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |rest: &str| format!("sink = {{ kind = \"webhook\", {rest} }}");
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let right = of(&format!(
        "url = \"https://hall.example/in?t=geheim\", mode = \"batch\", signing_keys = [\"{key}\"], batch = 20, timeout = \"3 s\", \
         allow = [\"10.1.0.0/16\"], ca = \"ca.pem\""
    ));
    let directory = changed(&[("subscriptions/local.toml", sqlite, &right)]);
    let directory = load_with(directory.path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let sink = Webhook {
        url: Secret::new("https://hall.example/in?t=geheim".to_owned()),
        mode: Mode::Batch,
        signing_keys: vec![Secret::new(key.to_owned())],
        batch: 20,
        concurrency: 8,
        timeout: Duration::from_secs(3),
        allow: vec!["10.1.0.0/16".parse().unwrap()],
        ca: Some(directory.root.join("ca.pem")),
        client_certificate: None,
    };
    assert_eq!(directory.subscriptions["local"].sink, SinkConfig::Webhook(Box::new(sink)));
    let keys = format!("signing_keys = [\"{key}\"]");
    for (rest, code) in [
        (format!("url = \"http://hall.example/in\", {keys}"), "in-the-clear"),
        (format!("url = \"https://u:geheim@hall.example/in\", {keys}"), "bad-url"),
        (format!("url = \"ftp://hall.example/in\", {keys}"), "bad-url"),
        ("url = \"https://hall.example/in\"".to_owned(), "missing-key"),
        ("url = \"https://hall.example/in\", signing_keys = []".to_owned(), "empty"),
        ("url = \"https://hall.example/in\", signing_keys = [\"geheim\"]".to_owned(), "bad-value"),
        (format!("url = \"https://hall.example/in\", {keys}, allow = [\"10.1.2.3/16\"]"), "bad-value"),
        (format!("url = \"https://hall.example/in\", {keys}, timeout = \"1 h\""), "bad-value"),
        (format!("url = \"https://hall.example/in\", {keys}, concurrency = 65"), "bad-value"),
        (format!("url = \"https://hall.example/in\", {keys}, batch = 5"), "no-batches"),
        (format!("url = \"https://hall.example/in\", {keys}, table = \"t\""), "unknown-key"),
    ] {
        let directory = changed(&[("subscriptions/local.toml", sqlite, &of(&rest))]);
        let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
        assert_eq!(problems.list.first().map(|problem| problem.code), Some(code), "{rest}: {}", problems.render(false));
        assert!(!problems.render(false).contains("geheim"), "{}", problems.render(false));
    }
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/webhook.md")).unwrap();
    let sample = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let environment = [URL, ("HALL_URL", "https://hall.example/events"), ("HALL_KEY", key)];
    let bare: String = sample.lines().map(|line| line.strip_prefix("# ").unwrap_or(line).to_owned() + "\n").collect();
    for sample in [sample.to_owned(), bare.replace("\"binary\"", "\"batch\"")] {
        let directory = changed(&[("subscriptions/local.toml", sqlite, "")]);
        let path = directory.path().join("subscriptions/local.toml");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &sample).unwrap();
        load_with(directory.path(), &environment, CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    }
    // In the clear where the network is named, and two subscriptions may share an endpoint.
    let clear = of(&format!("url = \"http://10.1.2.3/in\", {keys}, allow = \"10.1.0.0/16\""));
    assert_eq!(codes(&[("subscriptions/local.toml", sqlite, &clear)]), [""; 0]);
}

#[test]
fn a_topic_is_one_subscriptions_and_on_a_cluster_that_is_named_or_the_logs_own() {
    let sqlite = "sink = { kind = \"sqlite\", path = \"sinks/local.db\", table = \"统计\" }";
    let of = |rest: &str| format!("sink = {{ kind = \"kafka\", {rest} }}");
    let read = |rest: &str| {
        let directory = changed(&[("subscriptions/local.toml", sqlite, &of(rest))]);
        let loaded = load_with(directory.path(), &[URL], CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let (LogConfig::Kafka(log), SinkConfig::Kafka(topic)) = (loaded.exchange.log, loaded.subscriptions["local"].sink.clone())
        else {
            panic!("Kafka")
        };
        (log.cluster, *topic)
    };
    let (log, topic) = read("topic = \"local\", format = \"json\"");
    assert_eq!((&topic.cluster, topic.partitions, topic.format), (&log, 1, TopicFormat::Json));
    assert_eq!(topic.topic, "local");
    let (log, topic) = read("topic = \"local\", format = \"avro\", properties = { \"sasl.username\" = \"local\" }");
    let mut properties = log.properties.clone();
    properties.insert("sasl.username".to_owned(), Secret::new("local".to_owned()));
    let cluster = KafkaCluster { properties, ..log };
    assert_eq!((topic.cluster, topic.format), (cluster, TopicFormat::Avro(None)));
    let (_, topic) = read(
        "topic = \"local\", format = \"avro\", brokers = [\"Hall:9092\"], partitions = 6, replication_factor = 1, \
         registry = { url = \"http://hall:8081/\", user = \"u\", password = \"${env:CREDIT_URL}\" }",
    );
    let registry = RegistryConfig {
        url: "http://hall:8081".to_owned(),
        user: Some("u".to_owned()),
        password: Some(Secret::new(URL.1.to_owned())),
    };
    assert_eq!(topic.format, TopicFormat::Avro(Some(registry)));
    let cluster = KafkaCluster { brokers: vec!["Hall:9092".to_owned()], replication_factor: 1, properties: [].into() };
    assert_eq!((topic.cluster, topic.partitions), (cluster, 6));
    let json = "topic = \"local\", format = \"json\"";
    for (rest, code) in [
        ("format = \"json\"".to_owned(), "missing-key"),
        ("topic = \"local\"".to_owned(), "missing-key"),
        ("topic = \"local\", format = \"csv\"".to_owned(), "bad-value"),
        ("topic = \"统计\", format = \"json\"".to_owned(), "bad-value"),
        ("topic = \"std.enterprise\", format = \"json\"".to_owned(), "bad-value"),
        (format!("topic = \"{}\", format = \"json\"", "t".repeat(244)), "bad-value"),
        (format!("{json}, brokers = []"), "empty"),
        (format!("{json}, brokers = [\"hall\"]"), "bad-value"),
        (format!("{json}, properties = {{ \"transactional.id\" = \"geheim\" }}"), "own-property"),
        (format!("{json}, registry = {{ url = \"http://hall:8081\" }}"), "avro-only"),
        (format!("{json}, partitions = 0"), "bad-value"),
        (format!("{json}, table = \"t\""), "unknown-key"),
    ] {
        let directory = changed(&[("subscriptions/local.toml", sqlite, &of(&rest))]);
        let problems = load_with(directory.path(), &[URL], CHECK).unwrap_err();
        assert_eq!(problems.list.first().map(|problem| problem.code), Some(code), "{rest}: {}", problems.render(false));
        assert!(!problems.render(false).contains("geheim"), "{}", problems.render(false));
    }
    // Without a log on Kafka the cluster is named; and one topic is not two subscriptions', whichever broker is named first.
    let own = "kind = \"kafka\"\ntopic = \"local\"\nformat = \"json\"\nbrokers = [\"kafka-2:9092\", \"KAFKA-1:9092\"]";
    let enterprise = fs::read_to_string(changed(&[]).path().join("subscriptions/credit-enterprise.toml")).unwrap();
    let sink = enterprise.split("[sink]\n").nth(1).unwrap();
    for own in [own.to_owned(), own.replace("\"local\"", "\"local.stand\"")] {
        let taken = [("subscriptions/local.toml", sqlite, of(json)), ("subscriptions/credit-enterprise.toml", sink, own)];
        assert_eq!(codes(&taken.each_ref().map(|(file, before, after)| (*file, *before, after.as_str()))), ["sink-taken"]);
    }

    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka.md")).unwrap();
    let sample = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let environment = [URL, ("CREDIT_KAFKA_PASSWORD", "geheim"), ("CREDIT_REGISTRY_PASSWORD", "geheim")];
    let bare: String = sample.lines().map(|line| line.strip_prefix("# ").unwrap_or(line).to_owned() + "\n").collect();
    for sample in [sample.to_owned(), bare] {
        let directory = changed(&[("subscriptions/local.toml", sqlite, "")]);
        let path = directory.path().join("subscriptions/local.toml");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &sample).unwrap();
        load_with(directory.path(), &environment, CHECK).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    }
}
