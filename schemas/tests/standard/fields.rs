//! One field: what a mapping declares of its values, its default mask, and what damaged input comes to.

use super::*;

fn read(entity_name: &str, field: &str, declared: FieldMapping, text: &str) -> (String, Vec<&'static str>) {
    let field = entity(entity_name).field(field).expect("field");
    let options = FieldOptions::compile(field, &declared).expect("options");
    let mut findings = Vec::new();
    let value = field.read(text, &options, &clock(), &mut findings).to_string();
    (value, findings.iter().map(|finding| finding.rule.code()).collect())
}

#[test]
fn a_declared_edition_format_unit_or_open_end_is_followed() {
    let edition = |edition: &str| FieldMapping { edition: Some(edition.into()), ..mapping() };
    let formats = |formats: &[&str]| FieldMapping { formats: formats.iter().map(|f| (*f).to_owned()).collect(), ..mapping() };
    let open = || FieldMapping { open_end: true, ..mapping() };
    let unit = |unit| FieldMapping { unit: Some(UnitSource::Fixed(unit)), ..mapping() };
    for (entity, field, declared, text, expected, rules) in [
        ("LegalEntity", "industry", edition("2011"), "O7930", "8030", vec!["industry.section", "industry.converted"]),
        ("LegalEntity", "industry", edition("2017"), "O7930", "7930", vec!["industry.section"]),
        ("LegalEntity", "industry", mapping(), "98", "", vec!["industry.unknown"]),
        ("NaturalPerson", "education", edition("1984"), "50", "47", vec!["code.estimated"]),
        ("NaturalPerson", "education", edition("1984"), "小学", "80", vec!["code.converted"]),
        ("NaturalPerson", "education", edition("1984"), "21", "20", vec!["code.estimated"]),
        ("NaturalPerson", "education", edition("2006"), "21", "21", vec![]),
        ("NaturalPerson", "ethnic", mapping(), "8", "08", vec!["code.padded"]),
        ("NaturalPerson", "ethnic", mapping(), "00", "", vec![]),
        ("NaturalPerson", "sex", mapping(), "0", "0", vec![]),
        ("NaturalPerson", "nationality", mapping(), "中国", "CHN", vec!["code.by_name"]),
        ("LegalEntity", "currency", mapping(), "156", "CNY", vec!["code.by_name"]),
        ("LegalEntity", "established", formats(&["yyyyMMdd", "yy-M-d"]), "17-9-22", "2017-09-22", vec![]),
        ("LegalEntity", "established", mapping(), "17-9-22", "", vec!["date.form"]),
        ("LegalEntity", "established", mapping(), "19000101", "", vec![]),
        ("LegalEntity", "established", mapping(), "2017年9月22日 星期六", "", vec!["date.weekday"]),
        ("LegalEntity", "established", mapping(), "2017-09-22（周五）", "2017-09-22", vec![]),
        ("LegalEntity", "term_to", open(), "长期", "9999-12-31", vec![]),
        ("LegalEntity", "term_to", open(), "--", "9999-12-31", vec![]),
        ("LegalEntity", "term_to", mapping(), "永久", "", vec!["date.open_end"]),
        ("LegalEntity", "term_to", mapping(), "2099-12-31", "2099-12-31", vec![]),
        ("InvestmentProject", "total_investment", unit(Unit::HundredMillionYuan), "1.5", "15000.0000", vec![]),
        ("InvestmentProject", "total_investment", unit(Unit::Yuan), "1.5", "0.0002", vec!["number.rounded"]),
        ("InvestmentProject", "plan_start", formats(&["yyyyMM"]), "201803", "2018-03", vec![]),
        ("ServiceCase", "received_at", mapping(), "2017-09-22T08:30:05Z", "2017-09-22T16:30:05+08:00", vec![]),
        (
            "ServiceCase",
            "received_at",
            mapping(),
            "2017年9月22日9时30分",
            "2017-09-22T09:30:00+08:00",
            vec!["time.zone_assumed", "time.minutes"],
        ),
        ("ServiceCase", "received_at", formats(&["epoch_s"]), "1506009600", "2017-09-22T00:00:00+08:00", vec![]),
        ("ServiceCase", "received_at", mapping(), "2017-09-22", "", vec!["time.form"]),
        ("ServiceCase", "received_at", formats(&["yyyy-MM-dd"]), "2017-09-22", "2017-09-22T00:00:00+08:00", vec![]),
        ("LegalEntity", "reg_address_division", mapping(), "450103", "450103", vec![]),
        ("LegalEntity", "reg_address_division", mapping(), "440305", "440305", vec![]),
        ("LegalEntity", "reg_address_division", mapping(), "450103000000", "450103", vec!["division.shortened"]),
        ("LegalEntity", "reg_address_division", mapping(), "450121", "450121", vec!["division.no_successor"]),
        ("LegalEntity", "reg_no", mapping(), "4500001000001", "4500001000001", vec!["registration_no.unchecked"]),
        ("LegalEntity", "reg_no", mapping(), "451425999928779", "", vec!["registration_no.check_digit"]),
        ("PublicResourceTransaction", "url", mapping(), "javascript:alert(1)", "", vec!["url.form"]),
        ("ServiceCase", "score", mapping(), "6", "", vec!["number.range"]),
    ] {
        assert_eq!(read(entity, field, declared, text), (expected.to_owned(), rules), "{entity}.{field} {text}");
    }
}

