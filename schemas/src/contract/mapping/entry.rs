//! One entry: the steps from the source to the standard's reading, each checked against its field, and all of them together.

use super::super::join::GROUP;
use super::super::reading::document::Found;
use super::super::reading::scalar;
use super::super::reading::section::Section;
use super::super::resource::Place;
use super::super::seen::{self, Extent};
use super::read::{Reader, not_empty};
use super::{Cleaning, FieldMapping, Pad, Pattern, RowOf, Unit, UnitSource, ValueSource, Which};
use crate::standard::{Clock, EntityField, FieldKind, FieldOptions, Level, StandardValue, Zone};

const CLEANINGS: [(&str, Cleaning); 5] = [
    ("html", Cleaning::Html),
    ("lines", Cleaning::Lines),
    ("quotes", Cleaning::Quotes),
    ("brackets", Cleaning::Brackets),
    ("spaces", Cleaning::Spaces),
];

/// Steps that a constant has no use for: it stands as it is meant.
const NOT_FOR_CONSTANTS: [&str; 9] = ["clean", "extract", "split", "part", "default", "codes", "other", "pad", "unit"];

const MAX_PAD: u32 = 64;
const MAX_PART: u32 = 1_000;

impl Reader<'_> {
    /// Reads the steps of one entry, all keys of its table.
    pub(super) fn entry(
        &self,
        section: Section<'_>,
        field: Option<&EntityField>,
        at: Place,
        extent: Extent,
    ) -> Option<FieldMapping> {
        if !section.has("details") && !section.has("of") {
            return self.steps(section, field, at, extent);
        }
        let details = section.words("details");
        let at_rows = section.key_at(if section.has("details") { "details" } else { "of" });
        if section.has("details") && details.is_none() {
            return None;
        }
        let name = details.as_ref().map_or_else(|| GROUP.to_owned(), |found| found.value.clone());
        self.of_rows(details, at_rows, |rows| {
            let which = rows.which(&section, field)?;
            if which == Which::Every && section.has("lookup") {
                let message = "every row is read by itself: `lookup` cannot stand beside `of = \"every\"`";
                section.problem(&section.key_at("lookup"), "conflict", message, None);
                return None;
            }
            let mapping = rows.steps(section, field, at, Extent::Some)?;
            Some(FieldMapping { row: Some(RowOf { details: name, which }), ..mapping })
        })
    }

    /// `of = "first"`, `of = "last"`, a condition, or `of = "every"`.
    fn which(&self, section: &Section<'_>, field: Option<&EntityField>) -> Option<Which> {
        section.know("of");
        if !section.has("of") {
            let message = "the entry does not say which of the rows it is made of";
            let help =
                "add of = \"first\", of = \"last\" or of = \"row.zt == '1'\"; a nested field takes all of them with `item`";
            section.problem(&section.key_at("details"), "missing-key", message, Some(help.to_owned()));
            return None;
        }
        let found = section.words("of")?;
        match found.value.as_str() {
            "first" => Some(Which::First),
            "last" => Some(Which::Last),
            "every" => {
                let Some(field) = field.filter(|field| !matches!(field.kind, FieldKind::Codes(_))) else {
                    return Some(Which::Every);
                };
                let message = format!("every row gives a value, and `{}` ({}) holds one", field.name, field.title_zh);
                let help = "say which: of = \"first\", of = \"last\" or of = \"row.zt == '1'\"; a nested field takes all of them \
                            with `item`";
                section.problem(&found.at, "bad-option", message, Some(help.to_owned()));
                None
            }
            word if word.chars().all(char::is_alphanumeric) => {
                let message =
                    format!("`of` is `first`, `last`, `every` or a condition on the row, not `{}`", scalar::short(word));
                let help =
                    scalar::suggestion(word, ["first", "last", "every"]).or_else(|| Some("as \"row.zt == '1'\"".to_owned()));
                section.problem(&found.at, "bad-value", message, help);
                None
            }
            _ => Some(Which::When(self.condition(section, "of")?)),
        }
    }

    fn steps(&self, section: Section<'_>, field: Option<&EntityField>, at: Place, extent: Extent) -> Option<FieldMapping> {
        let value = self.value(&section, field);
        let mut mapping = FieldMapping::plain(value.clone().unwrap_or(ValueSource::Constant(String::new())), at);
        mapping.clean = read_clean(&section);
        mapping.extract =
            section.parsed("extract", |text| Pattern::parse(text).map_err(|error| error.to_string())).map(|it| it.value);
        mapping.split = section.text("split").filter(|split| not_empty(&section, "split", split)).map(|found| found.value);
        mapping.part = section.number("part", 1..MAX_PART + 1).map(|found| found.value as usize);
        mapping.default = section.scalar("default").map(|found| found.value);
        (mapping.codes, mapping.other) = self.codes(&section, field);
        mapping.pad = read_pad(&section);
        mapping.formats = read_formats(&section);
        mapping.open_end = section.flag("open_end").is_some_and(|found| found.value);
        mapping.unit = self.unit(&section);
        mapping.edition = section.scalar("edition").map(|found| found.value);
        if section.has("part") && !section.has("split") {
            let help = "say with `split` what stands between the parts".to_owned();
            section.problem(&section.key_at("part"), "conflict", "`part` needs `split`", Some(help));
        }
        if section.has("const") {
            for key in NOT_FOR_CONSTANTS.into_iter().filter(|key| section.has(key)) {
                let message = format!("a constant stands as it is: `{key}` cannot stand beside `const`");
                section.problem(&section.key_at(key), "conflict", message, None);
            }
        }
        if let Some(field) = field {
            check_options(&section, field, &mapping);
            self.check_fixed_values(&section, field, &mapping);
            if let (Some(seen), true) = (self.seen, value.is_some()) {
                let source = section.value_at(if section.has("first") { "first" } else { "from" });
                let codes = if section.has("codes") { section.value_at("codes") } else { source.clone() };
                seen.check(&seen::Entry { section: &section, field, mapping: &mapping, source, codes, extent }, self.world);
            }
        }
        section.finish();
        mapping.value = value?;
        Some(mapping)
    }

    /// `unit = "元"` or `unit = { from = "JEDW", default = "元" }`.
    fn unit(&self, section: &Section<'_>) -> Option<UnitSource> {
        let units = Unit::ALL.map(|unit| (unit.as_str(), unit));
        if !section.is_table("unit") {
            return section.choice("unit", &units).map(|found| UnitSource::Fixed(found.value));
        }
        let inner = section.own_section("unit")?;
        let column = inner.required("from", |inner, key| inner.words(key)).map(|found| self.column(found));
        let default = inner.choice("default", &units).map(|found| found.value);
        inner.finish();
        Some(UnitSource::Column { column: column?, default })
    }

    /// A constant or default that the field itself refuses would refuse every record.
    fn check_fixed_values(&self, section: &Section<'_>, field: &EntityField, mapping: &FieldMapping) {
        let Ok(options) = FieldOptions::compile(field, mapping) else { return };
        let zone = Zone::new(self.world.zone.clone());
        let clock = Clock::at(self.world.surroundings.now.as_microsecond(), &zone);
        for key in ["const", "default"] {
            let Some(found) = section.has(key).then(|| section.scalar(key)).flatten() else { continue };
            let text = mapping.codes.get(found.value.trim()).unwrap_or(&found.value);
            let mut findings = Vec::new();
            let value = field.read(text.as_str(), &options, &clock, &mut findings);
            let refused = findings.iter().find(|finding| finding.level > Level::Note);
            let (rule, why) = match (refused, value) {
                (Some(finding), _) => (Some(finding.rule.code()), finding.rule.en()),
                (None, StandardValue::Null) => (None, "it stands for no value"),
                (None, _) => continue,
            };
            let message = format!("`{}` ({}) cannot be `{}`: {why}", field.name, field.title_zh, scalar::short(&found.value));
            section.problem(
                &found.at,
                "bad-constant",
                message,
                rule.map(|rule| format!("the field's own check refuses it: {rule}")),
            );
        }
    }
}

