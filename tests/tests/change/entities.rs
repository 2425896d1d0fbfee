//! An entity gets a new version while its records flow: those of the earlier one stay where they are and are read as of the new one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use guitong_tests::exchange::Exchange;
use guitong_tests::servers::postgres::PASSWORD;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::office::{Office, PATIENCE, command, declare, open, resource, status_where};

const SCHEMA: &str = include_str!("../../../schemas/entities/LegalEntity.avsc");
const KEY: &str = include_str!("../../../schemas/entities/LegalEntity.key.avsc");

/// A field that the built-in entity does not have, in front of one that it has.
const SITE: &str = r#"{"name": "site", "type": ["null", "string"], "default": null, "doc": "Web site.", "title": "网站", "kind": "text:200", "obligation": "optional", "grade": "G0"},
    {"name": "scope""#;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Puts the directory's own form of the built-in entity in its place.
fn replace_entity(exchange: &Exchange, from: &str, to: &str) {
    let schema = SCHEMA.replacen("\"version\": 1", "\"version\": 2", 1).replacen(from, to, 1);
    assert!(schema.contains(to) && schema.contains("\"version\": 2"));
    write(&exchange.path().join("standard/LegalEntity.key.avsc"), KEY);
    write(&exchange.path().join("standard/LegalEntity.avsc"), &schema);
}

/// A second subscriber, on PostgreSQL, whose role may write into one schema and no more.
async fn with_hall(office: &Office) -> PgPool {
    office.server.create_database("hall").await.unwrap();
    office.server.create_role("writer", "").await.unwrap();
    let hall = office.server.admin_of("hall").await.unwrap();
    hall.execute("CREATE SCHEMA shared AUTHORIZATION writer").await.unwrap();
    let path = office.exchange.path();
    write(&path.join("departments/hall.toml"), "title = \"政务服务大厅\"\ncode = \"11450000PDY000052G\"\n");
    grant_hall(office, "\"uscc\", \"name\"");
    hall
}

fn grant_hall(office: &Office, fields: &str) {
    let url = office.server.url_of("writer", PASSWORD, "hall");
    let text = format!(
        "subscriber = \"hall\"\nresource = \"3450010102/000001\"\npurpose = \"办事免填\"\nfields = [{fields}]\n\n\
         [sink]\nkind = \"postgres\"\nurl = \"{url}\"\ntable = \"shared.enterprise\"\n"
    );
    write(&office.exchange.path().join("subscriptions/hall-enterprise.toml"), &text);
}

/// The sites that the hall holds, by company; `None` where its table has no such column.
async fn sites(hall: &PgPool) -> Option<BTreeMap<String, Option<String>>> {
    let rows = sqlx::query("SELECT uscc, site FROM shared.enterprise").fetch_all(hall).await.ok()?;
    Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn sites_are(hall: &PgPool, wanted: &BTreeMap<String, Option<String>>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = sites(hall).await;
        if held.as_ref() == Some(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{held:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The credit office's rows with their versions, and how often its subscription was taken over.
async fn credit(office: &Office) -> (BTreeMap<String, Vec<u8>>, i64) {
    let mut sink = open(&office.exchange, "sink.db").await;
    let rows = sqlx::query("SELECT uscc, guitong_version FROM enterprise").fetch_all(&mut sink).await.unwrap();
    let epoch = sqlx::query_scalar("SELECT epoch FROM guitong_subscriptions").fetch_one(&mut sink).await.unwrap();
    (rows.iter().map(|row| (row.get(0), row.get(1))).collect(), epoch)
}

/// What the department holds: for each company its site, or nothing for those that `known` leaves out.
async fn department(office: &Office, known: &str) -> BTreeMap<String, Option<String>> {
    let sql = format!("SELECT tyshxydm, CASE WHEN {known} THEN wz END FROM qy");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&office.pool).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Waits until the directory as it is now is in force.
async fn in_force(office: &Office) {
    let answer = office.exchange.command(&["check", "--json"]).unwrap();
    let check: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    status_where(&office.exchange, |status| status["revision"] == check["revision"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_a_new_version_reaches_those_who_ask_for_it_and_nobody_else_notices() {
    let office = Office::new("").await;
    office.execute("ALTER TABLE qy ADD COLUMN wz text").await;
    office.execute("UPDATE qy SET wz = 'https://' || bh || '.example' WHERE bh <= 10").await;
    let hall = with_hall(&office).await;
    let node = office.start().await;
    let clerks = office.clerks();
    office.typed(20).await;
    replace_entity(&office.exchange, "{\"name\": \"scope\"", SITE);
    office.typed(20).await;
    node.kill().unwrap();
    let node = office.exchange.start().unwrap();
    in_force(&office).await;
    office.typed(20).await;
    clerks.stop().await;
    office.arrived("jyfw").await;

    // What is as it was is not delivered anew, whichever version it was made by.
    let (before, epoch) = credit(&office).await;
    office.execute("UPDATE qy SET fddbr = fddbr").await;
    office.insert().await;
    office.arrived("jyfw").await;
    let (after, _) = credit(&office).await;
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|(code, version)| after.get(code) == Some(version)), "{before:?} and then {after:?}");

    // Code tables that no entity names restart nothing.
    write(&office.exchange.path().join("standard/kinds.csv"), "code,name\n1,甲\n");
    in_force(&office).await;
    assert_eq!(credit(&office).await.1, epoch);

    // One subscriber asks for the field: its table gets the column, records of the earlier version have nothing in it.
    grant_hall(&office, "\"uscc\", \"name\", \"site\"");
    node.kill().unwrap();
    let node = office.exchange.start().unwrap();
    sites_are(&hall, &department(&office, "false").await).await;
    declare(&office.exchange, &resource("public", "\"jyfw\"\nsite = \"wz\"", ""));
    in_force(&office).await;
    office.execute("UPDATE qy SET qymc = '改名' WHERE bh IN (1, 20)").await;
    sites_are(&hall, &department(&office, "bh = 1").await).await;
    office.arrived("jyfw").await;

    // Made anew, all of them have it; what had none is published once and stays so.
    let (before, _) = credit(&office).await;
    declare(&office.exchange, &resource("public", "\"jyfw\"\nsite = \"wz\"", "revision = 2"));
    node.kill().unwrap();
    let _node = office.exchange.start().unwrap();
    sites_are(&hall, &department(&office, "true").await).await;
    office.insert().await;
    office.arrived("jyfw").await;
    let (after, _) = credit(&office).await;
    let again = before.iter().filter(|(code, version)| after.get(*code) != Some(*version)).count();
    assert_eq!(again, 9, "nine of ten companies with a site had no record that holds it");
    let status = status_where(&office.exchange, |status| status["resources"][0]["state"] == "running").await;
    assert_eq!((&status["resources"][0]["quarantined"], &status["subscriptions"][0]["parked"]), (&0.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_go_with_the_one_in_force_is_refused_and_its_place_named() {
    let office = Office::new("").await;
    let _node = office.start().await;
    let text = "{\"name\": \"scope\", \"type\": [\"null\", \"string\"], \"default\": null, \"doc\": \"Scope of business.\", \"title\": \"经营范围\", \"kind\": \"text:2000\"";
    let number = text.replace("\"string\"", "\"long\"").replace("text:2000", "integer");
    replace_entity(&office.exchange, text, &number);
    let answer = office.exchange.command(&["check"]).unwrap();
    assert_eq!(answer.code, Some(1), "{}{}", answer.out, answer.err);
    let said = format!("{}{}", answer.out, answer.err);
    let line = 1 + SCHEMA.lines().position(|line| line.contains("\"name\": \"scope\"")).unwrap();
    for part in ["incompatible", &format!("standard/LegalEntity.avsc:{line}:"), "fields can be added and left out"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let refused = status_where(&office.exchange, |status| !status["refused_change"].is_null()).await;
    assert!(refused["refused_change"].to_string().contains("incompatible"), "{refused:#}");
    office.insert().await;
    office.arrived("jyfw").await;

    // The same with a field of the region's own entity, whose earlier version only the running exchange knows.
    for file in ["LegalEntity.avsc", "LegalEntity.key.avsc"] {
        std::fs::remove_file(office.exchange.path().join("standard").join(file)).unwrap();
    }
    let permit = |kind: &str, held: &str| {
        format!(
            r#"{{"type": "record", "name": "Permit", "namespace": "cn.guitong.standard", "version": 1, "title": "许可", "doc": "A permit.",
  "fields": [
    {{"name": "no", "type": "string", "title": "编号", "doc": "Number.", "kind": "identifier:30", "obligation": "mandatory", "grade": "G0"}},
    {{"name": "what", "type": ["null", "{held}"], "default": null, "title": "内容", "doc": "What.", "kind": "{kind}", "obligation": "optional", "grade": "G0"}}
  ]}}"#
        )
    };
    let standard = office.exchange.path().join("standard");
    let key = r#"{"type": "record", "name": "PermitKey", "namespace": "cn.guitong.standard", "fields": [{"name": "no", "type": "string"}]}"#;
    write(&standard.join("Permit.key.avsc"), key);
    write(&standard.join("Permit.avsc"), &permit("text:10", "string"));
    in_force(&office).await;
    write(&standard.join("Permit.avsc"), &permit("integer", "long"));
    let refused = status_where(&office.exchange, |status| !status["refused_change"].is_null()).await;
    let why = refused["refused_change"].to_string();
    assert!(why.contains("entity Permit does not go with the one in force"), "{why}");
    command(&office.exchange, &["status"]);
}
