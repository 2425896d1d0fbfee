//! `guitong check`: every problem of a directory, with its place, and nothing started.

use std::path::PathBuf;

use clap::Args;
use guitong_govern::Entitlement;
use guitong_schemas::contract::Directory;
use guitong_schemas::contract::load::Purpose;

use crate::exit::{self, Failure};
use crate::open;

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
    pub(super) fn execute(self, color: bool) -> Result<(), Failure> {
        match open::read(&self.dir, Purpose::Check { unset_secrets: self.unset_secrets }) {
            Ok(directory) => {
                grants(&directory)?;
                if self.json {
                    println!(
                        "{}",
                        serde_json::json!({ "valid": true, "revision": directory.revision.to_string(), "problems": [] })
                    );
                    return Ok(());
                }
                println!(
                    "{} systems, {} resources, {} subscriptions and {} departments are well. Nothing was started.",
                    directory.systems.len(),
                    directory.resources.len(),
                    directory.subscriptions.len(),
                    directory.departments.len()
                );
                Ok(())
            }
            Err(problems) => {
                if self.json {
                    println!("{}", problems.to_json());
                } else {
                    eprint!("{}", problems.render(color));
                }
                Err(Failure { code: exit::NO, message: String::new(), help: None })
            }
        }
    }
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
