//! The command line as an engineer meets it: exit codes, texts, and that nothing is started where something is wrong.

use std::path::Path;
use std::process::{Command, Output};

use guitong_tests::exchange::{Exchange, Layout, binary};

fn guitong(arguments: &[&str]) -> Output {
    Command::new(binary().unwrap()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn broken() -> Exchange {
    exchange("slott = \"x\"\n")
}

fn exchange(more: &str) -> Exchange {
    Exchange::write(&Layout {
        source: format!("kind = \"sqlite\"\npath = \"department.db\"\n{more}"),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap()
}

#[test]
fn init_writes_what_check_accepts_and_never_overwrites() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("exchange");
    let dir = dir.to_str().unwrap();
    assert_eq!(guitong(&["init", dir]).status.code(), Some(0));
    let checked = guitong(&["check", dir, "--unset-secrets"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("Nothing was started."));
    let again = guitong(&["init", dir]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("is not empty"), "{}", text(&again.stderr));
}

#[test]
fn check_says_where_a_problem_is_and_run_starts_nothing() {
    let exchange = broken();
    let dir = exchange.path().to_str().unwrap();
    let checked = guitong(&["check", dir]);
    assert_eq!(checked.status.code(), Some(1));
    let problems = text(&checked.stderr);
    assert!(problems.contains("systems/licensing.toml:6:1"), "{problems}");
    assert!(problems.contains("slott"), "{problems}");

    let json = guitong(&["check", dir, "--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json.to_string().contains("slott"), "{json}");

    let run = guitong(&["run", dir]);
    assert_eq!(run.status.code(), Some(2));
    assert!(!Path::new(dir).join("data").exists(), "nothing was started");
}

#[test]
fn commands_that_need_a_node_say_how_to_start_one() {
    let exchange = exchange("");
    let dir = exchange.path().to_str().unwrap();
    let status = guitong(&["status", dir]);
    assert_eq!(status.status.code(), Some(3));
    assert!(text(&status.stderr).contains("guitong run"), "{}", text(&status.stderr));
    let elsewhere = guitong(&["status", "no-such-directory"]);
    assert_eq!(elsewhere.status.code(), Some(2));
    assert_eq!(guitong(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn help_version_and_completions_are_there() {
    for command in [
        "init",
        "check",
        "run",
        "status",
        "quarantine",
        "subscription",
        "report",
        "resource",
        "system",
        "standard",
        "backup",
        "restore",
        "demo",
        "completions",
    ] {
        let help = guitong(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(text(&help.stdout).contains("Usage:"), "{command}");
    }
    assert!(text(&guitong(&["version"]).stdout).starts_with("guitong "));
    assert!(text(&guitong(&["completions", "bash"]).stdout).contains("complete -F"));
}

/// Whoever reads through `head` leaves early: that is no failure. A disk that is full is one.
#[test]
fn an_answer_that_nobody_reads_is_no_failure_and_one_that_cannot_be_written_is() {
    let (exchange, broken) = (exchange(""), broken());
    let (dir, bad) = (exchange.path().to_str().unwrap(), broken.path().to_str().unwrap());
    let unread = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let rows = exchange.path().join("rows.jsonl");
    std::fs::write(&rows, "no row\n").unwrap();
    let rows = rows.to_str().unwrap();
    let commands: [(&[&str], i32); 6] = [
        (&["resource", "try", "enterprise", "--dir", dir, "--input", rows], 1),
        (&["version"], 0),
        (&["completions", "bash"], 0),
        (&["standard", "list"], 0),
        (&["check", bad, "--json"], 1),
        (&["check", bad], 1),
    ];
    for (arguments, code) in commands {
        let mut command = Command::new(binary().unwrap());
        let left = command.args(arguments).stdout(unread()).stderr(unread()).status().unwrap();
        assert_eq!(left.code(), Some(code), "{arguments:?}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let told = Command::new(binary().unwrap()).arg("version").stdout(full).output().unwrap();
    assert_eq!(told.status.code(), Some(3));
    assert!(text(&told.stderr).contains("the answer was not written whole"), "{}", text(&told.stderr));
}
