//! `guitong system inspect`: what a system's tables look like, for people, and as the profile that drafts and checks read.

use clap::Args;
use guitong_connectors::inspect::Selection;
use guitong_connectors::registration;
use guitong_normalise::draft::withhold_personal;
use guitong_schemas::contract::{Directory, System};
use guitong_schemas::profile::{ColumnProfile, Counted, ListCount, Profile, ProfileError, TableProfile, TableSample, Values};
use guitong_schemas::standard::{Clock, Zone};
use guitong_schemas::table::TableName;

use super::InDirectory;
use crate::exit::Failure;
use crate::{open, prepare, text};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Name of the system: its file in systems/
    name: String,
    /// A table to look at, as schema.table; all that the system tails unless given
    #[arg(long = "table", value_name = "TABLE", conflicts_with = "all")]
    tables: Vec<String>,
    /// Look at every table that the system's role may read, also those that are not tailed
    #[arg(long)]
    all: bool,
    /// Print the commonest values of every column, personal ones as well; they are not saved
    #[arg(long)]
    values: bool,
    /// Print the profile as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl Inspect {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = open::draft_or_report(&self.at.dir, color)?;
        let system = prepare::system(&directory, &self.name)?;
        let selection = match self.tables.as_slice() {
            [] if self.all => Selection::All,
            [] => Selection::Tailed,
            names => Selection::Named(names.iter().map(|name| table_name(system, name)).collect()),
        };
        let mut kinds = vec![Values::Plain];
        kinds.extend(self.values.then_some(Values::All));
        let mut looked = look(&directory, system, &selection, &kinds).await?;
        let shown = if self.values { looked.pop() } else { None };
        let saved = save(&directory, system, looked.pop().unwrap_or_default())?;
        let shown = shown.unwrap_or(saved);
        if self.json {
            let profile = Profile { system: self.name, taken: taken(&directory), tables: shown };
            let json = serde_json::to_string_pretty(&profile).map_err(|error| Failure::unreachable(error.to_string()))?;
            say!("{json}");
        } else {
            shown.iter().for_each(print_table);
        }
        Ok(())
    }
}

/// The selected tables' profiles, once for each kind of them.
pub(super) async fn look(
    directory: &Directory,
    system: &System,
    selection: &Selection,
    kinds: &[Values],
) -> Result<Vec<Vec<TableProfile>>, Failure> {
    let zone = Zone::new(directory.exchange.time_zone.clone());
    let clock = Clock::at(jiff::Timestamp::now().as_microsecond(), &zone);
    let mut profiles = vec![Vec::new(); kinds.len()];
    let mut each = |sample: TableSample| {
        for (kind, profiles) in kinds.iter().zip(&mut profiles) {
            let mut table = sample.profile(&directory.standard, &clock, *kind);
            if *kind == Values::Plain {
                withhold_personal(&mut table, &directory.standard);
            }
            profiles.push(table);
        }
    };
    let lacking = registration::inspect(system, selection, &mut each).await.map_err(prepare::failure)?;
    lacking.iter().for_each(|grant| note!("left out for want of: {grant}"));
    Ok(profiles)
}

/// Puts the tables into the system's profile, and gives them back.
fn save(directory: &Directory, system: &System, tables: Vec<TableProfile>) -> Result<Vec<TableProfile>, Failure> {
    let failed = |error: ProfileError| Failure::unreachable(error.to_string());
    let name = system.name.to_string();
    // One that does not read is written anew.
    let known = Profile::load(&directory.root, &name).ok().flatten();
    let mut profile = known.unwrap_or_else(|| Profile { system: name, taken: String::new(), tables: Vec::new() });
    profile.taken = taken(directory);
    profile.merge(tables.clone());
    let path = profile.save(&directory.root).map_err(failed)?;
    note!("saved in {}", path.display());
    Ok(tables)
}

fn taken(directory: &Directory) -> String {
    jiff::Timestamp::now().to_zoned(directory.exchange.time_zone.clone()).strftime("%FT%T%:z").to_string()
}

/// `table`, or `schema.table`.
pub(super) fn table_name(system: &System, name: &str) -> TableName {
    let (schema, table) = name.split_once('.').unwrap_or((system.source.usual_schema(), name));
    TableName::new(schema, table)
}

fn print_table(table: &TableProfile) {
    let comment =
        table.comment.as_deref().map(|comment| format!("  {}", text::visible(&comment.replace('\n', " ")))).unwrap_or_default();
    let key = if table.key.is_empty() { "no key".to_owned() } else { format!("key {}", table.key.join(", ")) };
    let size = if table.bytes > 0 { format!(", {}", text::bytes(table.bytes)) } else { String::new() };
    let (rows, sampled) = (text::count(table.rows), text::count(table.sampled));
    say!("{}{comment}\n  about {rows} rows{size}; {key}; what follows is of {sampled} sampled rows", table.table);
    let of = |width: fn(&ColumnProfile) -> usize| table.columns.iter().map(width).max().unwrap_or_default().min(40);
    let (names, types) = (of(|column| text::width(&column.name)), of(|column| text::width(&column.declared)));
    for column in &table.columns {
        let title = text::visible(&column.comment.as_deref().unwrap_or_default().replace('\n', " "));
        let line = format!(
            "  {}  {}  {}",
            text::pad(&column.name, names),
            text::pad(&column.declared, types),
            describe(table, column, &title)
        );
        say!("{}", line.trim_end());
    }
    say!();
}

/// Checks that many values pass which are something else.
const VAGUE: [&str; 7] = ["decimal", "integer", "phone", "partial_date", "industry", "industry:2011", "education:1984"];

/// What there is to say of a column, on one line.
fn describe(table: &TableProfile, column: &ColumnProfile, title: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend((!title.is_empty()).then(|| title.to_owned()));
    let present = table.present(column);
    if present == 0 {
        parts.push("no values".to_owned());
        return parts.join("; ");
    }
    let share = |rows: u64, of: u64| format!("{:.0} %", 100.0 * rows as f64 / of.max(1) as f64);
    let missing = column.nulls + column.empty;
    parts.extend((missing > 0).then(|| format!("{} empty", share(missing, table.sampled))));
    parts.push(format!("{} distinct", text::count(column.distinct)));
    parts.extend(column.length.map(|length| match length.min == length.max {
        true => format!("{} characters", length.max),
        false => format!("{} to {} characters", length.min, length.max),
    }));
    let telling = |check: &String| !VAGUE.contains(&check.as_str());
    let mut checks: Vec<(&String, &u64)> =
        column.checks.iter().filter(|(check, rows)| telling(check) && **rows * 2 >= present).collect();
    checks.sort_by(|left, right| right.1.cmp(left.1).then(left.0.cmp(right.0)));
    parts.extend(checks.iter().map(|(check, rows)| format!("{check} {}", share(**rows, present))));
    let listed = |(name, count): (&String, &ListCount)| {
        let rows = count.by_code + count.by_name;
        (rows * 10 >= present * 9).then(|| format!("in {name} {}", share(rows, present)))
    };
    parts.extend(column.lists.iter().filter_map(listed).take(3));
    let value = |counted: &Counted| format!("{} ({})", text::visible(&counted.value), text::count(counted.rows));
    if !column.values.is_empty() {
        parts.push(column.values.iter().take(10).map(value).collect::<Vec<_>>().join(", "));
    }
    parts.extend(column.withheld.as_ref().map(|reason| format!("values not shown: {reason}")));
    parts.join("; ")
}