/// Reports each option that its field has no use for.
fn check_options(section: &Section<'_>, field: &EntityField, mapping: &FieldMapping) {
    let alone = || FieldMapping::plain(mapping.value.clone(), mapping.at);
    let options = [
        ("format", FieldMapping { formats: mapping.formats.clone(), ..alone() }),
        ("open_end", FieldMapping { open_end: mapping.open_end, ..alone() }),
        ("unit", FieldMapping { unit: mapping.unit.clone(), ..alone() }),
        ("edition", FieldMapping { edition: mapping.edition.clone(), ..alone() }),
        ("split", FieldMapping { split: mapping.split.clone(), part: mapping.part, ..alone() }),
    ];
    for (key, option) in options.into_iter().filter(|(key, _)| section.has(key)) {
        if let Err(error) = FieldOptions::compile(field, &option) {
            section.problem(&section.value_at(key), "bad-option", error, None);
        }
    }
    let typed = matches!(
        field.kind,
        FieldKind::Date
            | FieldKind::Time
            | FieldKind::PartialDate
            | FieldKind::Decimal { .. }
            | FieldKind::Int
            | FieldKind::Steps
            | FieldKind::Codes(_)
    );
    if typed && section.has("pad") {
        let message = format!("`pad` is for single texts and codes, and `{}` is none", field.name);
        section.problem(&section.value_at("pad"), "bad-option", message, None);
    }
}

/// A list that says something: one of nothing would say the same as none.
fn listed(section: &Section<'_>, key: &str, without: &str) -> Option<Found<Vec<Found<String>>>> {
    if section.is_empty_list(key) {
        let help = format!("leave it out, and {without}");
        section.problem(&section.value_at(key), "empty", format_args!("`{key}` lists nothing"), Some(help));
        section.know(key);
        return None;
    }
    section.texts(key)
}

fn read_formats(section: &Section<'_>) -> Vec<String> {
    let found = listed(section, "format", "every form is read that can mean only one");
    found.map_or_else(Vec::new, |found| found.value.into_iter().map(|format| format.value).collect())
}

fn read_clean(section: &Section<'_>) -> Vec<Cleaning> {
    let Some(found) = listed(section, "clean", "the text is taken as it is") else { return Vec::new() };
    let known = CLEANINGS.map(|(word, _)| word);
    let mut steps = Vec::with_capacity(found.value.len());
    for word in &found.value {
        match CLEANINGS.iter().find(|(known, _)| *known == word.value) {
            Some((_, step)) => steps.push(*step),
            None => {
                let message = format!("`clean` has no step `{}`", scalar::short(&word.value));
                section.problem(&word.at, "bad-value", message, scalar::suggestion(&word.value, known));
            }
        }
    }
    steps
}

fn read_pad(section: &Section<'_>) -> Option<Pad> {
    let inner = section.own_section("pad")?;
    let width = inner.required("width", |inner, key| inner.number(key, 1..MAX_PAD + 1));
    let one = |text: &str| {
        let mut letters = text.chars();
        letters.next().filter(|_| letters.next().is_none()).ok_or_else(|| "must be one character".to_owned())
    };
    let with = if inner.has("with") { inner.parsed("with", one).map(|found| found.value) } else { Some('0') };
    inner.know("with");
    inner.finish();
    Some(Pad { width: width?.value as usize, with: with? })
}
