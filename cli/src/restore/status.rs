//! `spockctl restore status`: how far each node has come, from the journals alone.

use std::path::PathBuf;

use super::check::Ground;
use super::error::{Error, Result};
use super::journal::{Journal, Step};
use super::server;
use crate::screen::Screen;
use crate::table;

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: Option<PathBuf>,
    pub pgdata: Vec<PathBuf>,
    pub into: Option<PathBuf>,
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let mut journals = Vec::new();
    if let Some(repository) = &options.repository {
        let ground = Ground::open(repository)?;
        for node in ground.repository.nodes() {
            let own = Journal::read(&ground.data_of(node, options.into.as_deref()))?;
            journals.extend(own.or(Journal::of_repository(&ground.repository, &node.name)?));
        }
    }
    for pgdata in &options.pgdata {
        journals.extend(Journal::read(pgdata)?);
    }
    if journals.is_empty() {
        return Err(Error::None(String::new()));
    }
    let heading = ["node", "restore to", "state", "server", "next", "former data directory"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for journal in &journals {
        let runs = if server::running(&journal.pgdata).is_some() { "runs" } else { "down" };
        // Once it was put back it has its old name.
        let before = journal.before.as_ref().filter(|_| journal.step != Step::Cancelled);
        let before = before.map_or("-".into(), |before| before.display().to_string());
        rows.push(vec![
            journal.node.clone(),
            journal.moment.to_string(),
            journal.step.words().into(),
            runs.into(),
            journal.step.next_command().into(),
            before,
        ]);
    }
    table::lines(&rows).into_iter().for_each(|line| screen.line(line));
    Ok(())
}
