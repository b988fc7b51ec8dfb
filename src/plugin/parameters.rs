//! What the output plugin must know before it streams (pure): session settings, set on the replication connection.

use crate::error::SqlError;
use crate::lsn::OriginLsn;
use pgrx::PgSqlErrorCode;

/// The settings as they stand in the session; empty if they are not set.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub origin: String,
    pub skip_lsn: String,
    pub stop_lsn: String,
    pub stop_timestamp: String,
    pub tables: String,
    pub key_changes: String,
    pub reconciled_by: String,
    pub packed: String,
    pub given_up: String,
    pub announced: String,
}

/// What is to be streamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// The id of the replication origin under which this server has applied the failed node. Ids are used, because no
    /// catalog can be looked at while a walsender starts up.
    pub origin_id: u16,
    /// Transactions up to this origin LSN are not sent.
    pub skip: OriginLsn,
    /// Transactions beyond this origin LSN are not sent.
    pub stop: OriginLsn,
    /// In microseconds since 2000-01-01: the first transaction, in LSN order, that was committed later ends the stream.
    pub stop_timestamp: Option<i64>,
    /// The oids of this server's tables, sorted. A partition is sent as its ancestor if the ancestor is listed.
    pub tables: Vec<u32>,
    /// Whether to send, instead of the origin's transactions, the updates of all other transactions that change a row's
    /// key.
    pub wants_key_changes: bool,
    /// If set, everything that this server has written under this origin, while reconciling its own recoveries, is sent
    /// along with the changes of keys. Changes of keys that other nodes had made earlier may be in its WAL in that form
    /// alone.
    pub reconciled_by: Option<u16>,
    /// Whether many messages of a transaction are sent at a time.
    pub is_packed: bool,
    /// The transactions of which only BEGIN and COMMIT are sent, because their changes cannot be sent and the receiver
    /// has given them up.
    pub given_up: Vec<OriginLsn>,
    /// Whether a transaction is announced before anything of it is read: then the receiver knows which it was, even if
    /// this process is killed while reading it.
    pub is_announced: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParameterError {
    #[error("output plugin spock_recovery requires the setting {setting}")]
    Missing { setting: &'static str },
    #[error("invalid value of the setting {setting}: \"{value}\"")]
    Malformed { setting: &'static str, value: String, expected: &'static str },
    #[error("spock.rescue_stop_lsn is before spock.rescue_skip_lsn")]
    StopBeforeSkip { skip: OriginLsn, stop: OriginLsn },
}

const ORIGIN: &str = "spock.rescue_origin";
const SKIP: &str = "spock.rescue_skip_lsn";
const STOP: &str = "spock.rescue_stop_lsn";
const STOP_TIMESTAMP: &str = "spock.rescue_stop_timestamp";
const TABLES: &str = "spock.rescue_tables";
const KEY_CHANGES: &str = "spock.rescue_key_changes";
const RECONCILED_BY: &str = "spock.rescue_reconciled_by";
const PACKED: &str = "spock.rescue_packed";
const GIVEN_UP: &str = "spock.rescue_given_up";
const ANNOUNCED: &str = "spock.rescue_announced";

/// The number of bytes of a malformed value that a message repeats.
const SHOWN: usize = 40;

impl Parameters {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// If a setting is missing or malformed: the first such one is named.
    pub fn read(settings: &Settings) -> Result<Parameters, ParameterError> {
        let of_origin = |name, text| {
            value(name, text, "the id of a replication origin, from 1 to 65534", |text| {
                text.parse().ok().filter(|id| (1..u16::MAX).contains(id))
            })
        };
        let origin_id = of_origin(ORIGIN, &settings.origin)?;
        let reconciled_by = match settings.reconciled_by.trim() {
            "" => None,
            text => Some(of_origin(RECONCILED_BY, text)?),
        };
        let lsn = "a WAL position such as 0/16B3748";
        let skip: OriginLsn = value(SKIP, &settings.skip_lsn, lsn, |text| text.parse().ok())?;
        let stop: OriginLsn = value(STOP, &settings.stop_lsn, lsn, |text| text.parse().ok())?;
        if stop < skip {
            return Err(ParameterError::StopBeforeSkip { skip, stop });
        }
        let stop_timestamp = match settings.stop_timestamp.trim() {
            "" => None,
            text => {
                Some(value(STOP_TIMESTAMP, text, "microseconds since 2000-01-01 00:00 UTC", |text| text.parse().ok())?)
            }
        };
        let mut tables: Vec<u32> = value(TABLES, &settings.tables, "oids of tables, separated by commas", |text| {
            let oids = text.split(',').map(|oid| oid.trim().parse().ok().filter(|oid| *oid != 0));
            oids.collect()
        })?;
        tables.sort_unstable();
        tables.dedup();
        let wants_key_changes = switch(KEY_CHANGES, &settings.key_changes)?;
        let is_packed = switch(PACKED, &settings.packed)?;
        let is_announced = switch(ANNOUNCED, &settings.announced)?;
        let given_up = match settings.given_up.trim() {
            "" => Vec::new(),
            text => value(GIVEN_UP, text, "WAL positions, separated by commas", |text| {
                text.split(',').map(|lsn| lsn.trim().parse().ok()).collect()
            })?,
        };
        Ok(Parameters {
            origin_id,
            skip,
            stop,
            stop_timestamp,
            tables,
            wants_key_changes,
            reconciled_by,
            is_packed,
            given_up,
            is_announced,
        })
    }

    pub fn lists(&self, table: u32) -> bool {
        self.tables.binary_search(&table).is_ok()
    }

    /// Whether a transaction of the origin lies within (skip, stop]. A transaction without a position is core's own
    /// bookkeeping.
    pub fn wants(&self, origin_lsn: OriginLsn) -> bool {
        self.skip < origin_lsn && origin_lsn <= self.stop
    }

    /// Whether an otherwise wanted transaction, committed at this time in microseconds since 2000-01-01, ends the
    /// stream before itself.
    pub fn ends_before(&self, commit_time: i64) -> bool {
        self.stop_timestamp.is_some_and(|stop| commit_time > stop)
    }
}

/// Reads a setting that is on or off; off if it is not set.
fn switch(setting: &'static str, text: &str) -> Result<bool, ParameterError> {
    match text.trim() {
        "" => Ok(false),
        text => value(setting, text, "on or off", |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        }),
    }
}

