//! What pg_waldump prints of the records that matter here (pure): by xactdesc.c, replorigindesc.c and xlogdesc.c.

use super::instant::Instant;
use crate::lsn::Lsn;

/// XLOG_BLCKSZ of every server that distributions build.
const PAGE: u64 = 8192;
/// SizeOfXLogShortPHD, SizeOfXLogLongPHD: the header of a page, and of a segment's first one.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub lsn: Lsn,
    /// 0: none.
    pub xid: u32,
    /// Subtransactions of a commit.
    pub subxacts: Vec<u32>,
    /// Changes rows of a table that is no catalog.
    pub writes: bool,
    /// In bytes, without page headers.
    pub length: u64,
    /// The time of a commit, of COMMIT PREPARED too.
    pub commit: Option<Instant>,
    /// How far it brings an origin: the origin's id on this server, and the position there.
    pub origin: Option<(u32, Lsn)>,
    /// The name of a restore point.
    pub restore_point: Option<String>,
}

impl Record {
    /// None for a line that is no record.
    pub fn parse(line: &str) -> Option<Record> {
        let rest = line.strip_prefix("rmgr: ")?;
        let (rmgr, rest) = rest.split_once(' ')?;
        let (head, desc) = rest.split_once(", desc: ")?;
        let length = head.split_once("): ")?.1.split_once('/')?.1.split_once(',')?.0.trim().parse().ok()?;
        let lsn = head.split_once(", lsn: ")?.1.split_once(',')?.0.trim().parse().ok()?;
        let xid = head.split_once(", tx:")?.1.split_once(',')?.0.trim().parse().ok()?;
        let mut record = Record {
            lsn,
            xid,
            subxacts: Vec::new(),
            writes: false,
            length,
            commit: None,
            origin: None,
            restore_point: None,
        };
        match rmgr {
            "Heap" | "Heap2" => record.writes = writes(desc),
            "Transaction" => {
                record.commit = commit_time(desc);
                if let Some((prepared, _)) = desc.strip_prefix("COMMIT_PREPARED ").and_then(|rest| rest.split_once(':'))
                {
                    record.xid = prepared.parse().ok()?;
                }
                record.subxacts = desc.split_once("; subxacts: ").map_or(Vec::new(), |(_, rest)| {
                    let ids = rest.split(';').next().unwrap_or_default().split_whitespace();
                    ids.filter_map(|id| id.parse().ok()).collect()
                });
                // The last one: the name of a prepared transaction may say anything.
                record.origin = desc.rsplit_once("origin: node ").and_then(|(_, rest)| {
                    let (node, rest) = rest.split_once(", lsn ")?;
                    Some((node.parse().ok()?, rest.split([',', ';', ' ']).next()?.parse().ok()?))
                });
            }
            "ReplicationOrigin" => {
                record.origin = desc.split_once("set ").and_then(|(_, rest)| {
                    let (node, rest) = rest.split_once("; lsn ")?;
                    Some((node.parse().ok()?, rest.split(';').next()?.parse().ok()?))
                });
            }
            "XLOG" => record.restore_point = desc.strip_prefix("RESTORE_POINT ").map(str::to_owned),
            _ => {}
        }
        Some(record)
    }

    pub fn end(&self, segment_size: u64) -> Lsn {
        end(self.lsn, self.length, segment_size)
    }
}

/// The kinds of records that decoding makes changes of, on a relation whose file number is no catalog's (FirstNormalObjectId).
fn writes(desc: &str) -> bool {
    let kinds = ["INSERT", "UPDATE", "HOT_UPDATE", "DELETE", "MULTI_INSERT"];
    let of_user =
        desc.split("rel ").skip(1).filter_map(|rest| rest.split(' ').next()?.split('/').nth(2)?.parse::<u32>().ok());
    desc.starts_with("TRUNCATE")
        || kinds.iter().any(|kind| desc.starts_with(kind)) && of_user.into_iter().any(|file| file >= 16_384)
}

/// `COMMIT 2026-11-26 23:30:01.123456 UTC; …`, `COMMIT_PREPARED 731: 2026-…`
fn commit_time(desc: &str) -> Option<Instant> {
    let text = match desc.strip_prefix("COMMIT_PREPARED ") {
        Some(rest) => rest.split_once(": ")?.1,
        None => desc.strip_prefix("COMMIT ")?,
    };
    Instant::parse(text.split(';').next()?)
}

