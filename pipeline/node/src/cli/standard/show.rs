//! `guitong standard show`.

use clap::Args;
use guitong_schemas::standard::{CHECKS, Check, Entity, EntityField, Obligation, Rule, Standard, Table};
use serde_json::{Value, json};

use super::list::{broken, key};
use super::{Of, Page};
use crate::exit::Failure;
use crate::text::{pad, width};

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// An entity (LegalEntity, or 法人), a code table (gbt2261_1_sex, or 性别), a list of one (regional_lists:penalty_kind), a check (uscc),
    /// or a rule (uscc.check_digit)
    name: String,
    #[command(flatten)]
    of: Of,
}

impl Show {
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        let standard = self.of.standard(color)?;
        let mut page = Page::default();
        self.write(&mut page, &standard)?;
        page.print();
        Ok(())
    }

    fn write(&self, page: &mut Page, standard: &Standard) -> Result<(), Failure> {
        let titled = || standard.entities().find(|entity| entity.title_zh == self.name);
        if let Some(entity) = standard.entity(&self.name).or_else(titled) {
            let schema = schema(entity)?;
            if self.of.json {
                page.line(format_args!("{}", entity_json(entity, &schema)));
            } else {
                print_entity(page, entity, &schema);
            }
            return Ok(());
        }
        if let Some(rule) = Rule::from_code(&self.name) {
            if self.of.json {
                page.line(format_args!("{}", json!({ "rule": rule.code(), "zh": rule.zh(), "en": rule.en() })));
            } else {
                page.line(format_args!("{}\n  {}\n  {}", rule.code(), rule.zh(), rule.en()));
            }
            return Ok(());
        }
        if let Some(Check { kind, zh, en, basis }) = CHECKS.iter().find(|check| check.kind == self.name) {
            if self.of.json {
                page.line(format_args!("{}", json!({ "kind": kind, "title_zh": zh, "title_en": en, "basis": basis })));
            } else {
                page.line(format_args!("{kind}\n  {zh}\n  {en}\n  {basis}\nto try values: guitong standard check {kind} VALUE…"));
            }
            return Ok(());
        }
        self.table(page, standard)
    }

    fn table(&self, page: &mut Page, standard: &Standard) -> Result<(), Failure> {
        let (name, list) = self.name.split_once(':').map_or((self.name.as_str(), None), |(name, list)| (name, Some(list)));
        let name = standard.tables().find(|known| standard.title(known).zh == name).unwrap_or(name);
        if !standard.tables().any(|known| known == name) {
            return Err(unknown(standard, &self.name));
        }
        // A list that is not there is told with the nearest.
        let whole = list.map_or_else(|| name.to_owned(), |list| format!("{name}:{list}"));
        standard.code_list(&whole).map(drop).or_else(|error| if list.is_some() { Err(broken(error)) } else { Ok(()) })?;
        let table = standard.table(name).map_err(broken)?;
        let list_at = table.list_column();
        let belongs = |row: &Vec<&str>| match (list, list_at.and_then(|at| row.get(at))) {
            (Some(list), Some(held)) => held.starts_with(list),
            _ => true,
        };
        let rows: Vec<Vec<&str>> = table.records().filter(belongs).collect();
        if self.of.json {
            page.line(format_args!("{}", table_json(standard, name, &table, &rows)));
        } else {
            print_table(page, standard, name, &table, &rows);
        }
        Ok(())
    }
}

fn unknown(standard: &Standard, name: &str) -> Failure {
    let names = standard.entities().map(|entity| entity.name.as_str()).chain(standard.tables());
    let names = names.chain(Rule::ALL.iter().map(|rule| rule.code())).chain(CHECKS.iter().map(|check| check.kind));
    let failure = Failure::usage(format!("the standard has no entity, code table, check or rule `{name}`"));
    match guitong_schemas::standard::nearest(name, names) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("guitong standard list names them"),
    }
}

/// The schema with its annotations, which the entity was made of.
fn schema(entity: &Entity) -> Result<Value, Failure> {
    serde_json::from_str(&entity.schema_json).map_err(|error| Failure::usage(error.to_string()))
}

fn entity_json(entity: &Entity, schema: &Value) -> Value {
    let of = |index: usize, name: &str| schema.get("fields").and_then(|fields| fields.get(index)?.get(name).cloned());
    let fields: Vec<Value> = entity
        .fields
        .iter()
        .enumerate()
        .map(|(index, field)| {
            json!({
                "name": field.name,
                "title_zh": field.title_zh,
                "title_en": field.title_en,
                "kind": field.kind.to_string(),
                "type": of(index, "type"),
                "obligation": obligation(field),
                "when": of(index, "when"),
                "grade": field.grade.as_str(),
                "grade_person": field.grade_person.map(|grade| grade.as_str()),
                "minimum": field.range.0,
                "maximum": field.range.1,
                "not_before": of(index, "not_before"),
                "not_after": of(index, "not_after"),
                "codes": field.code_list().map(|list| list.codes().len()),
            })
        })
        .collect();
    json!({
        "name": entity.name,
        "title_zh": entity.title_zh,
        "title_en": entity.title_en,
        "version": entity.version,
        "key": key(entity),
        "person": schema.get("person"),
        "fields": fields,
        "rules": schema.get("rules"),
    })
}