fn value<T>(
    setting: &'static str,
    text: &str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, ParameterError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ParameterError::Missing { setting });
    }
    read(text).ok_or_else(|| {
        let value = text[..text.floor_char_boundary(SHOWN)].to_owned();
        ParameterError::Malformed { setting, value, expected }
    })
}

impl SqlError for ParameterError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            ParameterError::Missing { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            ParameterError::Malformed { .. } | ParameterError::StopBeforeSkip { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            ParameterError::Missing { .. } => None,
            ParameterError::Malformed { expected, .. } => Some(format!("Expected: {expected}.")),
            ParameterError::StopBeforeSkip { skip, stop } => Some(format!("Stop is {stop}, skip is {skip}.")),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(
            "The plugin streams a rescue to its target, which sets these settings itself; to look at a slot by hand, use \
             test_decoding on a copy of it."
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            origin: "3".to_owned(),
            skip_lsn: "0/10".to_owned(),
            stop_lsn: "1/20".to_owned(),
            stop_timestamp: String::new(),
            tables: " 16400, 16390,16400 ".to_owned(),
            key_changes: String::new(),
            reconciled_by: String::new(),
            packed: String::new(),
            given_up: String::new(),
            announced: String::new(),
        }
    }

    #[test]
    fn all_settings_are_read() {
        let read = Parameters::read(&settings());
        let expected = Parameters {
            origin_id: 3,
            skip: OriginLsn(0x10),
            stop: OriginLsn(0x1_0000_0020),
            stop_timestamp: None,
            tables: vec![16390, 16400],
            wants_key_changes: false,
            reconciled_by: None,
            is_packed: false,
            given_up: Vec::new(),
            is_announced: false,
        };
        assert_eq!(read, Ok(expected));
        let given_up = Settings { given_up: "0/20, 1/8".to_owned(), ..settings() };
        let read = Parameters::read(&given_up).map(|read| read.given_up);
        assert_eq!(read, Ok(vec![OriginLsn(0x20), OriginLsn(0x1_0000_0008)]));
        let timed = Settings { stop_timestamp: "-5".to_owned(), ..settings() };
        assert_eq!(Parameters::read(&timed).map(|read| read.stop_timestamp), Ok(Some(-5)));
        for (text, expected) in [("on", true), ("off", false)] {
            let asked = Settings { key_changes: text.to_owned(), ..settings() };
            assert_eq!(Parameters::read(&asked).map(|read| read.wants_key_changes), Ok(expected));
            let asked = Settings { reconciled_by: "7".to_owned(), ..settings() };
            assert_eq!(Parameters::read(&asked).map(|read| read.reconciled_by), Ok(Some(7)));
            let asked = Settings { packed: text.to_owned(), ..settings() };
            assert_eq!(Parameters::read(&asked).map(|read| read.is_packed), Ok(expected));
            let asked = Settings { announced: text.to_owned(), ..settings() };
            assert_eq!(Parameters::read(&asked).map(|read| read.is_announced), Ok(expected));
        }
    }

