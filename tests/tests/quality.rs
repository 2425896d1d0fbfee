//! The figures of `guitong report quality` beside what plain SQL counts in the department's own database.

use std::time::{Duration, Instant};

use guitong_schemas::standard::{Obligation, Standard};
use guitong_tests::exchange::{Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use serde_json::Value;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

const PATIENCE: Duration = Duration::from_secs(60);

const TABLE: &str = "CREATE TABLE qy (bh bigint PRIMARY KEY, tyshxydm varchar(40), qymc varchar(200), fddbr varchar(40), lxdh varchar(20), jyfw text)";

/// Rows that make a record: the others lack a mandatory field, or their credit code has lost its last character.
const GOOD: &str = "length(tyshxydm) = 18 AND qymc IS NOT NULL AND fddbr IS NOT NULL";

enum Department {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Department {
    async fn run(&self, statement: &str) {
        match self {
            Self::Sqlite(pool) => drop(sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(pool).await.unwrap()),
            Self::Postgres(pool) => drop(sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(pool).await.unwrap()),
        }
    }

    async fn count(&self, query: &str) -> u64 {
        let query = sqlx::AssertSqlSafe(format!("SELECT CAST(({query}) AS bigint)"));
        let counted: i64 = match self {
            Self::Sqlite(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
            Self::Postgres(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        };
        counted.try_into().unwrap()
    }

    async fn of_good(&self, what: &str) -> u64 {
        self.count(&format!("SELECT count({what}) FROM qy WHERE {GOOD}")).await
    }
}

/// Forty rows: every fifth has a bad code, every seventh no name; numbers 30 and 31 share the code of number 1; a third has a telephone.
fn rows(from: u32, to: u32) -> String {
    let row = |number: u32| {
        let code = credit_code(if matches!(number, 31 | 32) { 1 } else { number });
        let code = if number.is_multiple_of(5) { &code[..17] } else { &code };
        let or_null = |holds: bool, text: &str| if holds { format!("'{text}'") } else { "NULL".to_owned() };
        let name = or_null(!number.is_multiple_of(7), &format!("测试{number}有限公司"));
        let (phone, scope) = (or_null(number.is_multiple_of(3), "16000000001"), or_null(number.is_multiple_of(2), "测试"));
        format!("({number}, '{code}', {name}, '测甲', {phone}, {scope})")
    };
    let rows: Vec<String> = (from..=to).map(row).collect();
    format!("INSERT INTO qy VALUES {}", rows.join(", "))
}

/// Numerator and denominator of a figure.
fn figure(of: &Value, name: &str) -> (u64, u64) {
    let figure = &of["figures"][name];
    (figure["numerator"].as_u64().unwrap(), figure["denominator"].as_u64().unwrap())
}

async fn figures_are_those_of_sql(exchange: &Exchange, department: &Department) {
    let path = exchange.path().join("resources/enterprise.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{file}phone = \"lxdh\"\nscope = \"jyfw\"\n")).unwrap();
    department.run(&format!("{TABLE}; {}", rows(1, 40))).await;
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{}", prepared.err);
    let _node = exchange.start().unwrap();
    let report = || {
        let answer = exchange.command(&["report", "quality", "--json"]).unwrap();
        serde_json::from_str::<Value>(&answer.out).map(|report| report[0].clone()).unwrap_or_default()
    };
    let settled = async |rows: u64| {
        let deadline = Instant::now() + PATIENCE;
        while report()["now"]["rows"].as_u64() != Some(rows) {
            assert!(Instant::now() < deadline, "{:#}", report());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    settled(40).await;
    // Four rows more, one after another, as a counter types them: each is a change that can be in time or late.
    for number in 41..=44 {
        department.run(&rows(number, number)).await;
    }
    settled(44).await;

    let report = report();
    let (now, total) = (&report["now"], &report["total"]);
    let all = department.count("SELECT count(*) FROM qy").await;
    let good = department.of_good("*").await;
    assert!(good > 20 && good < all, "{good} of {all} rows are good");
    assert_eq!(figure(now, "pass_rate"), (good, all), "{report:#}");
    assert_eq!(figure(total, "arrival_pass_rate"), (good, all));
    let keys = department.of_good("DISTINCT tyshxydm").await;
    let alone = "SELECT count(*) FROM (SELECT tyshxydm FROM qy WHERE GOOD GROUP BY tyshxydm HAVING count(*) = 1) AS alone";
    let alone = department.count(&alone.replace("GOOD", GOOD)).await;
    assert_eq!(keys - alone, 1, "one code is that of three rows");
    assert_eq!(figure(now, "uniqueness"), (alone, keys));
    assert_eq!(figure(total, "timeliness"), (4, department.count("SELECT count(*) FROM qy WHERE bh > 40").await));

    let entity = Standard::builtin().entity("LegalEntity").unwrap();
    let fields = |obligation| entity.fields.iter().filter(|field| field.obligation == obligation).count() as u64;
    let filled = department.of_good("lxdh").await + department.of_good("jyfw").await;
    assert_eq!(figure(total, "complete_optional"), (filled, good * fields(Obligation::Optional)));
    let mandatory = good * fields(Obligation::Mandatory);
    assert_eq!(figure(total, "complete_mandatory"), (mandatory, mandatory), "nothing is good without them");
    // Nothing of `currency` is asked where there is no amount.
    assert_eq!(figure(total, "complete_conditional").0, 0);

    let metrics = exchange.get("/metrics", PATIENCE).await.unwrap();
    let metric = |name: &str, label: &str| {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("no {name} {label}\n{metrics}"))
    };
    assert_eq!(metric("guitong_normalise_rows", "\"good\""), good as f64);
    assert_eq!(metric("guitong_normalise_rows", "\"rejected\""), (all - good) as f64);
    assert_eq!(metric("guitong_normalise_keys", "\"single\""), alone as f64);
    assert_eq!(metric("guitong_normalise_keys", "\"shared\""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_those_of_sql_in_sqlite() {
    let sink = "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned();
    let source = "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned();
    let exchange = Exchange::write(&Layout { source, schema: "main", log: String::new(), sink }).unwrap();
    let options = SqliteConnectOptions::new().filename(exchange.path().join("department.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options.busy_timeout(PATIENCE)).await.unwrap();
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&pool).await.unwrap();
    figures_are_those_of_sql(&exchange, &Department::Sqlite(pool)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_those_of_sql_in_postgresql() {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    let source = format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of(ADMIN, PASSWORD, "department"));
    let sink = "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned();
    let exchange = Exchange::write(&Layout { source, schema: "public", log: String::new(), sink }).unwrap();
    let department = Department::Postgres(server.admin_of("department").await.unwrap());
    figures_are_those_of_sql(&exchange, &department).await;
}
