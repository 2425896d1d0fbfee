//! `guitong check`: every problem of a directory, with its place, and nothing started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use guitong_govern::Entitlement;
use guitong_schemas::contract::load::Purpose;
use guitong_schemas::contract::problem::{self, Well};
use guitong_schemas::contract::{Directory, Name, Problem, Problems, seen};
use guitong_schemas::standard::Zone;
use guitong_schemas::table::TableName;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::{open, trial};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The exchange directory
    #[arg(default_value = ".", env = "GUITONG_DIR")]
    dir: PathBuf,
    /// Let secrets pass that are not set in this place
    #[arg(long)]
    unset_secrets: bool,
    /// Print problems as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        let directory = match open::read(&self.dir, Purpose::Check { unset_secrets: self.unset_secrets }) {
            Ok(directory) => directory,
            Err(problems) => return Err(self.report(&problems, color)),
        };
        grants(&directory)?;
        mappings(&directory)?;
        let mut list = trial::check(&directory).await;
        if !list.is_empty() {
            let well = well(&directory, &list);
            list.splice(0..0, directory.warnings.iter().cloned());
            return Err(self.report(&Problems { well, list }, color));
        }
        let unseen = seen::unseen(&directory);
        if self.json {
            say!("{}", valid(&directory, &unseen));
            return Ok(());
        }
        crate::output::write_note(problem::render(&directory.warnings, color));
        for (system, tables) in &unseen {
            let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
            let (were, their) = if tables.len() == 1 { ("was", "its") } else { ("were", "their") };
            let tables = tables.join(", ");
            note!(
                "{tables} {were} not looked at, so {their} columns, types and codes are not checked; `guitong system inspect {system}` looks"
            );
        }
        let warned = match directory.warnings.len() {
            0 => String::new(),
            1 => " There is 1 warning.".to_owned(),
            warnings => format!(" There are {warnings} warnings."),
        };
        say!("{} are well.{warned} Nothing was started.", well(&directory, &[]));
        Ok(())
    }

    fn report(&self, problems: &Problems, color: bool) -> Failure {
        if self.json {
            say!("{}", problems.to_json());
        } else {
            crate::output::write_note(problems.render(color));
        }
        Failure { code: exit::NO, message: String::new(), help: None }
    }
}

/// What a program learns of a directory without an error.
fn valid(directory: &Directory, unseen: &BTreeMap<Name, BTreeSet<TableName>>) -> Value {
    let unseen = unseen.iter().flat_map(|(system, tables)| {
        tables.iter().map(move |table| json!({ "system": system.to_string(), "table": table.to_string() }))
    });
    json!({
        "valid": true,
        "revision": directory.revision.to_string(),
        "problems": [],
        "warnings": directory.warnings.iter().map(Problem::to_json).collect::<Vec<_>>(),
        "unseen": unseen.collect::<Vec<_>>(),
    })
}

/// What has no problem; these are all of examples.
fn well(directory: &Directory, list: &[Problem]) -> Well {
    let files: BTreeSet<&str> = list.iter().map(|problem| problem.file.as_str()).collect();
    Well {
        systems: directory.systems.len(),
        resources: directory.resources.len().saturating_sub(files.len()),
        departments: directory.departments.len(),
        subscriptions: directory.subscriptions.len(),
    }
}

/// Compiles each resource's mapping, as its normaliser will.
fn mappings(directory: &Directory) -> Result<(), Failure> {
    let zone = Zone::new(directory.exchange.time_zone.clone());
    for (name, resource) in &directory.resources {
        let compiled = guitong_normalise::verify(resource, &directory.standard, &zone);
        compiled.map_err(|error| Failure::no(format!("resources/{name}.toml: {error}")))?;
    }
    Ok(())
}

/// Compiles what each subscription grants, as its delivery will.
fn grants(directory: &Directory) -> Result<(), Failure> {
    for (name, subscription) in &directory.subscriptions {
        let resource = directory.resources.get(&subscription.resource);
        let entity = resource.and_then(|resource| directory.standard.entity(&resource.entity));
        if let (Some(resource), Some(entity)) = (resource, entity) {
            let compiled = Entitlement::compile(subscription, resource, entity, &directory.exchange.time_zone);
            compiled.map_err(|error| Failure::no(format!("subscriptions/{name}.toml: {error}")))?;
        }
    }
    Ok(())
}
