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
    screen.line("");
    screen.line(format!("on {}:", target.name()));
    screen.line(format!("  {statement}"));
    let told = screen.clone();
    let mut config = target.config(DATABASE);
    config.notice_callback(move |notice| told.line(format!("  {}:  {}", notice.severity(), notice.message())));
    let mut session = client::connect(target.name(), &config)?;
    let step = screen.spinner("recovering");
    let begun = Instant::now();
    client::query(target.name(), &mut session, &statement)?;
    let elapsed = begun.elapsed();
    drop(step);
    screen.line("");
    Ok(elapsed)
}
