//! `guitong resource draft`: how a department's table becomes a resource.

use std::path::PathBuf;

use clap::Args;
use guitong_connectors::inspect::Selection;
use guitong_normalise::draft::{Draft, Heading, draft};
use guitong_schemas::contract::{Directory, System};
use guitong_schemas::profile::{Profile, TableProfile, Values};
use guitong_schemas::standard::Entity;
use serde_json::json;

use super::InDirectory;
use super::inspect::{look, table_name};
use crate::exit::{Failure, UNREACHABLE};
use crate::{open, prepare};

#[derive(Debug, Args)]
pub(super) struct DraftCommand {
    /// Name of the system that has the table, or of the resource to be; then --system names the system where several tail the table
    name: String,
    /// The table, as schema.table
    #[arg(long)]
    table: String,
    /// The entity of the standard that its rows are, such as LegalEntity
    #[arg(long)]
    entity: String,
    /// The system that has the table
    #[arg(long)]
    system: Option<String>,
    /// Write the file here, where none is yet; printed unless given
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print an array of column, field, transform, confidence and reason instead
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[command(flatten)]
    at: InDirectory,
}

impl DraftCommand {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = open::draft_or_report(&self.at.dir, color)?;
        let system = self.find_system(&directory)?;
        let entity = directory.standard.entity(&self.entity).ok_or_else(|| unknown_entity(&directory, &self.entity))?;
        let table = look_at(&directory, system, &self.table).await?;
        let drafted = draft(&table, entity, &directory.standard);
        if self.json {
            say!("{}", as_json(&drafted)?);
            return Ok(());
        }
        let code = free_code(&directory);
        let title = table.comment.clone().unwrap_or_else(|| entity.title_zh.clone());
        let heading = Heading { code: &code, system: system.name.as_str(), table: &table.table, title: title.trim() };
        let text = drafted.to_toml(heading, &table, entity);
        if !system.tails(&table_name(system, &table.table)) {
            note!("note: system {} does not tail {} yet: add it to its `tables`", system.name, table.table);
        }
        match &self.output {
            None => crate::output::write(text),
            Some(path) => {
                write(path, &text)?;
                note!("{}", summary(&drafted, entity, path));
            }
        }
        Ok(())
    }

    /// The system: that of `--system`, that named, or the only one that tails the table.
    fn find_system<'d>(&self, directory: &'d Directory) -> Result<&'d System, Failure> {
        if let Some(name) = &self.system {
            return prepare::system(directory, name);
        }
        if let Some(system) = directory.systems.get(self.name.as_str()) {
            return Ok(system);
        }
        let tails = |system: &&System| system.tails(&table_name(system, &self.table));
        let systems = || directory.systems.values().map(|system| &**system);
        let mut tailing = systems().filter(tails);
        match (tailing.next(), tailing.next(), directory.systems.len()) {
            (Some(system), None, _) => Ok(system),
            (None, _, 1) => systems().next().ok_or_else(|| Failure::usage("the directory has no system")),
            _ => {
                let names: Vec<&str> = directory.systems.keys().map(|name| name.as_str()).collect();
                let help = format!("name the system with --system: {}", names.join(", "));
                Err(Failure::usage(format!("it is not clear which system has the table {}", self.table)).help(help))
            }
        }
    }
}

fn unknown_entity(directory: &Directory, name: &str) -> Failure {
    let names: Vec<String> =
        directory.standard.entities().map(|entity| format!("{} ({})", entity.name, entity.title_zh)).collect();
    Failure::usage(format!("the standard has no entity `{name}`")).help(format!("entities are: {}", names.join(", ")))
}

/// The table as it is now; where its database is not reachable, as it was when it was inspected.
async fn look_at(directory: &Directory, system: &System, table: &str) -> Result<TableProfile, Failure> {
    let name = table_name(system, table);
    let looked = look(directory, system, &Selection::Named(vec![name.clone()]), &[Values::Codes]).await;
    match looked {
        Ok(profiles) => profiles.into_iter().flatten().next().ok_or_else(|| Failure::no(format!("there is no table {name}"))),
        Err(failure) if failure.code == UNREACHABLE => {
            let saved = Profile::load(&directory.root, system.name.as_str()).ok().flatten();
            let Some((taken, table)) =
                saved.and_then(|saved| Some((saved.taken.clone(), saved.table(&name.to_string())?.clone())))
            else {
                return Err(failure);
            };
            note!("{failure}\nnote: drafting from the profile of {taken}");
            Ok(table)
        }
        Err(failure) => Err(failure),
    }
}

/// A code that no resource has: of the form of the catalogue's codes, and none of them. Files of resources are looked at as they are,
/// since one that is not finished has its code as well.
fn free_code(directory: &Directory) -> String {
    let files = std::fs::read_dir(directory.root.join("resources")).into_iter().flatten().flatten();
    let texts: Vec<String> = files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
    let taken = |code: &String| texts.iter().any(|text| text.contains(code));
    (1..).map(|serial: u32| format!("300000/{serial:06}")).find(|code| !taken(code)).unwrap_or_default()
}

fn as_json(drafted: &Draft) -> Result<String, Failure> {
    let lines = drafted.lines.iter().map(|line| serde_json::to_value(line).unwrap_or_default());
    let left = drafted
        .left_out
        .iter()
        .map(|left| json!({ "column": left.column, "field": null, "transform": {}, "confidence": 0.0, "reason": left.reason }));
    let all: Vec<serde_json::Value> = lines.chain(left).collect();
    serde_json::to_string_pretty(&all).map_err(|error| Failure::unreachable(error.to_string()))
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} is there already", path.display())).help("nothing was written; name another file")
        }
        _ => Failure::unreachable(format!("{}: {error}", path.display())),
    };
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

fn summary(drafted: &Draft, entity: &Entity, path: &std::path::Path) -> String {
    let count = |grade: &str| drafted.lines.iter().filter(|line| line.grade() == grade).count();
    format!(
        "{}: {} of {} fields of {}: {} high, {} medium, {} low; {} columns left out",
        path.display(),
        drafted.lines.len(),
        entity.fields.len(),
        entity.name,
        count("high"),
        count("medium"),
        count("low"),
        drafted.left_out.len()
    )
}
