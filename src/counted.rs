//! Numbers with their nouns in messages (pure), like the SQL function `counted()`.

/// `1 row`, `2 rows`.
pub fn counted(number: impl Into<i128>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 3].map(|number: i64| counted(number, "time")), ["0 times", "1 time", "3 times"]);
    }
}