/// The end of a record, as XLogReader says it: the first byte behind it, aligned to eight, page headers in between counted.
pub fn end(start: Lsn, length: u64, segment_size: u64) -> Lsn {
    let mut left = length.next_multiple_of(8);
    let mut at = start.0;
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return Lsn(at + left);
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment_size) { LONG_HEADER } else { SHORT_HEADER };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB16: u64 = 16 << 20;

    fn parse(rmgr: &str, desc: &str) -> Record {
        let line = format!(
            "rmgr: {rmgr:<11} len (rec/tot):     66/   166, tx:        731, lsn: 0/01529A48, prev 0/01529A10, desc: {desc}"
        );
        Record::parse(&line).unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn a_commit_has_its_time_and_what_it_brings_of_an_origin() {
        let own = parse("Transaction", "COMMIT 2026-11-26 23:30:01.123456 UTC");
        assert_eq!((own.lsn, own.length, own.origin), (Lsn(0x0152_9A48), 166, None));
        assert_eq!(own.commit.map(|time| time.to_string()).as_deref(), Some("2026-11-26 23:30:01.123456 UTC"));
        let applied = parse(
            "Transaction",
            "COMMIT 2026-11-26 23:30:01.123456 UTC; inval msgs: relcache 5; origin: node 3, lsn 1/A0, at 2026-11-26 23:29:59.000000 UTC",
        );
        assert_eq!(applied.origin, Some((3, "1/A0".parse().expect("a position"))));
        let prepared =
            parse("Transaction", "COMMIT_PREPARED 731: 2026-11-26 23:30:01.000000 UTC; origin: node 3, lsn 0/B0, at x");
        assert!(prepared.commit.is_some() && prepared.origin == Some((3, Lsn(0xB0))));
    }

    #[test]
    fn a_name_that_looks_like_an_origin_is_none() {
        let desc =
            "PREPARE gid origin: node 9, lsn F/F: 2026-11-26 23:30:01.000000 UTC; origin: node 3, lsn 0/B0, at x";
        let prepared = parse("Transaction", desc);
        assert_eq!((prepared.origin, prepared.commit), (Some((3, Lsn(0xB0))), None));
    }

    #[test]
    fn an_origin_that_is_moved_by_hand_and_a_restore_point_are_found() {
        assert_eq!(parse("ReplicationOrigin", "SET set 2; lsn 0/77; force: 1").origin, Some((2, Lsn(0x77))));
        assert_eq!(parse("ReplicationOrigin", "DROP drop 2").origin, None);
        assert_eq!(parse("XLOG", "RESTORE_POINT a b").restore_point.as_deref(), Some("a b"));
        assert_eq!(Record::parse("first record is after 0/1, at 0/28, skipping over 9 bytes"), None);
    }

    #[test]
    fn changes_of_users_tables_are_told_from_those_of_catalogs() {
        let change = |desc: &str| parse("Heap", desc).writes;
        assert!(change("INSERT+INIT off: 1, flags: 0x08, blkref #0: rel 1663/5/16385 blk 0"));
        assert!(change("HOT_UPDATE old_xmax: 7, blkref #0: rel 1663/5/16385 blk 0") && change("TRUNCATE nrelids: 1"));
        assert!(!change("INSERT off: 1, flags: 0x08, blkref #0: rel 1663/5/2613 blk 0"));
        assert!(!change("LOCK xmax: 7, blkref #0: rel 1663/5/16385 blk 0"));
        let commit =
            parse("Transaction", "COMMIT 2026-11-26 23:30:01.123456 UTC; subxacts: 732 733; inval msgs: catcache 5");
        assert_eq!((commit.xid, commit.subxacts), (731, vec![732, 733]));
        assert_eq!(parse("Transaction", "COMMIT_PREPARED 99: 2026-11-26 23:30:01.123456 UTC").xid, 99);
    }

    #[test]
    fn the_end_counts_the_headers_of_pages() {
        assert_eq!(end(Lsn(0x28), 34, MB16), Lsn(0x50));
        // It fills its page exactly: the end is the boundary, as core says it.
        assert_eq!(end(Lsn(PAGE - 40), 40, MB16), Lsn(PAGE));
        assert_eq!(end(Lsn(PAGE - 8), 34, MB16), Lsn(PAGE + 24 + 32));
        assert_eq!(end(Lsn(MB16 - 8), 34, MB16), Lsn(MB16 + 40 + 32));
        assert_eq!(end(Lsn(PAGE - 8), 8 + 2 * PAGE, MB16), Lsn(PAGE + 2 * PAGE + 3 * 24));
    }
}
