//! Writers on several nodes, each in rows that no other one writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use spock_recovery_cluster::{Cluster, Server, client};

use crate::cluster::DATABASE;
use crate::error::Result;

/// The ids of a node's writer begin at its number times this.
pub const RANGE: i64 = 1_000_000_000;

/// Runs `act` while each of the named nodes writes. `transaction` gives what its writer sends as one transaction, for a row's id and
/// the node's name. A writer goes on where an earlier one of its node has ended; `pause` is how long it rests in between.
pub fn during<T>(
    cluster: &Cluster,
    names: &[&str],
    pause: Duration,
    transaction: fn(i64, &str) -> String,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = numbered(cluster)
            .filter(|(node, _)| names.contains(&node.name()))
            .map(|(node, number)| {
                let stop = &stop;
                scope.spawn(move || write(node, number, pause, transaction, stop))
            })
            .collect();
        let acted = {
            let _guard = StopAtEnd(&stop);
            act()
        };
        for writer in writers {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        acted
    })
}

/// Every node with the number of its writer.
pub fn numbered(cluster: &Cluster) -> impl Iterator<Item = (&Arc<Server>, i64)> {
    cluster.servers().iter().zip(1_i64..)
}

/// The writers end also where `act` panics: the scope waits for them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn write(
    node: &Server,
    number: i64,
    pause: Duration,
    transaction: fn(i64, &str) -> String,
    stop: &AtomicBool,
) -> Result<()> {
    let mut session = node.connect(DATABASE)?;
    let (from, to) = (number * RANGE, (number + 1) * RANGE);
    let last = format!("SELECT coalesce(max(id), {from}) FROM crash_test WHERE id > {from} AND id < {to}");
    let mut row = client::first(client::query(node.name(), &mut session, &last)?).parse().unwrap_or(from);
    while !stop.load(Ordering::SeqCst) {
        row += 1;
        client::query(node.name(), &mut session, &transaction(row, node.name()))?;
        thread::sleep(pause);
    }
    Ok(())
}
