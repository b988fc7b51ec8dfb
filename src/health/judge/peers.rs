//! The checks of peers, and of the subscriptions that come from them (pure).

use super::{Check, Status, check, dropping};
use crate::counted::counted;
use crate::quoted::identifier;

/// What a poller reports if it has no connection string for a peer.
pub const NO_ROUTE: &str = "no connection string is known";

/// The beginning of what a poller reports if a peer has answered with an ERROR.
pub const OWN_ERROR: &str = "it answers with an error of its own";

/// A peer, as its poller sees it.
#[derive(Clone, Debug)]
pub struct PeerHealth {
    pub name: String,
    pub state: &'static str,
    pub answers: bool,
    pub error: String,
    /// Seconds since the peer's last answer; None: it has never answered.
    pub silent_for_s: Option<u64>,
    /// Whether the peer has said that this node is its peer, or was not asked yet.
    pub knows_this_node: bool,
    /// The name of this node, for the advice.
    pub local: String,
    /// The peer is asked so often that its last answer is never older than this many seconds.
    pub longest_silence_s: u64,
    /// The document that cannot be read, if there is one: no node can be dropped then.
    pub unreadable: Option<String>,
}

pub fn peer(facts: &PeerHealth) -> Check {
    let name = format!("peer {}", facts.name);
    if facts.answers {
        return match facts.silent_for_s {
            Some(seconds) if seconds > facts.longest_silence_s => check(
                &name,
                Status::Critical,
                format!(
                    "its poller has not asked it for {seconds} s: the poller is not running or is blocked; see the \
                     server's log for the cause"
                ),
            ),
            _ if !facts.knows_this_node => check(
                &name,
                Status::Warning,
                format!(
                    "node \"{1}\" answers, but node \"{0}\" is not its peer: \"{1}\" keeps no WAL for \"{0}\", and leaves it out \
                     of a recovery that is called there. To change that, on node \"{1}\": SELECT spock.peer_create('{2}', 'host=…')",
                    facts.local,
                    facts.name,
                    facts.local.replace('\'', "''")
                ),
            ),
            _ => check(&name, Status::Healthy, "answers"),
        };
    }
    let since = facts
        .silent_for_s
        .map_or_else(|| "it has never answered".to_owned(), |seconds| format!("last answer {seconds} s ago"));
    let why = if facts.error.is_empty() { facts.state } else { &facts.error };
    let status =
        if facts.silent_for_s.is_none() && facts.state == "unknown" { Status::Warning } else { Status::Critical };
    let quoted = facts.name.replace('\'', "''");
    let advice = match facts.state {
        "other server" => format!(
            "; its answers are ignored: if node \"{}\" was rebuilt there, SELECT spock.peer_create('{quoted}', \
             'host=…'); otherwise another server is answering in its place",
            facts.name
        ),
        "other node" => format!(
            "; if the node has another name now, its subscription is assigned to that name within a minute; if the \
             connection string is wrong: ALTER USER MAPPING FOR PUBLIC SERVER {} OPTIONS (SET dsn 'host=…')",
            identifier(&facts.name)
        ),
        _ if facts.error == NO_ROUTE => format!(
            "; SELECT spock.peer_create('{quoted}', 'host=…'); or, if it is gone for good, {}",
            dropping(&facts.name, facts.unreadable.as_deref())
        ),
        _ => String::new(),
    };
    if facts.error.starts_with(OWN_ERROR) {
        // The peer may well be a node. The state only says that its answer cannot be used.
        return check(&name, status, format!("{}; {since}", facts.error));
    }
    check(&name, status, format!("{}: {why}; {since}{advice}", facts.state))
}

