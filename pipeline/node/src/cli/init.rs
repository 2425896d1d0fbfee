//! `guitong init`: a commented, valid exchange directory.

use std::path::PathBuf;

use clap::Args;

use crate::exit::Failure;
use crate::template;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Directory to make; it must be empty or not exist
    dir: PathBuf,
}

impl Init {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let occupied = std::fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            return Err(
                Failure::usage(format!("{} is not empty", self.dir.display())).help("choose a directory that does not exist yet")
            );
        }
        for (path, content) in template::FILES {
            let target = self.dir.join(path);
            let written = target.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&target, content));
            written.map_err(|error| Failure::unreachable(format!("{}: {error}", target.display())))?;
            say!("  {}", target.display());
        }
        say!("Change the files to your departments, then: guitong check {}", self.dir.display());
        Ok(())
    }
}
