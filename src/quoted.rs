//! Names and other text quoted for the SQL in messages and hints (pure). Modules that may call core use its functions.

/// `text` as a literal. It is read as such while standard_conforming_strings is on, which is the default.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `name` as an identifier, in quotes even if it needs none.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_within_are_doubled() {
        assert_eq!(literal("n'1"), "'n''1'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!((literal("n1"), identifier("n1")), ("'n1'".to_owned(), "\"n1\"".to_owned()));
    }
}
