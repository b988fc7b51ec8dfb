//! create_rescue_subscription(). Its CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::intent::document::Request;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::name::Name;
use crate::pg::process;
use crate::pg::text::Text;
use crate::recover::begin;
use crate::recover::error::RecoverError;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

const FUNCTION: &str = "create_rescue_subscription";
const EXAMPLE: &str =
    "SELECT spock.create_rescue_subscription('n2', 'n3', 'spk_recovery_db_clone_…', failed_node := 'n1');";

/// Records that this node is to replay, from a clone on the source, what it lacks of the failed node. Nothing else is
/// changed until the caller has committed; then it is carried out.
#[pg_extern(sql = false)]
fn create_rescue_subscription(
    target_node: Option<Name>,
    source_node: Option<Name>,
    cloned_slot: Option<Text>,
    skip_lsn: Option<OriginLsn>,
    stop_lsn: Option<OriginLsn>,
    stop_timestamp: Option<TimestampWithTimeZone>,
    failed_node: Option<Name>,
) -> Oid {
    if !process::is_superuser() {
        raise(&RecoverError::NotSuperuser { function: FUNCTION.to_owned() });
    }
    let mut request = Request {
        failed: failed_node.map(|name| name.0).unwrap_or_default(),
        source: required(source_node, "source_node").0,
        target: required(target_node, "target_node").0,
        clone: Some(required(cloned_slot, "cloned_slot").to_utf8()),
        skip: skip_lsn,
        stop: stop_lsn,
        stop_timestamp: stop_timestamp.map(Timestamp::from),
        rebuild: None,
    };
    let (_, subscription) = begin::begin(&mut request, None).or_raise();
    subscription
}

fn required<T>(value: Option<T>, argument: &'static str) -> T {
    value.ok_or(RecoverError::NullArgument { argument, hint: EXAMPLE }).or_raise()
}
