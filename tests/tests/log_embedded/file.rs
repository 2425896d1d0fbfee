//! Who may open the file and what it must be; backup and restore.

use std::path::Path;

use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{ExchangeLog, LogError, StateChange, StoredOffset};
use sqlx::{Connection, SqliteConnection};

use super::{KEEP, all, at, config, number, numbered, open, owner, spec};

async fn execute(path: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// What the file holds, byte for byte.
fn content(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir).await;
    let refused = EmbeddedLog::open(&config(&dir)).await.unwrap_err();
    assert!(matches!(&refused, LogError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("exchange.log") && !refused.is_transient());
    let refused = EmbeddedLog::restore(&config(&dir).path, &config(&dir).path).await.unwrap_err();
    assert!(matches!(refused, LogError::Locked { .. }), "{refused}");
    first.close().await;
    open(&dir).await.close().await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    // The child opens the log as the killed one does, and dies of the refusal.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(guitong_tests::log_conformance::CHILD, &config(&dir).path)
        .output()
        .unwrap();
    assert!(!child.status.success());
    let said = String::from_utf8_lossy(&child.stderr).into_owned() + &String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("Locked"), "{said}");
    log.close().await;
}

#[tokio::test]
async fn files_of_others_and_of_newer_versions_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(&dir).path;
    execute(&path, "CREATE TABLE qy_jbxx (tyshxydm TEXT PRIMARY KEY)").await;
    let before = content(&path);
    let refused = EmbeddedLog::open(&config(&dir)).await.unwrap_err();
    assert!(matches!(refused, LogError::Foreign { .. }), "{refused}");
    assert_eq!(content(&path), before);

    std::fs::write(&path, "this is no database, and long enough that nobody could take it for an empty one ".repeat(20)).unwrap();
    let before = content(&path);
    let refused = EmbeddedLog::open(&config(&dir)).await.unwrap_err();
    assert!(matches!(refused, LogError::Foreign { .. }), "{refused}");
    assert_eq!(content(&path), before);

    std::fs::remove_file(&path).unwrap();
    open(&dir).await.close().await;
    execute(&path, "PRAGMA user_version = 2").await;
    let before = content(&path);
    let refused = EmbeddedLog::open(&config(&dir)).await.unwrap_err();
    assert!(matches!(refused, LogError::Newer { found: 2, known: 1, .. }), "{refused}");
    assert_eq!(content(&path), before);
}

#[tokio::test]
async fn a_first_start_that_was_interrupted_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(config(&dir).path, "").unwrap();
    open(&dir).await.close().await;
    std::fs::remove_file(config(&dir).path).unwrap();
    execute(&config(&dir).path, "PRAGMA journal_mode = WAL; PRAGMA application_id = 0; CREATE TABLE x (y); DROP TABLE x").await;
    open(&dir).await.close().await;
}

#[tokio::test]
async fn a_holder_whose_append_was_dropped_says_unknown_until_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("a")).await.unwrap();
    {
        let mut append = hold.append(numbered(0, 10));
        assert!(futures::poll!(&mut append).is_pending());
    }
    let unknown = hold.append(numbered(1, 10)).await.unwrap_err();
    assert!(matches!(unknown, guitong_log::AppendError::Unknown(_)), "{unknown:?}");
    let hold = log.open(&owner("a")).await.unwrap();
    let stands = hold.position().is_some();
    assert_eq!(all(&log).await.len(), usize::from(stands));
    log.close().await;
}

/// A backup is the log as it was when it began, while appends go on; a restored log is another log that goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_whole_and_a_restored_log_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("a")).await.unwrap();
    for n in 0..50 {
        let mut batch = numbered(n, 20_000);
        batch.offsets = vec![(at(), n)];
        batch.state = vec![StateChange { map: "m".into(), key: "k".into(), value: Some(n.to_string().into()) }];
        hold.append(batch).await.unwrap();
    }
    let going_on = tokio::spawn(async move {
        for n in 50..200 {
            hold.append(numbered(n, 20_000)).await.unwrap();
        }
    });
    let backup = dir.path().join("backup");
    log.backup(&backup).await.unwrap();
    going_on.await.unwrap();
    assert!(log.backup(&backup).await.unwrap_err().to_string().contains("exists"));
    let old = log.id().clone();
    let end = log.bounds(&at()).await.unwrap().end;
    log.close().await;

    let restored = EmbeddedLog::restore(&backup, &config(&dir).path).await.unwrap();
    let aside = restored.put_aside.unwrap();
    let log = open(&dir).await;
    assert_ne!(log.id(), &old);
    assert_eq!(log.id(), &restored.id);
    let numbers: Vec<_> = all(&log).await.iter().map(number).collect();
    assert!(numbers.len() >= 50, "{}", numbers.len());
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    let mut hold = log.open(&owner("a")).await.unwrap();
    assert_eq!(hold.position().unwrap(), (numbers.len() - 1).to_string());
    assert_eq!(hold.offset(&at()).unwrap(), StoredOffset { log: restored.id, next: 49 });
    assert_eq!(hold.get("m", &["k".into()]).await.unwrap(), [Some("49".into())]);
    let known = StoredOffset { log: old.clone(), next: 3 };
    assert!(matches!(known.within(&log, &at()).await, Err(LogError::Gap { of: Some(of), .. }) if of == old));
    hold.append(numbered(7, 10)).await.unwrap();
    log.close().await;

    let before = EmbeddedLog::open(&EmbeddedConfig { path: aside, max_bytes: None }).await.unwrap();
    assert_eq!((before.id(), before.bounds(&at()).await.unwrap().end), (&old, end));
    before.close().await;

    let target = dir.path().join("new.log");
    for broken in
        ["no database at all, only text that fills some space ".repeat(100).into_bytes(), content(&backup)[..30_000].to_vec()]
    {
        let path = dir.path().join("broken");
        std::fs::write(&path, broken).unwrap();
        assert!(EmbeddedLog::restore(&path, &target).await.is_err());
        assert!(!target.exists());
    }
    assert!(EmbeddedLog::restore(&dir.path().join("absent"), &target).await.is_err());
}
