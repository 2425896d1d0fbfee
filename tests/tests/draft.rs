//! `guitong resource draft` on a real PostgreSQL: from a table to a resource file that `guitong check` accepts.

use guitong_tests::exchange::{Answer, Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use serde_json::Value;
use sqlx::postgres::PgPool;

/// Names in Chinese, in pinyin and in English, in both cases; comments; a password; codes that a comment explains.
const TABLE: &str = r#"
CREATE TABLE qy (
    "企业编号" bigint PRIMARY KEY, "统一社会信用代码" varchar(18), "QYMC" varchar(200), legal_person varchar(50), frsfzh varchar(18),
    clrq text, c7 numeric(18,2), zt char(1), zs text, xzqh char(12), "cxPassword" text, gxsj timestamp,
    hzrq timestamp);
COMMENT ON TABLE qy IS '企业登记信息';
COMMENT ON COLUMN qy.c7 IS '注册资本（元）';
COMMENT ON COLUMN qy.frsfzh IS '法定代表人身份证号';
COMMENT ON COLUMN qy.zt IS '登记状态：1存续 2吊销 3注销';
GRANT SELECT ON qy TO reader;
"#;

async fn department() -> (Postgres, PgPool, Exchange) {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    server.create_role("reader", "").await.unwrap();
    let department = server.admin_of("department").await.unwrap();
    sqlx::raw_sql(TABLE).execute(&department).await.unwrap();
    for number in 1..=40_u32 {
        let insert = "INSERT INTO qy VALUES ($1, $2, $3, '韦小明', '450102199001019997', '2017年9月22日', 5000000, $4, '广西南宁市青秀区民族大道1号', \
                      '450103000000', 'geheim', now(), '2017-09-22 08:30:00')";
        let insert =
            sqlx::query(insert).bind(i64::from(number)).bind(credit_code(number)).bind(format!("南宁第{number}有限公司"));
        insert.bind((1 + number % 3).to_string()).execute(&department).await.unwrap();
    }
    let source = format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("reader", PASSWORD, "department"));
    let sink = format!("kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.e\"\n", server.url_of(ADMIN, PASSWORD, "department"));
    let exchange = Exchange::write(&Layout { source, schema: "public", log: String::new(), sink }).unwrap();
    (server, department, exchange)
}