/// What a recovery of this node from a peer would lack, according to its poller. None: the peer has not reported it,
/// and its own row says why.
pub fn source(peer: &str, lacks: Option<(u32, &str)>) -> Option<Check> {
    let name = format!("source {peer}");
    Some(match lacks? {
        (0, _) => check(
            &name,
            Status::Healthy,
            "its settings and free slots, and the privileges of the role, suffice for a recovery",
        ),
        (count, told) => {
            let problems = counted(count, "problem");
            check(&name, Status::Warning, format!("a recovery from it would meet {problems}: {told}"))
        }
    })
}

/// A node that asks this one and is not its peer.
#[derive(Clone, Debug)]
pub struct AskerHealth {
    pub name: String,
    /// The role with which the node asks here.
    pub role: String,
    /// If a peer with that name is another server: the known identity and the reported one, in words.
    pub conflict: Option<(String, String)>,
}

pub fn asker(facts: &AskerHealth) -> Check {
    let AskerHealth { name, role, conflict } = facts;
    let quoted = name.replace('\'', "''");
    let details = match conflict {
        None => format!(
            "node \"{name}\" polls this node as role \"{role}\", but is not its peer: this node keeps no WAL for it, and \
             leaves it out of a recovery that is called here. To change that: SELECT spock.peer_create('{quoted}', 'host=…')"
        ),
        Some((known, found)) => format!(
            "a node connects here as role \"{role}\" under the name of a peer that is known with {known}, but reports \
             {found}; if the node was rebuilt there: SELECT spock.peer_create('{quoted}', 'host=…')"
        ),
    };
    check(&format!("asker {name}"), Status::Warning, details)
}

/// An enabled subscription that has failed, and whose worker is not running at this moment.
pub fn failing(subscription: &str, origin: Option<&str>, errors: i64) -> Check {
    let from = origin.map_or_else(String::new, |node| format!(" from node \"{node}\""));
    check(
        &format!("subscription {subscription}"),
        Status::Warning,
        format!(
            "its apply worker is not running, and has failed {} since the statistics were reset: replication{from} may \
             have stopped, and other nodes keep WAL for it; see the server's log for the cause",
            counted(errors, "time")
        ),
    )
}

/// A subscription of unknown origin.
#[derive(Clone, Debug, Default)]
pub struct UnknownOriginFacts {
    pub subscription: String,
    pub owner: String,
    /// The node that a superuser has named, before the connection was changed.
    pub was: Option<String>,
    /// The name that the provider has answered; empty if it was not reached.
    pub says: String,
    pub local: String,
    /// If the node of that name is known and is another server: the known identity and the reported one, in words.
    pub conflict: Option<(String, String)>,
    /// Whether the subscription counts, so that the slot cannot advance.
    pub holds: bool,
    pub is_trusted: bool,
}

pub fn unknown_origin(facts: &UnknownOriginFacts) -> Check {
    let UnknownOriginFacts { says, .. } = facts;
    let quoted = |name: &str| name.replace('\'', "''");
    let name = &facts.subscription;
    let sub = quoted(name);
    let says_so = if says.is_empty() { String::new() } else { format!("its provider says that it is node \"{says}\"") };
    if !facts.is_trusted {
        // What an untrusted provider says leads to no advice, and neither does the name that it gives.
        let mut why = format!("its owner \"{}\" is not a superuser", facts.owner);
        if let Some(was) = &facts.was {
            why.push_str(&format!(", and its connection was changed since node \"{was}\" was named as its provider"));
        }
        if !says_so.is_empty() {
            why.push_str(&format!("; {says_so}, which is ignored"));
        }
        return check(
            &format!("subscription {name}"),
            Status::Warning,
            format!(
                "{why}; no node keeps WAL for it: SELECT spock.sub_set_origin('{sub}', NULL) if it comes from no node \
                 of the mesh; if its owner may speak for a node, SELECT spock.sub_set_origin('{sub}', '…')"
            ),
        );
    }
    let why = match &facts.conflict {
        Some((known, found)) => format!(
            "{says_so}, but that node is known with {known}, and the provider reports {found}; if the node was \
             rebuilt: SELECT spock.peer_create('{}', 'host=…')",
            quoted(says)
        ),
        None if says.is_empty() => "its provider node is not known".to_owned(),
        None if *says == facts.local => format!("{says_so}, which is the name of this node"),
        None => says_so,
    };
    let effect = match facts.holds {
        true => "so the recovery slot cannot advance",
        false => "but it is disabled and has no table, so the slot does not wait for it",
    };
    let node = if says.is_empty() || *says == facts.local || facts.conflict.is_some() { "…" } else { says };
    check(
        &format!("subscription {name}"),
        if facts.conflict.is_some() { Status::Critical } else { Status::Warning },
        format!(
            "{why}, {effect}: SELECT spock.sub_set_origin('{sub}', '{}'); or, if its provider is not a node of this \
             mesh, SELECT spock.sub_set_origin('{sub}', NULL)",
            quoted(node)
        ),
    )
}

