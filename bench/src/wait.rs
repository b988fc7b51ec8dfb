//! Questions to a node, and waiting until one has the answer that is wanted.

use std::time::Duration;

use spock_recovery_cluster::{Server, client, deadline};

use crate::error::{Error, Result};

/// The database of every scenario.
pub const DATABASE: &str = "postgres";

/// A step that takes this long on a busy machine is broken.
pub const LIMIT: Duration = Duration::from_secs(900);

/// Runs statements in a session of their own.
pub fn sql(node: &Server, statements: &str) -> Result<()> {
    node.query(DATABASE, statements)?;
    Ok(())
}

/// The first value of the first row; empty for NULL and for no row.
pub fn value(node: &Server, question: &str) -> Result<String> {
    Ok(node.value(DATABASE, question)?)
}

pub fn number(node: &Server, question: &str) -> Result<f64> {
    let answer = value(node, question)?;
    answer.parse().map_err(|_| Error::Verification(format!("{}: \"{answer}\" is no number: {question}", node.name())))
}

/// Waits until the question is answered with true.
pub fn until(node: &Server, question: &str) -> Result<()> {
    Ok(node.wait_until(DATABASE, question, question, LIMIT)?)
}

/// The same, in vain once whoever was to bring that about `has_ended`.
pub fn until_ended(node: &Server, question: &str, has_ended: impl Fn() -> bool) -> Result<()> {
    let mut session = node.connect(DATABASE)?;
    deadline::wait(&format!("{question} on {}", node.name()), LIMIT, |last| {
        let ended = has_ended();
        *last = client::first(client::query(node.name(), &mut session, question)?);
        match last == "t" {
            true => Ok(Some(())),
            false if ended => Err(Error::Verification(format!("{}: it ended before {question}", node.name()))),
            false => Ok(None),
        }
    })
}

/// The same on both, or the figures are worth nothing.
pub fn same(nodes: &[&Server], question: &str) -> Result<()> {
    let mut answers = Vec::new();
    for node in nodes {
        answers.push((node.name(), node.query(DATABASE, question)?));
    }
    match answers.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        true => Ok(()),
        false => Err(Error::Verification(format!("the nodes differ in \"{question}\": {answers:?}"))),
    }
}
