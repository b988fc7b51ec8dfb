//! The one call, with what the server tells meanwhile.

use std::time::{Duration, Instant};

use spock_recovery_cluster::{Server, client};

use crate::cluster::DATABASE;
use crate::error::Result;
use crate::screen::Screen;

use super::{FAILED, SOURCE, TARGET};

/// From CALL to its return.
pub fn call(target: &Server, screen: &Screen) -> Result<Duration> {
    let statement = format!(
        "CALL spock.recover_run(failed_node_name := '{FAILED}', source_node_name := '{SOURCE}', target_node_name := '{TARGET}', verb := true)"
    );
    show_call(target, &statement, "recovering", screen)
}

/// A statement that takes its time, with its notices as they come.
pub fn show_call(node: &Server, statement: &str, doing: &str, screen: &Screen) -> Result<Duration> {
    screen.line("");
    screen.line(format!("on {}:", node.name()));
    screen.line(format!("  {statement}"));
    let told = screen.clone();
    let mut config = node.config(DATABASE);
    config.notice_callback(move |notice| told.line(format!("  {}:  {}", notice.severity(), notice.message())));
    let mut session = client::connect(node.name(), &config)?;
    let step = screen.spinner(doing);
    let begun = Instant::now();
    client::query(node.name(), &mut session, statement)?;
    let elapsed = begun.elapsed();
    drop(step);
    screen.line("");
    Ok(elapsed)
}