fn obligation(field: &EntityField) -> &'static str {
    match field.obligation {
        Obligation::Mandatory => "mandatory",
        Obligation::Conditional => "conditional",
        Obligation::Optional => "optional",
    }
}

fn print_entity(page: &mut Page, entity: &Entity, schema: &Value) {
    page.line(format_args!("{}  {}  version {}", entity.name, entity.title_zh, entity.version));
    page.line(format_args!("{}", entity.title_en));
    page.line(format_args!("key: {}\n", key(entity).join(", ")));
    let name_width = entity.fields.iter().map(|field| field.name.len()).max().unwrap_or_default();
    let title_width = entity.fields.iter().map(|field| width(&field.title_zh)).max().unwrap_or_default();
    for (index, field) in entity.fields.iter().enumerate() {
        let annotation = |name: &str| {
            let held = schema.get("fields").and_then(|fields| fields.get(index)?.get(name));
            held.map(|held| held.as_str().map_or_else(|| held.to_string(), str::to_owned))
        };
        let grade = match field.grade_person {
            Some(person) => format!("{}/{}", field.grade.as_str(), person.as_str()),
            None => field.grade.as_str().to_owned(),
        };
        page.line(format_args!(
            "{}  {}  {}  {}  {}",
            pad(&field.name, name_width),
            pad(&field.title_zh, title_width),
            pad(obligation(field), 11),
            pad(&grade, 5),
            field.kind
        ));
        let limits = ["when", "minimum", "maximum", "not_before", "not_after"];
        let limits = limits.iter().filter_map(|name| Some(format!("{name} {}", annotation(name)?)));
        let title = field.title_en.trim_end_matches('.').to_owned();
        let notes: Vec<String> = std::iter::once(title).chain(limits).collect();
        page.line(format_args!("{}  {}", pad("", name_width), notes.join("; ")));
    }
    let rules = schema.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !rules.is_empty() {
        page.line(format_args!("\nrules across fields"));
    }
    for rule in rules {
        let text = |name: &str| rule.get(name).and_then(Value::as_str);
        let fields = rule.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let fields: Vec<&str> = fields.iter().filter_map(Value::as_str).collect();
        let value = text("value").map(|value| format!(" = {value}")).unwrap_or_default();
        let when = text("when").map(|when| format!(" when {when}")).unwrap_or_default();
        page.line(format_args!("  {}({}){value}{when}", text("rule").unwrap_or_default(), fields.join(", ")));
    }
}

fn table_json(standard: &Standard, name: &str, table: &Table, rows: &[Vec<&str>]) -> Value {
    let title = standard.title(name);
    let columns: Vec<&str> = table.columns().collect();
    let object = |row: &Vec<&str>| -> Value {
        columns
            .iter()
            .zip(row)
            .map(|(column, cell)| ((*column).to_owned(), json!(cell)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let codes: Vec<Value> = rows.iter().map(object).collect();
    json!({ "name": name, "title_zh": title.zh, "title_en": title.en, "version": title.version, "codes": codes })
}

/// The first of these columns that the table has.
fn first(table: &Table, names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| table.column(name))
}

fn print_table(page: &mut Page, standard: &Standard, name: &str, table: &Table, rows: &[Vec<&str>]) {
    let title = standard.title(name);
    page.line(format_args!("{name}  {}  {}", title.zh, title.version));
    page.line(format_args!("{}\n", title.en));
    let [list, code, name, name_en, from, to, successor] = [
        table.list_column(),
        first(table, &["code", "code_1984"]),
        table.name_column(),
        table.column("name_en"),
        first(table, &["valid_from", "from_year", "valid_from_year"]),
        first(table, &["valid_to", "to_year", "last_year_idvalidator"]),
        first(table, &["successor", "successor_code", "code_2006", "code_2017"]),
    ];
    let cell = |row: &Vec<&str>, at: Option<usize>| at.and_then(|at| row.get(at)).copied().unwrap_or_default().to_owned();
    let widest = |at: Option<usize>| rows.iter().map(|row| width(&cell(row, at))).max().unwrap_or_default();
    let (list_width, code_width, name_width) = (widest(list).min(24), widest(code), widest(name).min(40));
    for row in rows {
        let mut line = String::new();
        if list.is_some() {
            line = pad(&cell(row, list), list_width) + "  ";
        }
        line += &format!("{}  {}", pad(&cell(row, code), code_width), pad(&cell(row, name), name_width));
        let english = cell(row, name_en);
        let (from, to, successor) = (cell(row, from), cell(row, to), cell(row, successor));
        let life = if from.is_empty() && to.is_empty() { String::new() } else { format!("{from}–{to}") };
        let successor = if successor.is_empty() { String::new() } else { format!("→ {successor}") };
        for part in [english, life, successor].iter().filter(|part| !part.is_empty()) {
            line += "  ";
            line += part;
        }
        page.line(format_args!("{}", line.trim_end()));
    }
    page.line(format_args!("{} codes", rows.len()));
}
