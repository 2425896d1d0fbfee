//! The standard with files of a directory.

use std::fs;
use std::path::Path;

use guitong_schemas::contract::load_standard;

use super::*;

const PERMIT: &str = r#"{"type": "record", "name": "Permit", "namespace": "cn.guitong.standard", "title": "许可", "doc": "A permit.", "version": 1, "fields": [
    {"name": "no", "type": "string", "title": "编号", "doc": "Number.", "kind": "identifier:20", "obligation": "mandatory", "grade": "G0"},
    {"name": "colour", "type": ["null", "string"], "default": null, "title": "颜色", "doc": "Colour.", "kind": "code:colours", "obligation": "optional", "grade": "G0"}]}"#;
const PERMIT_KEY: &str = r#"{"type": "record", "name": "PermitKey", "namespace": "cn.guitong.standard", "fields": [{"name": "no", "type": "string"}]}"#;

fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("directory");
    fs::create_dir(root.path().join("standard")).expect("folder");
    for (name, text) in files {
        fs::write(root.path().join("standard").join(name), text).expect("file");
    }
    root
}

fn loaded(root: &Path) -> Arc<Standard> {
    load_standard(root).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
}

#[test]
fn a_directory_adds_an_entity_and_replaces_a_table() {
    let root = written(&[
        ("Permit.avsc", PERMIT),
        ("Permit.key.avsc", PERMIT_KEY),
        // As a spreadsheet saves it.
        ("colours.csv", "\u{FEFF}code,name,name_en\r\n1,红,red\r\n2,绿,green\r\n"),
        ("gbt2261_1_sex.csv", "code,name\nM,男\nF,女\n"),
    ]);
    let standard = loaded(root.path());
    let colour = standard.entity("Permit").and_then(|entity| entity.field("colour")).expect("field");
    assert!(colour.is_legal_code("2") && !colour.is_legal_code("3"));
    let sex = standard.entity("NaturalPerson").and_then(|entity| entity.field("sex")).expect("field");
    assert!(sex.is_legal_code("M") && !sex.is_legal_code("1"));
    assert!(entity("NaturalPerson").field("sex").is_some_and(|sex| sex.is_legal_code("1")), "what is built in stays");
    assert_ne!(standard.version(), Standard::builtin().version());
}

#[test]
fn addresses_are_told_apart_by_the_divisions_of_the_directory() {
    let provinces = include_str!("../../codes/gbt2260_provinces.csv");
    let first = provinces.lines().nth(1).expect("a row");
    let added = first.replacen("北京市", "测试新区市", 1);
    assert_ne!(first, added, "the table begins with the capital");
    let standard = loaded(written(&[("gbt2260_provinces.csv", &provinces.replacen(first, &added, 1))]).path());
    let known = |standard: &Standard, name| standard.entity("LegalEntity").is_some_and(|entity| entity.is_division_name(name));
    assert!(known(&standard, "测试新区市") && known(&standard, "测试新区") && known(&standard, "青秀区"));
    assert!(!known(Standard::builtin(), "测试新区市"), "what is built in stays");
}

#[test]
fn a_directory_without_files_has_the_built_in_standard() {
    let root = tempfile::tempdir().expect("directory");
    assert_eq!(*loaded(root.path()), *Standard::builtin());
    assert_eq!(*loaded(written(&[]).path()), *Standard::builtin());
}

/// Every code of a list with a history, as events of several years write it.
#[test]
fn a_retired_code_is_read_as_its_successor_once_it_has_ended() {
    let root = written(&[
        ("Permit.avsc", PERMIT),
        ("Permit.key.avsc", PERMIT_KEY),
        (
            "colours.csv",
            "code,name,valid_from,valid_to,successor\n\
             01,红,,,\n\
             02,绛,,2019-12-31,01\n\
             03,绯,,2009-12-31,02\n\
             04,缁,,2019-12-31,\n\
             05,朱,,,01\n\
             colour-of-the-sky-06,天青,2020-01-01,,\n\
             07,赭,,2018-12-31,08\n\
             08,褐,2020-01-01,,\n",
        ),
    ]);
    let standard = loaded(root.path());
    let field = standard.entity("Permit").and_then(|entity| entity.field("colour")).expect("field");
    let noon = |year: i16| {
        let noon = jiff::civil::date(year, 6, 1).at(12, 0, 0, 0).in_tz("Asia/Shanghai").expect("time");
        Clock::at(noon.timestamp().as_microsecond(), Zone::shanghai())
    };
    for (year, text, expected, rules) in [
        (2018, "01", "01", vec![]),
        (2018, "02", "02", vec![]),
        (2018, "03", "02", vec!["code.retired"]),
        (2026, "02", "01", vec!["code.retired"]),
        (2026, "03", "01", vec!["code.retired"]),
        (2026, "绯", "01", vec!["code.by_name", "code.retired"]),
        (2018, "04", "04", vec![]),
        (2026, "04", "04", vec!["code.no_successor"]),
        (2018, "05", "01", vec!["code.retired"]),
        (2018, "colour-of-the-sky-06", "colour-of-the-sky-06", vec!["code.too_early"]),
        (2026, "colour-of-the-sky-06", "colour-of-the-sky-06", vec![]),
        (2026, "07", "08", vec!["code.retired"]),
        (2019, "07", "08", vec!["code.too_early"]),
        (2026, "09", "", vec!["code.unknown"]),
    ] {
        let mut findings = Vec::new();
        let value = field.read(text, &FieldOptions::default(), &noon(year), &mut findings);
        let found: Vec<_> = findings.iter().map(|finding| finding.rule.code()).collect();
        assert_eq!((value.to_string().as_str(), found), (expected, rules), "{text} in {year}");
    }
}

