//! `guitong status`: what a running exchange says of itself.

use std::path::PathBuf;

use clap::Args;

use crate::control::Client;
use crate::exit::Failure;

#[derive(Debug, Args)]
pub(super) struct StatusCommand {
    /// The exchange directory
    #[arg(default_value = ".", env = "GUITONG_DIR")]
    dir: PathBuf,
    /// Print the document of /v1/status
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(super) async fn execute(self) -> Result<(), Failure> {
        let client = Client::require(&self.dir).await?;
        let status = client.status().await?;
        if self.json {
            let text = serde_json::to_string_pretty(&status).map_err(|error| Failure::unreachable(error.to_string()))?;
            say!("{text}");
        } else {
            crate::output::write(status.render());
        }
        Ok(())
    }
}
