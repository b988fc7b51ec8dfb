//! An instant as people write it, and as pg_waldump prints it (pure).

const DAY: i64 = 86_400;

/// Microseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub i64);

impl Instant {
    /// `2026-11-26 23:30:01.5+01:00`, with T or a blank, and a zone `Z`, `UTC` or an offset; UTC where it has none.
    pub fn parse(text: &str) -> Option<Instant> {
        let (date, rest) = text.trim().split_once(['T', ' '])?;
        let (clock, offset) = split_zone(rest.trim())?;
        let mut date = date.splitn(3, '-');
        let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut clock = clock.splitn(3, ':');
        let (hour, minute) = (number(clock.next()?, 2)?, number(clock.next()?, 2)?);
        let second = clock.next().map_or(Some(0), |second| number(second, 2))?;
        let sane = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 25 && minute < 60 && second < 61;
        if !sane || fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
        let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
        Some(Instant(seconds * 1_000_000 + micros))
    }

    /// Microseconds since 2000, as PostgreSQL counts.
    pub fn of_postgres(micros: i64) -> Instant {
        Instant(micros + days(2000, 1, 1) * DAY * 1_000_000)
    }
}

impl std::fmt::Display for Instant {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        let (day, clock) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, date) = civil(day);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        write!(formatter, "{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}.{micros:06} UTC")
    }
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The clock, and the zone's distance from UTC in seconds.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    for utc in ["Z", "UTC"] {
        if let Some(clock) = text.strip_suffix(utc) {
            return Some((clock.trim_end(), 0));
        }
    }
    let Some(at) = text.find(['+', '-']) else { return Some((text, 0)) };
    let (clock, zone) = text.split_at(at);
    let (hours, minutes) = match zone[1..].split_once(':') {
        Some((hours, minutes)) => (number(hours, 2)?, number(minutes, 2)?),
        None if zone.len() == 5 => (number(&zone[1..3], 2)?, number(&zone[3..], 2)?),
        None => (number(&zone[1..], 2)?, 0),
    };
    let offset = hours * 3600 + minutes * 60;
    Some((clock.trim_end(), if zone.starts_with('-') { -offset } else { offset }))
}

/// Days since 1970 of a date of the Gregorian calendar, whose year begins in March so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::Instant;

    #[test]
    fn what_is_written_in_any_zone_is_one_instant() {
        let noon = Instant::parse("2026-11-26 12:00:00 UTC").expect("it is one");
        for same in [
            "2026-11-26T12:00:00Z",
            "2026-11-26 12:00",
            "2026-11-26 13:00:00+01",
            "2026-11-26 13:00:00.000+01:00",
            "2026-11-26 06:30:00-0530",
        ] {
            assert_eq!(Instant::parse(same), Some(noon), "{same}");
        }
        assert_eq!(noon.to_string(), "2026-11-26 12:00:00.000000 UTC");
        assert_eq!(Instant::parse(&noon.to_string()), Some(noon));
        assert_eq!(Instant::parse("2026-11-26 12:00:00.5").map(|half| half.0 - noon.0), Some(500_000));
        for broken in
            ["", "yesterday", "2026-11-26", "2026-13-01 00:00", "2026-11-26 1:00", "2026-11-26 12:00:00.1234567"]
        {
            assert_eq!(Instant::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(Instant::of_postgres(0).to_string(), "2000-01-01 00:00:00.000000 UTC");
        for text in
            ["1970-01-01 00:00:00.000000 UTC", "2024-02-29 23:59:59.999999 UTC", "2100-03-01 00:00:00.000001 UTC"]
        {
            assert_eq!(Instant::parse(text).map(|instant| instant.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Instant::parse("1970-01-01 00:00"), Some(Instant(0)));
    }
}
