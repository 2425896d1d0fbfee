//! The twelve layouts of departments' tables, and their mappings to the standard.

use std::process::Command;

use guitong_tests::exchange::binary;
use guitong_tests::layouts::{self, Layouts};

#[tokio::test]
async fn the_directory_is_well_and_its_databases_hold_the_example_rows() {
    let layouts = Layouts::build().await.unwrap();
    let checked = Command::new(binary().unwrap()).arg("check").arg(layouts.path()).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let all = layouts::all().unwrap();
    assert!(all.len() >= 14 && all.iter().all(|layout| layout.rows.len() >= 3), "{all:?}");
}
