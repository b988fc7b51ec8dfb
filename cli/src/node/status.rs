//! `spockctl node status`: how far the making of a node has come, from its journal alone.

use std::path::Path;

use super::error::{Error, Result};
use super::journal::Journal;
use crate::restore::server;
use crate::screen::Screen;
use crate::table;

pub fn run(pgdata: &Path, screen: &Screen) -> Result<Journal> {
    let pgdata = std::path::absolute(pgdata).map_err(Error::io("look at", pgdata))?;
    let journal = Journal::read(&pgdata)?.ok_or(Error::None(pgdata))?;
    let runs = if server::running(&journal.pgdata).is_some() { "runs" } else { "down" };
    let heading = ["node", "replaces", "from", "state", "server", "next"].map(str::to_owned).to_vec();
    let row = vec![
        journal.name.clone(),
        journal.replaces.clone().unwrap_or_else(|| "-".into()),
        journal.source.clone(),
        journal.step.words().into(),
        runs.into(),
        journal.step.next_command().into(),
    ];
    table::lines(&[heading, row]).into_iter().for_each(|line| screen.line(line));
    Ok(journal)
}