#[test]
fn options_that_a_kind_has_no_use_for_are_refused() {
    let legal = entity("LegalEntity");
    let compile = |field: &str, declared| FieldOptions::compile(legal.field(field).expect("field"), &declared);
    for (field, declared) in [
        ("name", FieldMapping { formats: vec!["yyyy".into()], ..mapping() }),
        ("name", FieldMapping { unit: Some(UnitSource::Fixed(Unit::Yuan)), ..mapping() }),
        ("name", FieldMapping { open_end: true, ..mapping() }),
        ("name", FieldMapping { edition: Some("2011".into()), ..mapping() }),
    ] {
        assert!(matches!(compile(field, declared), Err(OptionError::NotForKind { .. })), "{field}");
    }
    let unknown = compile("industry", FieldMapping { edition: Some("2002".into()), ..mapping() }).expect_err("no such edition");
    assert_eq!(unknown.to_string(), "edition `2002` is not known for `industry`; known: 2017, 2011");
    assert!(matches!(
        compile("established", FieldMapping { formats: vec!["YYYY-MM-DD".into()], ..mapping() }),
        Err(OptionError::Format { .. })
    ));
}

#[test]
fn default_masks_follow_kind_and_grade() {
    let person = entity("NaturalPerson");
    for (field, mask) in [
        ("name", Mask::Name),
        ("id_doc_no", Mask::Identifier),
        ("mobile", Mask::Phone),
        ("hukou_address", Mask::Address),
        ("residence_division", Mask::Address),
        ("birth_date", Mask::Year),
        ("marital", Mask::Drop),
        ("sex", Mask::None),
    ] {
        let field = person.field(field).expect("field");
        assert_eq!(field.default_mask(field.grade), mask, "{}", field.name);
    }
    let content = entity("CreditRecord").field("content").expect("field");
    assert_eq!((content.default_mask(Grade::G0), content.default_mask(Grade::G3)), (Mask::None, Mask::Drop));
}

/// Texts that look like values, and texts that are out to break something.
fn hostile() -> impl Strategy<Value = String> {
    let examples: Vec<String> = include_str!("../data/standard_vectors.csv")
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(1))
        .filter_map(|cell| serde_json::from_str(&format!("\"{cell}\"")).ok())
        .filter(|text: &String| text.len() < 200)
        .collect();
    let example = proptest::sample::select(examples);
    let pieces =
        "[0-9X年月日时分秒元万亿伍佰(（)）.·•,;/:+\\- \u{3000}\u{200B}\u{E000}Ａ０é\u{301}𠮷⼴\u{FEFF}'长期TZ上午]{0,24}";
    prop_oneof![
        pieces,
        ".{0,40}",
        (example, any::<prop::sample::Index>(), "[0-9X年 \u{3000}-]{0,2}").prop_map(|(text, at, piece)| {
            let mut letters: Vec<char> = text.chars().collect();
            let at = at.index(letters.len() + 1);
            letters.splice(at..at, piece.chars());
            letters.into_iter().collect()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in, nothing panics, an unreadable value is null with a finding, and a canonical value reads as itself
    /// without any repair.
    #[test]
    fn canonical_values_are_fixed_points(text in hostile()) {
        for entity in Standard::builtin().entities() {
            for field in entity.fields.iter().filter(|field| !matches!(field.kind, FieldKind::Steps)) {
                check_fixed_point(field, &text)?;
            }
        }
    }
}

fn check_fixed_point(field: &EntityField, text: &str) -> Result<(), TestCaseError> {
    let mut findings = Vec::new();
    let options = FieldOptions::default();
    let value = field.read(text, &options, &clock(), &mut findings);
    prop_assert!(!findings.iter().any(|finding| finding.level == Level::Error) || value.is_null());
    if value.is_null() {
        return Ok(());
    }
    let canonical = value.to_string();
    let mut again = Vec::new();
    let second = field.read(canonical.as_str(), &options, &clock(), &mut again);
    prop_assert_eq!(&second, &value, "{} read {:?} as {:?}", field.name, text, canonical);
    let repairs: Vec<_> =
        again.iter().filter(|finding| finding.level == Level::Note).map(|finding| finding.rule.code()).collect();
    // What stays doubtful is told each time.
    let doubts = ["name.inner_space", "registration_no.unchecked"];
    prop_assert!(repairs.iter().all(|code| doubts.contains(code)), "{} repairs {canonical:?}: {repairs:?}", field.name);
    Ok(())
}