fn draft(exchange: &Exchange, name: &str, arguments: &[&str]) -> Answer {
    let asked = ["resource", "draft", name, "--table", "public.qy", "--entity", "LegalEntity"];
    exchange.command(&[&asked, arguments].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_becomes_a_resource_that_check_accepts() {
    let (mut server, _department, exchange) = department().await;
    let shown = draft(&exchange, "licensing", &["--json"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let lines: Value = serde_json::from_str(&shown.out).unwrap();
    let of = |column: &str| lines.as_array().unwrap().iter().find(|line| line["column"] == column).unwrap().clone();
    for (column, field) in [
        ("统一社会信用代码", "uscc"),
        ("QYMC", "name"),
        ("legal_person", "legal_rep_name"),
        ("frsfzh", "legal_rep_doc_no"),
        ("clrq", "established"),
        ("c7", "reg_capital"),
        ("zt", "status"),
        ("zs", "reg_address"),
        ("xzqh", "reg_address_division"),
    ] {
        assert_eq!(of(column)["field"], field, "{}", of(column));
        assert!(of(column)["confidence"].as_f64().unwrap() > 0.6, "{}", of(column));
    }
    assert_eq!(of("c7")["transform"]["unit"], "元");
    let codes = serde_json::json!({ "1": "1", "2": "3", "3": "4" });
    assert_eq!(of("zt")["transform"]["codes"], codes, "as the comment explains them");
    assert_eq!(
        (&of("hzrq")["field"], &of("hzrq")["transform"]["format"][0]),
        (&"approved".into(), &"yyyy-MM-dd HH:mm:ss".into())
    );
    for column in ["cxPassword", "gxsj", "企业编号"] {
        assert_eq!(of(column)["field"], Value::Null, "{}", of(column));
    }
    assert!(of("cxPassword")["reason"].as_str().unwrap().contains("secret"), "{}", of("cxPassword"));

    let path = exchange.path().join("resources/qy.toml");
    let written = draft(&exchange, "qy", &["--output", path.to_str().unwrap()]);
    assert_eq!(written.code, Some(0), "{}", written.err);
    let file = std::fs::read_to_string(&path).unwrap();
    assert!(file.contains("uscc = \"统一社会信用代码\"  # high 0.99") && file.contains("title = \"企业登记信息\""), "{file}");
    for value in ["450102199001019997", "韦小明", "geheim"] {
        assert!(!file.contains(value) && !shown.out.contains(value), "{value} is in the draft");
    }
    let checked = exchange.command(&["check"]).unwrap();
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let again = draft(&exchange, "qy", &["--output", path.to_str().unwrap()]);
    assert_eq!(again.code, Some(2));
    assert!(again.err.contains("is there already"), "{}", again.err);

    // Without the database a draft is made of what an inspection saved.
    assert_eq!(exchange.command(&["system", "inspect", "licensing"]).unwrap().code, Some(0));
    let checked = exchange.command(&["check"]).unwrap();
    assert!(!checked.err.contains("resources/qy.toml"), "beside what is in the table as well: {}", checked.err);
    server.stop(guitong_tests::servers::postgres::Stop::Fast).await.unwrap();
    let offline = draft(&exchange, "licensing", &["--json"]);
    assert_eq!(offline.code, Some(0), "{}", offline.err);
    assert!(offline.err.contains("drafting from the profile of"), "{}", offline.err);
}

/// A department's tables are drafted one after the other, and finished later.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_is_not_finished_hinders_no_other() {
    let (_server, department, exchange) = department().await;
    sqlx::raw_sql("CREATE TABLE half (bh bigint PRIMARY KEY, mc text); GRANT SELECT ON half TO reader")
        .execute(&department)
        .await
        .unwrap();
    let path = |name: &str| exchange.path().join(format!("resources/{name}.toml"));
    let asked = ["resource", "draft", "half", "--table", "public.half", "--entity", "LegalEntity", "--output"];
    let half = exchange.command(&[&asked[..], &[path("half").to_str().unwrap()]].concat()).unwrap();
    assert_eq!(half.code, Some(0), "{}", half.err);
    let checked = exchange.command(&["check"]).unwrap();
    assert!(checked.code == Some(1) && checked.err.contains("resources/half.toml"), "it lacks most of it: {}", checked.err);

    let next = draft(&exchange, "qy", &["--output", path("qy").to_str().unwrap()]);
    assert_eq!(next.code, Some(0), "{}", next.err);
    let named = "warning: resources/half.toml has problems and is left out; `guitong check` tells them";
    assert_eq!(next.err.matches(named).count(), 1, "{}", next.err);
    let code = |name: &str| {
        let text = std::fs::read_to_string(path(name)).unwrap();
        text.lines().find(|line| line.starts_with("code = ")).unwrap().to_owned()
    };
    assert_ne!(code("half"), code("qy"));
    let inspected = exchange.command(&["system", "inspect", "licensing"]).unwrap();
    assert!(inspected.code == Some(0) && inspected.err.contains(named), "{}", inspected.err);
    // What the draft itself needs has to be right.
    std::fs::write(exchange.path().join("systems/other.toml"), "title = 1\n").unwrap();
    let refused = draft(&exchange, "qy", &["--json"]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("systems/other.toml") && refused.out.is_empty(), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named_with_what_is() {
    let (_server, _department, exchange) = department().await;
    let ask = |arguments: &[&str]| exchange.command(&[&["resource", "draft"], arguments].concat()).unwrap();
    for (arguments, words) in [
        (&["licensing", "--table", "qy", "--entity", "LegalEntitty"][..], "LegalEntity (法人)"),
        (&["licensing", "--table", "qyy", "--entity", "LegalEntity"], "there is no table public.qyy"),
        (&["x", "--system", "nobody", "--table", "qy", "--entity", "LegalEntity"], "systems are: licensing"),
    ] {
        let refused = ask(arguments);
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    assert_eq!(ask(&["licensing"]).code, Some(2), "says what it wants to be told");
}