/// A node that is back and whose subscription must not be resumed.
pub fn returned(node: &str, verdict: &str, subscription: &str) -> Check {
    check(
        &format!("returned {node}"),
        Status::Critical,
        format!(
            "{verdict}; its subscription stays disabled, because its new transactions would be skipped: rebuild node \
             \"{node}\" from a survivor; only if it is a complete copy after all, ALTER SUBSCRIPTION {} ENABLE",
            identifier(subscription)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_critical_with_its_reason() {
        let facts = PeerHealth {
            longest_silence_s: 60,
            knows_this_node: true,
            local: "n'1".to_owned(),
            name: "n2".to_owned(),
            state: "unreachable",
            answers: false,
            error: "no answer within 5000 ms".to_owned(),
            silent_for_s: Some(9),
            unreadable: None,
        };
        let verdict = peer(&facts);
        assert_eq!(verdict.status, Status::Critical);
        assert_eq!(verdict.details, "unreachable: no answer within 5000 ms; last answer 9 s ago");
        let answers = PeerHealth { answers: true, ..facts };
        assert_eq!(peer(&answers).status, Status::Healthy);
        // The peer keeps nothing for this node.
        let unknown = peer(&PeerHealth { knows_this_node: false, ..answers.clone() });
        assert_eq!(unknown.status, Status::Warning);
        assert!(
            unknown.details.contains("on node \"n2\": SELECT spock.peer_create('n''1', 'host=…')"),
            "{}",
            unknown.details
        );
        // The peer is not asked any more.
        let forgotten = peer(&PeerHealth { silent_for_s: Some(61), ..answers });
        assert_eq!(forgotten.status, Status::Critical);
        assert!(forgotten.details.contains("its poller has not asked it for 61 s"), "{}", forgotten.details);
    }

    #[test]
    fn a_peer_that_answers_with_an_error_is_not_said_to_be_no_node() {
        let facts = PeerHealth {
            longest_silence_s: 60,
            knows_this_node: true,
            local: "n1".to_owned(),
            name: "n2".to_owned(),
            state: "not a node",
            answers: false,
            error: format!("{OWN_ERROR}, SQLSTATE 0A000: a document cannot be read"),
            silent_for_s: Some(9),
            unreadable: None,
        };
        let verdict = peer(&facts);
        assert_eq!(verdict.status, Status::Critical);
        assert_eq!(verdict.details, format!("{}; last answer 9 s ago", facts.error));
        let verdict = peer(&PeerHealth { error: "it is not a node".to_owned(), ..facts });
        assert_eq!(verdict.details, "not a node: it is not a node; last answer 9 s ago");
    }

    #[test]
    fn a_peer_to_which_no_way_is_known_may_be_dropped_where_every_document_can_be_read() {
        let facts = PeerHealth {
            longest_silence_s: 60,
            knows_this_node: true,
            local: "n1".to_owned(),
            name: "n'2".to_owned(),
            state: "unreachable",
            answers: false,
            error: NO_ROUTE.to_owned(),
            silent_for_s: None,
            unreadable: None,
        };
        let verdict = peer(&facts);
        assert!(verdict.details.ends_with("gone for good, SELECT spock.node_drop('n''2')"), "{}", verdict.details);
        let verdict = peer(&PeerHealth { unreadable: Some("journal".to_owned()), ..facts });
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.contains("once document journal can be read"), "{}", verdict.details);
        assert!(!verdict.details.contains("node_drop"), "{}", verdict.details);
    }

    #[test]
    fn a_node_that_asks_and_is_no_peer_is_named_with_the_command() {
        let facts = AskerHealth { name: "n'4".to_owned(), role: "r".to_owned(), conflict: None };
        let verdict = asker(&facts);
        assert_eq!((verdict.name.as_str(), verdict.status), ("asker n'4", Status::Warning));
        assert!(verdict.details.contains("SELECT spock.peer_create('n''4', 'host=…')"), "{}", verdict.details);
        let conflict = Some(("one".to_owned(), "another".to_owned()));
        let verdict = asker(&AskerHealth { conflict, ..facts });
        assert!(verdict.details.starts_with("a node connects"), "{}", verdict.details);
    }

    #[test]
    fn what_a_source_would_lack_is_told() {
        assert_eq!(source("n3", None), None);
        assert_eq!(source("n3", Some((0, ""))).map(|row| row.status), Some(Status::Healthy));
        let row = source("n3", Some((2, "one; other"))).expect("a row");
        assert_eq!((row.name.as_str(), row.status), ("source n3", Status::Warning));
        assert_eq!(row.details, "a recovery from it would meet 2 problems: one; other");
    }

    #[test]
    fn a_subscription_of_unknown_origin_is_told_with_what_to_type() {
        let facts = UnknownOriginFacts {
            subscription: "s'1".to_owned(),
            local: "n1".to_owned(),
            holds: true,
            is_trusted: true,
            ..UnknownOriginFacts::default()
        };
        let none = "SELECT spock.sub_set_origin('s''1', NULL)";
        let verdict = unknown_origin(&facts);
        assert_eq!(verdict.status, Status::Warning);
        for part in
            ["its provider node is not known", "the recovery slot cannot advance", "sub_set_origin('s''1', '…')", none]
        {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let strangers = UnknownOriginFacts {
            says: "n'3".to_owned(),
            owner: "bob".to_owned(),
            holds: false,
            is_trusted: false,
            ..facts.clone()
        };
        let verdict = unknown_origin(&strangers);
        for part in ["\"bob\" is not a superuser", "no node keeps WAL for it", "sub_set_origin('s''1', '…')", none] {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let moved = UnknownOriginFacts { was: Some("n2".to_owned()), ..strangers };
        assert!(
            unknown_origin(&moved).details.contains("its connection was changed since"),
            "{}",
            unknown_origin(&moved).details
        );
        let of_ours = UnknownOriginFacts { says: "n1".to_owned(), ..facts.clone() };
        assert!(unknown_origin(&of_ours).details.contains("which is the name of this node"));
        assert!(unknown_origin(&UnknownOriginFacts { holds: false, ..facts.clone() }).details.contains("has no table"));
        let conflict = Some(("one".to_owned(), "another".to_owned()));
        let facts = UnknownOriginFacts { says: "n3".to_owned(), conflict, ..facts };
        let verdict = unknown_origin(&facts);
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.contains("SELECT spock.peer_create('n3', "), "{}", verdict.details);
        // The answer of an untrusted provider leads to no advice.
        let verdict = unknown_origin(&UnknownOriginFacts { is_trusted: false, ..facts });
        assert_eq!(verdict.status, Status::Warning);
        assert!(!verdict.details.contains("peer_create") && !verdict.details.contains("'n3')"), "{}", verdict.details);
    }
}
