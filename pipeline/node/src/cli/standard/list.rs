//! `guitong standard list`.

use clap::Args;
use guitong_schemas::standard::{CHECKS, Entity, KeySource, ListError, Rule, Standard, Table};
use serde_json::{Value, json};

use super::{Of, Page};
use crate::exit::Failure;
use crate::text::{count, pad};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The rules with their texts in Chinese and English instead
    #[arg(long)]
    rules: bool,
    #[command(flatten)]
    of: Of,
}

impl List {
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        let standard = self.of.standard(color)?;
        let mut page = Page::default();
        match (self.rules, self.of.json) {
            (true, true) => page.line(format_args!("{}", rules_json())),
            (true, false) => rules(&mut page),
            (false, true) => page.line(format_args!("{}", to_json(&standard)?)),
            (false, false) => print(&mut page, &standard)?,
        }
        page.print();
        Ok(())
    }
}

fn rules(page: &mut Page) {
    for rule in Rule::ALL {
        page.line(format_args!("{}  {}  {}", pad(rule.code(), 32), pad(rule.zh(), 44), rule.en()));
    }
    page.line(format_args!("{} rules", Rule::ALL.len()));
}

fn rules_json() -> Value {
    Rule::ALL.iter().map(|rule| json!({ "rule": rule.code(), "zh": rule.zh(), "en": rule.en() })).collect()
}

fn print(page: &mut Page, standard: &Standard) -> Result<(), Failure> {
    page.line(format_args!("standard {}", standard.version()));
    page.line(format_args!("\nentities {}", pad("", 44) + "version  fields  key"));
    for entity in standard.entities() {
        page.line(format_args!(
            "  {}  {}  {:>7}  {:>6}  {}{}",
            pad(&entity.name, 26),
            pad(&entity.title_zh, 22),
            entity.version,
            entity.fields.len(),
            key(entity).join(", "),
            added(standard.is_builtin_entity(entity), &format!("{}.avsc", entity.name))
        ));
        page.line(format_args!("  {}", pad("", 26) + "  " + &entity.title_en));
    }
    page.line(format_args!("\ncode tables {}", pad("", 51) + "codes  retired  edition"));
    for name in standard.tables() {
        let (title, sizes) = (standard.title(name), Sizes::of(&standard.table(name).map_err(broken)?));
        page.line(format_args!(
            "  {}  {}  {:>6}  {:>7}  {}{}",
            pad(name, 29),
            pad(&title.zh, 28),
            count(sizes.codes as u64),
            sizes.retired,
            title.version,
            added(standard.is_builtin_table(name), &format!("{name}.csv"))
        ));
        if !title.en.is_empty() {
            page.line(format_args!("  {}", pad("", 29) + "  " + &title.en));
        }
    }
    page.line(format_args!("\nchecks"));
    for check in CHECKS {
        page.line(format_args!("  {}  {}  {}  {}", pad(check.kind, 18), pad(check.zh, 22), pad(check.en, 44), check.basis));
    }
    page.line(format_args!(
        "\n{} rules; guitong standard list --rules names them, guitong standard show NAME tells more",
        Rule::ALL.len()
    ));
    Ok(())
}

/// A note behind what a directory's file declares.
fn added(is_builtin: bool, file: &str) -> String {
    if is_builtin { String::new() } else { format!("  (standard/{file})") }
}

/// The fields of an entity's key; `a else b` where the first may be empty.
pub(super) fn key(entity: &Entity) -> Vec<String> {
    let parts = entity.key.iter().map(|part| match &part.source {
        KeySource::System => "the system".to_owned(),
        KeySource::Fields(fields) => {
            let names = fields.iter().filter_map(|at| entity.fields.get(*at)).map(|field| field.name.as_str());
            names.collect::<Vec<_>>().join(" else ")
        }
    });
    parts.collect()
}

/// A standard is loaded only where its tables read.
pub(super) fn broken(error: ListError) -> Failure {
    Failure::usage(error.to_string())
}

/// How much a table holds.
struct Sizes {
    codes: usize,
    retired: usize,
    lists: Vec<String>,
}

impl Sizes {
    fn of(table: &Table) -> Self {
        let ends = ["valid_to", "successor", "successor_code"].map(|name| table.column(name));
        let (status, list) = (table.column("status"), table.list_column());
        let mut sizes = Self { codes: 0, retired: 0, lists: Vec::new() };
        for row in table.records() {
            let cell = |at: Option<usize>| at.and_then(|at| row.get(at)).copied().unwrap_or_default();
            let is_over = cell(status) == "retired" || ends.iter().any(|at| !cell(*at).is_empty());
            sizes.codes += 1;
            sizes.retired += usize::from(is_over);
            if !cell(list).is_empty() && !sizes.lists.iter().any(|held| held == cell(list)) {
                sizes.lists.push(cell(list).to_owned());
            }
        }
        sizes
    }
}

fn to_json(standard: &Standard) -> Result<Value, Failure> {
    let entities: Vec<Value> = standard
        .entities()
        .map(|entity| {
            json!({
                "name": entity.name,
                "title_zh": entity.title_zh,
                "title_en": entity.title_en,
                "version": entity.version,
                "fields": entity.fields.len(),
                "key": key(entity),
                "built_in": standard.is_builtin_entity(entity),
            })
        })
        .collect();
    let mut tables = Vec::new();
    for name in standard.tables() {
        let (title, sizes) = (standard.title(name), Sizes::of(&standard.table(name).map_err(broken)?));
        tables.push(json!({
            "name": name,
            "title_zh": title.zh,
            "title_en": title.en,
            "version": title.version,
            "codes": sizes.codes,
            "retired": sizes.retired,
            "lists": sizes.lists,
            "built_in": standard.is_builtin_table(name),
        }));
    }
    let checks: Vec<Value> = CHECKS
        .iter()
        .map(|check| json!({ "kind": check.kind, "title_zh": check.zh, "title_en": check.en, "basis": check.basis }))
        .collect();
    Ok(json!({ "version": standard.version(), "entities": entities, "tables": tables, "checks": checks }))
}
