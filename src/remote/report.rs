//! An ERROR on another node in the form that libpq gives it: one text, with a label before each part (fe-protocol3.c,
//! pqBuildErrorMessage3). Pure.
//!
//! libpqwalreceiver drops the SQLSTATE of an ERROR that ends a stream, and does not tell which transaction the
//! walsender was sending. Therefore our output plugin adds both, in the last line of the ERROR's context:
//! [`StreamPlace`] writes and reads that line.

use crate::lsn::OriginLsn;

/// An error that another node has reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerReport {
    /// Five characters; empty if it is not known.
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
    /// The transaction of the failed node that was being sent.
    pub origin_lsn: Option<OriginLsn>,
}

/// The labels of the parts in English. If libpq uses another language, the labels are not found and the parts stay in
/// the message.
const LABELS: [&str; 4] = ["DETAIL:  ", "HINT:  ", "QUERY:  ", "CONTEXT:  "];

/// Severities that may be repeated before the message if the other node's messages are in English.
const SEVERITIES: [&str; 3] = ["ERROR:  ", "FATAL:  ", "PANIC:  "];

/// How many characters of each part are kept.
const PART_CHARACTERS: usize = 8_000;

impl PeerReport {
    /// Parses libpq's text. A prefix that one of core's libraries has put before it is removed.
    pub fn parse(text: &str) -> PeerReport {
        let text = text.trim_end();
        let begin = SEVERITIES.iter().filter_map(|severity| Some(text.find(severity)? + severity.len())).min();
        let text = &text[begin.unwrap_or(0)..];
        let (text, place) = StreamPlace::take(text);
        let mut parts: [Option<String>; 5] = Default::default();
        let mut at = 0;
        for line in text.lines() {
            let line: String =
                line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
            let label = LABELS.iter().enumerate().skip(at).find(|(_, label)| line.starts_with(**label));
            let line = match label {
                Some((index, label)) => {
                    at = index + 1;
                    line[label.len()..].to_owned()
                }
                None => line,
            };
            match &mut parts[at] {
                Some(part) => {
                    part.push('\n');
                    part.push_str(&line);
                }
                part => *part = Some(line),
            }
        }
        // The peer may have sent a text of any length.
        let parts = parts.map(|part| part.map(|part| part.chars().take(PART_CHARACTERS).collect::<String>()));
        let [message, detail, hint, _, context] = parts;
        PeerReport {
            sqlstate: place.as_ref().map(|place| place.sqlstate.clone()).unwrap_or_default(),
            message: message.unwrap_or_default().trim().to_owned(),
            detail,
            hint,
            context,
            origin_lsn: place.and_then(|place| place.origin_lsn),
        }
    }

    /// Sets the SQLSTATE if libpq has passed it separately from the text.
    pub fn with_sqlstate(mut self, sqlstate: Option<[u8; 5]>) -> PeerReport {
        if let Some(code) = sqlstate {
            self.sqlstate = String::from_utf8_lossy(&code).into_owned();
        }
        self
    }
}

/// What a walsender was sending when an ERROR ended its stream. The output plugin adds this line to the context, and no
/// message catalog translates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlace {
    pub sqlstate: String,
    pub origin_lsn: Option<OriginLsn>,
}

const STREAM: &str = "spock_recovery stream, SQLSTATE ";
const TRANSACTION: &str = ", transaction that ended at ";

impl StreamPlace {
    pub fn line(&self) -> String {
        let transaction = self.origin_lsn.map_or_else(String::new, |lsn| format!("{TRANSACTION}{lsn}"));
        format!("{STREAM}{}{transaction}", self.sqlstate)
    }

    /// Splits the line off the text. Only the last line counts, because the lines before it may quote anything.
    fn take(text: &str) -> (&str, Option<StreamPlace>) {
        let begin = text.rfind('\n').map_or(0, |end| end + 1);
        match StreamPlace::read(&text[begin..]) {
            Some(place) => (text[..begin].trim_end(), Some(place)),
            None => (text, None),
        }
    }

    fn read(line: &str) -> Option<StreamPlace> {
        // The label of the context precedes the line if it is the only line of the context.
        let label = line.find(":  ").map_or(0, |at| at + 3);
        let rest = line.strip_prefix(STREAM).or_else(|| line.get(label..)?.strip_prefix(STREAM))?;
        let (sqlstate, transaction) = rest.split_at_checked(5)?;
        let is_code = sqlstate.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        let origin_lsn = match transaction {
            "" => None,
            text => Some(text.strip_prefix(TRANSACTION)?.parse().ok()?),
        };
        is_code.then(|| StreamPlace { sqlstate: sqlstate.to_owned(), origin_lsn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_error_is_taken_apart() {
        let report = PeerReport::parse(
            "ERROR:  new row for relation \"u\" violates check constraint \"c\"\nDETAIL:  Failing row contains (1,\n2).\n\
             HINT:  Do this.\nCONTEXT:  SQL function \"f\" statement 1\n",
        );
        let expected = PeerReport {
            message: "new row for relation \"u\" violates check constraint \"c\"".to_owned(),
            detail: text("Failing row contains (1,\n2)."),
            hint: text("Do this."),
            context: text("SQL function \"f\" statement 1"),
            ..PeerReport::default()
        };
        assert_eq!(report, expected);
        assert_eq!(report.with_sqlstate(Some(*b"23514")).sqlstate, "23514");
    }

    #[test]
    fn the_place_of_a_stream_is_found_behind_whatever_stands_before_it() {
        let place = StreamPlace { sqlstate: "22P05".to_owned(), origin_lsn: Some(OriginLsn(0x16B_3748)) };
        for context in ["CONTEXT:  slot \"s\", in the change callback\n", "CONTEXT:  ", "KONTEXT:  ", ""] {
            let report = PeerReport::parse(&format!(
                "could not receive data from WAL stream: ERROR:  character has no equivalent\n{context}{}\n",
                place.line()
            ));
            assert_eq!(
                (report.message.as_str(), report.sqlstate.as_str(), report.origin_lsn),
                ("character has no equivalent", "22P05", place.origin_lsn),
                "{context}"
            );
        }
        let nowhere = StreamPlace { origin_lsn: None, ..place.clone() };
        let report = PeerReport::parse(&format!("FATAL:  no\nCONTEXT:  {}", nowhere.line()));
        assert_eq!((report.sqlstate.as_str(), report.origin_lsn, report.context), ("22P05", None, None));
        // A row value that looks like such a line is not taken for one.
        let report = PeerReport::parse(&format!("ERROR:  {}\nDETAIL:  It was that.\n", place.line()));
        assert_eq!((report.sqlstate.as_str(), report.origin_lsn), ("", None));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text: String, lsn in 1u64.., tail: String) {
            PeerReport::parse(&text);
            let place = StreamPlace { sqlstate: "XX000".to_owned(), origin_lsn: Some(OriginLsn(lsn)) };
            let report = PeerReport::parse(&format!("{text}\n{}", place.line()));
            prop_assert_eq!(report.origin_lsn, Some(OriginLsn(lsn)));
            PeerReport::parse(&format!("{}{tail}", place.line()));
        }
    }
}
