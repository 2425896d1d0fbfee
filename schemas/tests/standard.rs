//! The standard against its examples.

use guitong_schemas::standard::{Standard, vectors};

/// Every example holds: validity, canonical text, warning or none.
#[test]
fn every_example_holds() {
    let file = include_str!("data/standard_vectors.csv");
    let report = vectors::run(Standard::builtin(), file.as_bytes()).expect("a file of examples");
    assert_eq!(report.rows, 629);
    for difference in &report.differences {
        eprintln!("{difference:?}");
    }
    assert_eq!(report.differences.len(), 0, "examples that do not hold are listed above");
}
