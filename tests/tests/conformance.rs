//! What we publish is what Debezium 3.6 publishes of the same SQL, but where a rule says what is right instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

use std::path::Path;

use guitong_tests::conformance::{Rule, compare};

/// Compares with one dump; the rules in `wanted` must have applied.
async fn equal(dump: &str, wanted: &[Rule]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/postgres");
    let report = compare(&dir, &dir.join(dump)).await.unwrap();
    assert!(report.differences.is_empty(), "{dump}\n{report}");
    assert!(report.messages > 0);
    for rule in wanted {
        assert!(
            report.applied.0.contains_key(rule),
            "{dump}: {rule:?} did not apply, so what it says is not seen any more\n{report}"
        );
    }
}

#[tokio::test]
async fn the_default_is_equal() {
    let defects = [
        Rule::Partitions,
        Rule::Generated,
        Rule::KeylessTombstone,
        Rule::IdentityKey,
        Rule::NameColumn,
        Rule::SnapshotDisagrees,
        Rule::EnumItems,
        Rule::NullDefault,
    ];
    equal("dump.json", &defects).await;
}

#[tokio::test]
async fn truncates_and_transactions_are_equal() {
    equal("dump_truncate_txmeta.json", &[Rule::TransactionId, Rule::TransactionTables]).await;
}

#[tokio::test]
async fn decimals_as_text_are_equal() {
    equal("dump_decimal_string.json", &[]).await;
}

#[tokio::test]
async fn decimals_as_doubles_are_equal() {
    equal("dump_decimal_double.json", &[]).await;
}

#[tokio::test]
async fn times_of_kafka_connect_are_equal() {
    equal("dump_time_connect.json", &[Rule::SnapshotDisagrees]).await;
}

#[tokio::test]
async fn times_as_text_are_equal() {
    equal("dump_time_isostring.json", &[Rule::SnapshotDisagrees]).await;
}

#[tokio::test]
async fn bytes_intervals_unknown_types_and_placeholders_as_text_are_equal() {
    equal("dump_strings.json", &[Rule::GeometricText]).await;
}

#[tokio::test]
async fn names_for_avro_are_equal() {
    equal("dump_names_avro.json", &[]).await;
}

#[tokio::test]
async fn names_with_their_characters_codes_are_equal() {
    equal("dump_names_avro_unicode.json", &[]).await;
}

#[tokio::test]
async fn rows_without_envelopes_are_equal() {
    let defects = [Rule::Partitions, Rule::IdentityKey, Rule::NameColumn, Rule::SnapshotDisagrees, Rule::NullDefault];
    equal("dump_unwrap.json", &defects).await;
}

#[tokio::test]
async fn json_is_equal() {
    let defects = [
        Rule::Partitions,
        Rule::KeylessTombstone,
        Rule::IdentityKey,
        Rule::NameColumn,
        Rule::SnapshotDisagrees,
        Rule::NullDefault,
    ];
    equal("dump_json.json", &defects).await;
}
