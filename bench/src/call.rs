//! CALL spock.recover_run() and the like, in a session of its own while others are asked.

use std::thread;

use spock_recovery_cluster::{Server, client};

use crate::error::{Error, Result, joined};
use crate::wait::{self, DATABASE};

/// n2 is recovered from n3 after the loss of n1.
pub const N2_FROM_N3: &str = "failed_node_name := 'n1', source_node_name := 'n3', target_node_name := 'n2'";

pub struct Call {
    thread: thread::JoinHandle<Result<()>>,
}

impl Call {
    pub fn begin(node: &Server, arguments: &str) -> Call {
        Call::of(node, format!("CALL spock.recover_run({arguments})"))
    }

    /// Any other procedure.
    pub fn of(node: &Server, statement: String) -> Call {
        let (name, config) = (node.name().to_owned(), node.config(DATABASE));
        let thread = thread::spawn(move || {
            client::query(&name, &mut client::connect(&name, &config)?, &statement)?;
            Ok(())
        });
        Call { thread }
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn finish(self) -> Result<()> {
        joined(self.thread.join())
    }
}

/// Nobody has written to n1's rows but n1. Each conflict would be a look at a commit time and a line in the log, which the
/// native subscription spares itself.
pub fn expect_no_conflict(target: &Server) -> Result<()> {
    let question = "SELECT summary ->> 'conflicts' FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1";
    match wait::number(target, question)? {
        0.0 => Ok(()),
        conflicts => Err(Error::Verification(format!("the recovery has met {conflicts} conflicts"))),
    }
}