    #[test]
    fn each_missing_setting_is_named() {
        type Clear = fn(&mut Settings);
        let clears: [(&str, Clear); 4] = [
            (ORIGIN, |settings| settings.origin.clear()),
            (SKIP, |settings| settings.skip_lsn.clear()),
            (STOP, |settings| settings.stop_lsn.clear()),
            (TABLES, |settings| settings.tables.clear()),
        ];
        for (setting, clear) in clears {
            let mut settings = settings();
            clear(&mut settings);
            assert_eq!(Parameters::read(&settings), Err(ParameterError::Missing { setting }));
        }
    }

    #[test]
    fn each_malformed_setting_is_named() {
        type Spoil = fn(&mut Settings, &str);
        let spoils: [(&str, Spoil, &[&str]); 10] = [
            (ORIGIN, |settings, text| settings.origin = text.to_owned(), &["0", "65535", "65536", "-1", "n1"]),
            (SKIP, |settings, text| settings.skip_lsn = text.to_owned(), &["0", "x/y", "0/123456789"]),
            (STOP, |settings, text| settings.stop_lsn = text.to_owned(), &["0", "1/", "/1"]),
            (STOP_TIMESTAMP, |settings, text| settings.stop_timestamp = text.to_owned(), &["now", "1.5"]),
            (TABLES, |settings, text| settings.tables = text.to_owned(), &["t", "1,,2", "0", "1,4294967296"]),
            (KEY_CHANGES, |settings, text| settings.key_changes = text.to_owned(), &["maybe", "1"]),
            (RECONCILED_BY, |settings, text| settings.reconciled_by = text.to_owned(), &["0", "65535", "n1"]),
            (PACKED, |settings, text| settings.packed = text.to_owned(), &["maybe", "1"]),
            (GIVEN_UP, |settings, text| settings.given_up = text.to_owned(), &["0/1,", "x", "0/1 0/2"]),
            (ANNOUNCED, |settings, text| settings.announced = text.to_owned(), &["maybe", "1"]),
        ];
        for (name, spoil, values) in spoils {
            for value in values {
                let mut settings = settings();
                spoil(&mut settings, value);
                match Parameters::read(&settings) {
                    Err(ParameterError::Malformed { setting, .. }) => assert_eq!(setting, name),
                    other => panic!("{name} = {value}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn skip_is_exclusive_and_stop_inclusive() {
        let parameters = Parameters::read(&settings()).expect("valid");
        let (skip, stop) = (parameters.skip, parameters.stop);
        assert!(
            !parameters.wants(OriginLsn::ZERO) && !parameters.wants(skip) && parameters.wants(OriginLsn(skip.0 + 1))
        );
        assert!(parameters.wants(stop) && !parameters.wants(OriginLsn(stop.0 + 1)));
        let nothing = Settings { stop_lsn: "0/10".to_owned(), ..settings() };
        let nothing = Parameters::read(&nothing).expect("skip = stop is legal");
        assert!(!nothing.wants(skip));
        let backward = Settings { stop_lsn: "0/F".to_owned(), ..settings() };
        assert!(matches!(Parameters::read(&backward), Err(ParameterError::StopBeforeSkip { .. })));
    }

    #[test]
    fn a_commit_at_the_stop_timestamp_is_within_and_one_later_ends_the_stream() {
        let timed = Settings { stop_timestamp: "100".to_owned(), ..settings() };
        let parameters = Parameters::read(&timed).expect("valid");
        assert!(!parameters.ends_before(100) && parameters.ends_before(101));
        assert!(!Parameters::read(&settings()).expect("valid").ends_before(i64::MAX));
    }

    #[test]
    fn a_message_does_not_repeat_a_long_value() {
        let long = Settings { tables: "ü".repeat(1_000), ..settings() };
        let message = Parameters::read(&long).expect_err("malformed").to_string();
        assert!(message.len() < 120, "{message}");
    }
}
