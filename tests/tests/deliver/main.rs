//! Delivery from the embedded log to real databases.

// Helpers beside the tests may fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod audit;
mod commands;
mod contract;
mod crashes;
mod dropped;
mod faults;
mod faulty;
mod files;
mod fixture;
mod foreign;
mod full;
mod holders;
mod kafka;
mod kept;
mod laggard;
mod marked;
mod mysql;
mod pull;
mod purge;
mod regrant;
mod replay;
mod scenarios;
mod shared;
mod staged;
mod stores;
mod tls;
mod topics;
mod verify;
mod watched;
mod webhook;
mod webhook_trust;

use guitong_deliver::Phase;
use guitong_tests::servers::postgres::Stop;

use crate::fixture::{Bench, Target, names};

macro_rules! on_every_sink {
    (tables: $($of_tables:ident)+; all: $($name:ident)+) => {
        on_every_sink! { $($of_tables)+ $($name)+ }

        mod jsonl {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::files(&bench, crate::dropped::JSON).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod topic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::kafka().await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod gb18030 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::files(&bench, crate::dropped::GB18030).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod avro {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::files(&bench, guitong_schemas::contract::files::FileFormat::Avro).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod objects {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::objects(&bench, crate::dropped::JSON).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod parquet {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::files(&bench, guitong_schemas::contract::files::FileFormat::Parquet).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }
    };
    ($($name:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::sqlite(&bench).await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::postgres().await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }

        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = crate::fixture::Bench::new().await;
                let target = crate::fixture::Target::mariadb().await;
                crate::scenarios::$name(bench, &target).await;
            })+
        }
    };
}

on_every_sink! {
tables:
    a_new_table_of_divisions_masks_addresses_anew
    a_table_of_the_wrong_shape_stops_only_its_subscription
    of_many_that_open_one_database_each_is_taken_over_for_itself
    a_stop_leaves_no_audit_entry_behind
    a_record_the_sink_refuses_is_set_aside
    soft_deletes_keep_what_was_granted_to_the_last
    a_row_that_leaves_the_grant_leaves_its_key_alone
    a_changed_grant_clears_rows_that_are_gone
    a_delete_that_a_refill_meets_keeps_nothing_of_an_earlier_grant
    soft_deletes_need_columns_that_may_be_null
    a_history_holds_every_version_once_and_in_order
    random_faults_double_no_version
    a_narrower_grant_rewrites_the_history
    a_table_of_the_historys_name_is_left_alone
    a_column_of_another_type_waits_where_it_is_told_to
    a_column_that_comes_back_is_of_the_type_that_it_has_then
    what_is_kept_is_not_taken_for_what_is_granted
    a_departments_own_table_gets_its_columns_and_no_other
    a_narrower_grant_takes_from_a_departments_own_table
    a_column_map_that_does_not_fit_is_told_at_start
    crashes_double_nothing_in_a_departments_own_table
    a_server_never_hears_of_a_row_that_was_never_granted
    a_delete_arrives_whatever_is_noted_of_its_row
    the_list_of_rows_that_were_sent_last_is_sealed
    a_row_that_goes_at_once_is_noted_to_be_gone
    a_repair_keeps_the_list_of_rows_that_were_sent_last
    random_faults_lose_no_delete
    rows_that_somebody_changed_are_found_and_put_right
    rows_that_are_known_by_a_hash_are_compared
    rows_of_the_subscribers_own_are_left_alone
    what_is_being_delivered_is_not_reported
    random_values_of_every_kind_are_digested_as_they_are_here
    a_replay_doubles_nothing_and_obeys_what_is_granted_now
    a_replay_goes_on_after_a_crash
    what_was_delivered_is_taken_back_once_the_approval_ended;
all:
    a_new_subscription_gets_the_whole_state_and_what_follows
    older_records_undo_nothing
    a_delete_leaves_no_trace_with_those_who_never_held_the_row
    crashes_anywhere_neither_lose_nor_double
    an_older_holder_writes_nothing
    calls_that_are_dropped_leave_connections_for_others
    a_batch_is_taken_only_where_the_sink_stands_and_from_its_holder
    an_audit_entry_that_did_not_reach_the_log_is_completed
    a_row_follows_the_condition
    nothing_is_delivered_after_the_approval_ends
    a_changed_grant_takes_away_before_anything_new
    another_log_is_a_gap_that_a_refill_closes
    who_was_away_for_longer_than_deletes_are_kept_is_filled_anew
    a_refill_that_stood_still_for_as_long_begins_anew
    what_changes_nothing_is_delivered_only_where_it_is_asked_for
}

/// A sink that goes away is tried again and again, stops nobody else, and goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_goes_away_stops_only_itself_and_goes_on() {
    let mut bench = Bench::new().await;
    let (server, file) = (Target::postgres().await, Target::sqlite(&bench).await);
    let down = bench.subscription("down", server.config("t"), &["uscc", "name"]);
    let other = bench.subscription("other", file.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let (mut delivering, mut unharmed) = (bench.start(&down), bench.start(&other));
    bench.caught_up(&mut delivering).await;
    server.server().stop(Stop::Immediate).await.unwrap();
    bench.append(vec![bench.named("B", "乙", 2), bench.delete("A", 3)]).await;
    delivering.reaches(|status| matches!(status.phase, Phase::Retrying { .. })).await;
    bench.caught_up(&mut unharmed).await;
    assert_eq!(file.names("t").await, names(&[("B", "乙")]));
    server.server().start_again().await.unwrap();
    bench.caught_up(&mut delivering).await;
    assert_eq!(server.names("t").await, names(&[("B", "乙")]));
    delivering.stop().await.unwrap();
    unharmed.stop().await.unwrap();
}

/// The table that the exchange makes says in Chinese what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_table_is_typed_keyed_and_commented() {
    let bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("企业"), &["uscc", "name", "reg_capital", "established"]);
    bench.deliver(&subscription).await;
    let columns =
        "SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || coalesce(col_description(attrelid, attnum), '')
        FROM pg_attribute WHERE attrelid = 'shared.\"企业\"'::regclass AND attnum > 0 ORDER BY attnum";
    let expected = [
        "uscc text 统一社会信用代码",
        "name text 机构名称",
        "reg_capital numeric(24,6) 注册资本",
        "established date 成立日期",
        "guitong_version bytea ",
        "guitong_epoch bigint ",
    ];
    assert_eq!(target.texts(columns).await, expected);
    assert_eq!(target.texts("SELECT obj_description('shared.\"企业\"'::regclass)").await, ["企业登记基本信息"]);
    let key =
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = 'shared.\"企业\"'::regclass";
    assert_eq!(target.texts(key).await, ["PRIMARY KEY (uscc)"]);
}