/// What may take the place of a standard while records flow.
#[test]
fn a_changed_entity_follows_only_what_it_reads_and_is_read_by() {
    let with = |schema: &str, key: &str| {
        loaded(written(&[("Permit.avsc", schema), ("Permit.key.avsc", key), ("colours.csv", "code,name\n1,红\n")]).path())
    };
    let before = with(PERMIT, PERMIT_KEY);
    let wider = PERMIT.replace(
        "]}",
        r#", {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}], "default": null, "title": "日期", "doc": "Day.", "kind": "date", "obligation": "optional", "grade": "G0"}]}"#,
    );
    let wider = with(&wider, PERMIT_KEY);
    assert_eq!(wider.entity("Permit").map(|entity| entity.fields.len()), Some(3));
    assert_eq!((wider.follows(&before), before.follows(&wider)), (Ok(()), Ok(())));
    assert_eq!(Standard::builtin().follows(&before), Ok(()), "an entity can go");
    let retyped = PERMIT.replace(r#"["null", "string"]"#, r#"["null", "long"]"#).replace("code:colours", "integer");
    let said = with(&retyped, PERMIT_KEY).follows(&before).expect_err("another type");
    assert!(said.starts_with("entity Permit does not go with the one in force"), "{said}");
}

/// A rule over fields of other kinds would hold for every record, and nobody would notice.
#[test]
fn a_rule_over_fields_of_other_kinds_is_reported_at_the_field() {
    let date = |name: &str, kind: &str| {
        format!(
            r#"{{"name": "{name}", "type": ["null", {{"type": "int", "logicalType": "date"}}], "default": null, "title": "日期", "doc": "Day.", "kind": "{kind}", "obligation": "optional", "grade": "G0"}}"#
        )
    };
    for (rule, place, message) in [
        (r#"{"rule": "order", "fields": ["no", "no"]}"#, Some(r#""no""#), "the rule `order` cannot compare `no` and `no`"),
        (r#"{"rule": "order", "fields": ["day", "no"]}"#, Some(r#""no""#), "the rule `order` cannot compare `day` and `no`"),
        (r#"{"rule": "order", "fields": ["day", "last"]}"#, None, ""),
        (
            r#"{"rule": "citizen_birth", "fields": ["no", "colour"]}"#,
            Some(r#""colour""#),
            "reads a date in this place, and `colour` is none",
        ),
        (r#"{"rule": "citizen_birth", "fields": ["no", "day"]}"#, None, ""),
        (
            r#"{"rule": "citizen_sex", "fields": ["day", "colour"]}"#,
            Some(r#""day""#),
            "reads a text, a number or a code in this place, and `day`",
        ),
        (
            r#"{"rule": "positive", "fields": ["no"], "when": "colour present"}"#,
            Some(r#""no""#),
            "reads an amount in this place, and `no`",
        ),
        (
            r#"{"rule": "fill", "fields": ["colour"], "value": "9", "when": "no present"}"#,
            Some(r#""colour""#),
            "`colour` has no code `9`",
        ),
        (r#"{"rule": "fill", "fields": ["colour"], "value": "1", "when": "no present"}"#, None, ""),
    ] {
        let fields = format!(", {}, {}],\n\"rules\": [{rule}]}}", date("day", "date"), date("last", "date"));
        let schema = PERMIT.replace("]}", &fields);
        let files = [("Permit.avsc", schema.as_str()), ("Permit.key.avsc", PERMIT_KEY), ("colours.csv", "code,name\n1,红\n")];
        let read = load_standard(written(&files).path());
        let Some(field) = place else {
            read.unwrap_or_else(|problems| panic!("{rule}\n{}", problems.render(false)));
            continue;
        };
        let problems = read.expect_err(rule);
        let [problem] = &problems.list[..] else { panic!("{rule}\n{}", problems.render(false)) };
        assert!(problem.code == "wrong-kind" && problem.message.contains(message), "{rule}\n{}", problems.render(false));
        let excerpt = problem.excerpt.as_ref().expect("a place");
        let shown = excerpt.line.get(excerpt.indent..excerpt.indent + excerpt.width);
        assert_eq!((excerpt.place.line, shown), (4, Some(field)), "{rule}\n{}", problems.render(false));
    }
}
