//! The PostgreSQL source against a real server, published into a real embedded log: only a commit there lets it confirm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

mod postgres_source {
    mod added;
    mod arrays;
    mod binary;
    mod cut;
    mod ddl;
    mod delivered;
    mod failover;
    mod faults;
    mod first_load;
    mod full_disk;
    pub(crate) mod harness;
    mod in_progress;
    mod limits;
    mod load_workers;
    mod logs;
    mod notices;
    mod random_rows;
    mod read_again;
    mod restored;
    mod session;
    mod setup;
    mod standby;
    mod stream;
    mod tls;
    mod too_large;
    mod watch;
}
