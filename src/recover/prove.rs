//! The plan as the condition for changing anything. It is evaluated at the beginning of a recovery and by the rescue
//! worker, with both nodes' facts of that moment.

use super::error::RecoverError;
use crate::intent::document::Request;
use crate::plan::facts::NodeFacts;
use crate::plan::outcome::Outcome;
use crate::plan::range::Range;
use crate::plan::{self, Wishes};

/// The range to replay, if the plan permits the recovery. This node is the target, and `theirs` is what the source has
/// told it.
///
/// # Errors
///
/// If the plan does not permit the recovery, or its bounds make no sense.
pub fn prove(request: &Request, ours: &NodeFacts, theirs: &NodeFacts, wishes: Wishes) -> Result<Range, RecoverError> {
    let wishes = Wishes { knows_the_way: true, asked_by_target: true, ..wishes };
    let plan = plan::from_source(&request.failed, ours, theirs, &wishes)
        .map_err(|error| RecoverError::of_range(error, &request.failed, &request.source))?;
    match (plan.outcome, plan.range) {
        (Some(Outcome::ZeroGap | Outcome::CatchUp), Some(range)) => Ok(range),
        _ => Err(RecoverError::NotProved {
            failed: plan.failed.clone(),
            target: plan.target.clone(),
            reason: plan.reason,
            finding: plan.finding().unwrap_or_default().to_owned(),
            advice: plan.advice,
        }),
    }
}
