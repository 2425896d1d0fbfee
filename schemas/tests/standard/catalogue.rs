//! What is built in against the catalogue of the standard: every field with its type, obligation, condition and grade, and the size of every table.

use serde_json::Value;

use super::*;

/// The entities as the standard's catalogue lists them: `type`, `m` (mandatory, conditional, optional), `when`, `grade`.
const FIELDS: &str = include_str!("../data/standard_fields.json");

/// How the catalogue writes the type of a field of this kind; several kinds are refinements of `text:N`.
fn catalogued(field: &EntityField) -> String {
    let codes = |list: &guitong_schemas::standard::CodeList| -> String {
        let codes: Vec<&str> = list.codes().iter().map(|code| &*code.code).collect();
        match list.name.split_once(':') {
            Some(("field_lists", _)) => format!("enum:{}", codes.join("|")),
            Some(("regional_lists", list)) => format!("regional:{list}"),
            _ => format!("code:{}", list.name.replace('#', ":").replace("|regional_lists:", ", or regional:")),
        }
    };
    match &field.kind {
        FieldKind::Code(list) => codes(list),
        FieldKind::Codes(list) => format!("{}, several", codes(list)),
        FieldKind::Education => "code:gbt4658_education".to_owned(),
        FieldKind::CitizenId => "id".to_owned(),
        FieldKind::OrgCode => "org".to_owned(),
        FieldKind::ProjectCode => "project".to_owned(),
        FieldKind::Int => "int".to_owned(),
        FieldKind::Steps => "list".to_owned(),
        other => {
            let kind = other.to_string();
            let refined = ["name:", "address:", "phone:", "identifier:", "registration_no:"];
            match refined.iter().find_map(|head| kind.strip_prefix(head)) {
                Some(max) => format!("text:{max}"),
                None => kind.replace("decimal:", "dec:"),
            }
        }
    }
}

#[test]
fn every_field_is_as_the_catalogue_has_it() {
    let catalogue: Value = serde_json::from_str(FIELDS).expect("the catalogue");
    let catalogue = catalogue["entities"].as_object().expect("entities");
    assert_eq!(catalogue.len(), Standard::builtin().entities().count());
    for (name, fields) in catalogue {
        let entity = entity(name);
        let schema: Value = serde_json::from_str(&entity.schema_json).expect("schema");
        let fields = fields.as_object().expect("fields");
        let names: Vec<&str> = entity.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, fields.keys().collect::<Vec<_>>(), "{name}");
        for ((field, wanted), annotated) in
            entity.fields.iter().zip(fields.values()).zip(schema["fields"].as_array().expect("fields"))
        {
            let place = format!("{name}.{}", field.name);
            assert_eq!(catalogued(field), wanted["type"].as_str().expect("type"), "{place}");
            let obligation = match wanted["m"].as_str() {
                Some("M") => Obligation::Mandatory,
                Some("C") => Obligation::Conditional,
                _ => Obligation::Optional,
            };
            assert_eq!(field.obligation, obligation, "{place}");
            let person = field.grade_person.map(|grade| format!("/{}", grade.as_str())).unwrap_or_default();
            assert_eq!(format!("{}{person}", field.grade.as_str()), wanted["grade"].as_str().expect("grade"), "{place}");
            if let Some(when) = wanted["when"].as_str() {
                assert_eq!(annotated["when"].as_str().map(|held| held.replace(" = ", " ")), Some(when.to_owned()), "{place}");
            }
            assert!(!field.title_zh.is_empty() && !field.title_en.is_empty(), "{place} has both titles");
        }
    }
}

#[test]
fn every_table_is_whole_and_named_in_both_languages() {
    let standard = Standard::builtin();
    let sizes: Vec<(&str, usize)> =
        standard.tables().map(|name| (name, standard.table(name).expect(name).records().count())).collect();
    assert_eq!(
        sizes,
        [
            ("field_lists", 63),
            ("gb32100_dept_org", 38),
            ("gbt12402_economic_type", 34),
            ("gbt2260_guangxi", 126),
            ("gbt2260_guangxi_history", 140),
            ("gbt2260_national", 7325),
            ("gbt2260_provinces", 34),
            ("gbt2261_1_sex", 4),
            ("gbt2261_2_marital", 8),
            ("gbt2659_countries", 249),
            ("gbt3304_ethnic", 58),
            ("gbt4658_1984_education_major", 9),
            ("gbt4658_1984_to_2006", 9),
            ("gbt4658_education", 40),
            ("gbt4754_2011_divisions", 116),
            ("gbt4754_industry_sections", 117),
            ("gbt4761_family_relation", 85),
            ("id_document_types", 59),
            ("iso4217_currency", 26),
            ("regional_lists", 41),
        ]
    );
    for name in standard.tables() {
        let title = standard.title(name);
        assert!([&title.zh, &title.en, &title.version].iter().all(|text| !text.is_empty()), "{name}");
        let table = standard.table(name).expect(name);
        // Tables of what became of codes have none.
        let names = table.name_column().into_iter().flat_map(|at| table.records().map(move |row| row[at].to_owned()));
        for found in names {
            assert!(
                found.chars().any(|letter| ('\u{3400}'..='\u{9FFF}').contains(&letter)),
                "{name}: {found} is no Chinese name"
            );
        }
    }
}
