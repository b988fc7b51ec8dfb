//! The SQLSTATEs of docs/reference/errors.md are those that the sources raise.

use std::collections::BTreeSet;
use std::fs;

use crate::pages::{files_below, quoted, read, root, rows, section};
use crate::sources::sql;

/// PostgreSQL's names of the conditions that the extension raises (src/backend/utils/errcodes.txt).
const CONDITIONS: [(&str, &str); 29] = [
    ("ACTIVE_SQL_TRANSACTION", "25001"),
    ("CHARACTER_NOT_IN_REPERTOIRE", "22021"),
    ("CONFIGURATION_LIMIT_EXCEEDED", "53400"),
    ("CONNECTION_FAILURE", "08006"),
    ("DATA_CORRUPTED", "XX001"),
    ("DEPENDENT_OBJECTS_STILL_EXIST", "2BP01"),
    ("DUPLICATE_OBJECT", "42710"),
    ("FDW_INVALID_OPTION_NAME", "HV00D"),
    ("FEATURE_NOT_SUPPORTED", "0A000"),
    ("INSUFFICIENT_PRIVILEGE", "42501"),
    ("INSUFFICIENT_RESOURCES", "53000"),
    ("INTERNAL_ERROR", "XX000"),
    ("INVALID_NAME", "42602"),
    ("INVALID_PARAMETER_VALUE", "22023"),
    ("LOCK_NOT_AVAILABLE", "55P03"),
    ("NAME_TOO_LONG", "42622"),
    ("NULL_VALUE_NOT_ALLOWED", "22004"),
    ("OBJECT_IN_USE", "55006"),
    ("OBJECT_NOT_IN_PREREQUISITE_STATE", "55000"),
    ("OPERATOR_INTERVENTION", "57000"),
    ("PROTOCOL_VIOLATION", "08P01"),
    ("QUERY_CANCELED", "57014"),
    ("SYNTAX_ERROR", "42601"),
    ("UNDEFINED_COLUMN", "42703"),
    ("UNDEFINED_FILE", "58P01"),
    ("UNDEFINED_FUNCTION", "42883"),
    ("UNDEFINED_OBJECT", "42704"),
    ("UNDEFINED_TABLE", "42P01"),
    ("WRONG_OBJECT_TYPE", "42809"),
];

fn sqlstate_of(condition: &str) -> &'static str {
    let condition = condition.to_uppercase();
    let found = CONDITIONS.iter().find(|(name, _)| *name == condition);
    found.unwrap_or_else(|| panic!("CONDITIONS has no {condition}")).1
}

/// A message as a pattern: `@` is a name in double quotes, `#` a word that is left out, `*` a text that is left out at the
/// end.
fn pattern(message: &str) -> String {
    let mut words = String::new();
    let mut is_inside = false;
    for character in message.replace("%s", "…").chars() {
        match character {
            '{' => is_inside = true,
            '}' => {
                is_inside = false;
                words.push('#');
            }
            _ if is_inside => (),
            '…' => words.push('#'),
            _ => words.push(character),
        }
    }
    if words.ends_with('#') {
        words.pop();
        words.push('*');
    }
    // Between quotes there is a name, whichever.
    words.split('"').enumerate().map(|(index, part)| if index % 2 == 1 { "@" } else { part }).collect()
}

/// Whether there is a text that matches both patterns.
fn meet(one: &[u8], other: &[u8]) -> bool {
    let is_any = |pattern: &[u8]| matches!(pattern, [b'*' | b'#', ..]);
    if is_any(one) {
        let may_take = |next: u8| one[0] == b'*' || next != b' ';
        return meet(&one[1..], other) || matches!(other, [next, rest @ ..] if may_take(*next) && meet(one, rest));
    }
    if is_any(other) {
        return meet(other, one);
    }
    match (one, other) {
        ([a, one @ ..], [b, other @ ..]) => a == b && meet(one, other),
        _ => one.is_empty() && other.is_empty(),
    }
}

/// A message of the sources with the SQLSTATEs that are known for it: none if it has that of another error.
struct Message {
    pattern: String,
    sqlstates: BTreeSet<&'static str>,
}

/// The string literal with which a text begins after white space, in Rust or, with another quote, in SQL.
fn literal(text: &str, quote: char) -> Option<String> {
    let mut characters = text.trim_start().strip_prefix(quote)?.chars().peekable();
    let mut content = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => content.extend(characters.next()),
            _ if character == quote && characters.next_if_eq(&quote).is_none() => return Some(content),
            _ => content.push(character),
        }
    }
    None
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The SQLSTATEs in a piece of `fn sqlstate()`.
fn named_in(body: &str) -> BTreeSet<&'static str> {
    body.split("::ERRCODE_").skip(1).map(|rest| sqlstate_of(identifier(rest))).collect()
}

/// What `fn sqlstate()` of the type returns for the variant; for a struct, whatever it can return.
fn sqlstates_of(source: &str, of_type: &str, variant: Option<&str>) -> BTreeSet<&'static str> {
    let Some((_, of_impl)) = source.split_once(&format!("impl SqlError for {of_type} {{")) else {
        return BTreeSet::new();
    };
    let of_impl = of_impl.split("\n}\n").next().unwrap_or_default();
    let body = of_impl.split("fn sqlstate").nth(1).unwrap_or_default().split("\n    }\n").next().unwrap_or_default();
    let Some(variant) = variant else { return named_in(body) };
    let named = format!("::{variant}");
    let arm = body.match_indices(&named).map(|(at, found)| &body[at + found.len()..]);
    let arm = arm.filter(|rest| identifier(rest).is_empty()).find_map(|rest| rest.split_once("=>"));
    let result = arm.map_or("", |(_, result)| result.trim_start().trim_start_matches('{').trim_start());
    // Otherwise the SQLSTATE is that of another error.
    match result.strip_prefix("PgSqlErrorCode::ERRCODE_") {
        Some(name) => BTreeSet::from([sqlstate_of(identifier(name))]),
        None => BTreeSet::new(),
    }
}

/// The messages of a Rust source's errors: `#[error("…")]` above a variant or a struct.
fn in_rust(source: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    for (at, start) in source.match_indices("#[error(") {
        let Some(message) = literal(&source[at + start.len()..], '"') else { continue };
        let (_, after) = source[at..].split_once(")]").expect("the attribute's end");
        let lines = after.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        let owner = lines.into_iter().find(|line| !line.starts_with("#[")).unwrap_or_default();
        let owner = owner.trim_start_matches("pub ");
        let sqlstates = match owner.strip_prefix("struct ") {
            Some(name) => sqlstates_of(source, identifier(name), None),
            None => {
                let of_enum = source[..at].rsplit("enum ").next().map(identifier).expect("an enum");
                sqlstates_of(source, of_enum, Some(identifier(owner)))
            }
        };
        messages.push(Message { pattern: pattern(&message), sqlstates });
    }
    messages
}

/// The messages of RAISE EXCEPTION.
fn in_sql(source: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    for raised in source.split("RAISE EXCEPTION USING").skip(1) {
        let after = |word: &str| raised.split_once(word).map(|(_, after)| after).unwrap_or_default();
        let condition = literal(after("ERRCODE ="), '\'').expect("a condition");
        let message = after("MESSAGE =").trim_start().trim_start_matches("format(");
        if let Some(message) = literal(message, '\'') {
            let sqlstates = BTreeSet::from([sqlstate_of(&condition)]);
            messages.push(Message { pattern: pattern(&message), sqlstates });
        }
    }
    messages
}

fn of_the_sources() -> Vec<Message> {
    let files = files_below(&root().join("src"), ".rs");
    let mut messages = in_sql(&sql());
    for path in files {
        messages.extend(in_rust(&fs::read_to_string(path).expect("a source of the extension")));
    }
    // One that is nothing but what another error says would be every message.
    messages.retain(|message| message.pattern.chars().filter(|c| c.is_alphabetic()).count() >= 8);
    messages
}

/// Core's own messages, and messages that are told by their end alone.
fn is_not_ours(message: &str) -> bool {
    message.starts_with("cannot execute ") || message.starts_with("… in a ") || message.starts_with("… on node ")
}

#[test]
fn the_sqlstates_of_the_reference_are_those_of_the_sources() {
    let sources = of_the_sources();
    let page = read("docs/reference/errors.md");
    let mut table = rows(section(&page, "## Errors of a recovery"));
    table.extend(rows(section(&page, "## Errors of nodes and slots")));
    table.extend(rows(section(&page, "## Errors of restore points")));
    table.extend(rows(section(&page, "## Errors of a rebuild")));
    let is_sqlstate =
        |word: &&str| word.len() == 5 && word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    let (mut compared, mut faults) = (0, Vec::new());
    for row in table {
        let told: BTreeSet<&str> = row[1].split([' ', ',']).filter(is_sqlstate).collect();
        let messages: Vec<&str> =
            quoted(row[0]).into_iter().filter(|it| it.contains(' ') && !is_not_ours(it)).collect();
        if told.is_empty() || messages.is_empty() {
            continue;
        }
        let mut raised: BTreeSet<&str> = BTreeSet::new();
        for message in messages {
            compared += 1;
            let shown = pattern(message);
            let found = sources.iter().filter(|one| meet(one.pattern.as_bytes(), shown.as_bytes()));
            let sqlstates: BTreeSet<&str> = found.flat_map(|one| one.sqlstates.iter().copied()).collect();
            if sqlstates.is_empty() {
                faults.push(format!("{message}: no error of the sources has this message"));
            }
            raised.extend(sqlstates);
        }
        if raised != told {
            faults.push(format!("{}: {told:?} in the reference, {raised:?} in the sources", row[0]));
        }
    }
    assert!(compared > 40, "only {compared} messages were compared");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn messages_and_their_sqlstates_are_found() {
    let source = "enum E {\n    #[error(\"node \\\"{name}\\\" is bad: {}\", .why)]\n    A { name: String },\n    #[error(transparent)]\n    \
                  B(F),\n    #[error(\"another {kind}\")]\n    /// Doc.\n    Ab,\n}\n\nimpl SqlError for E {\n    fn sqlstate(&self) -> X \
                  {\n        match self {\n            E::Ab => PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,\n            E::A { .. } | E::C => {\n      \
                  PgSqlErrorCode::ERRCODE_INVALID_NAME\n            }\n            E::B(error) => error.sqlstate(),\n        }\n    }\n}\n";
    let found: Vec<_> = in_rust(source).into_iter().map(|one| (one.pattern, one.sqlstates)).collect();
    let expected = [("node @ is bad: *", "42602"), ("another *", "42601")];
    assert_eq!(found, expected.map(|(pattern, code)| (pattern.to_owned(), BTreeSet::from([code]))));

    let raised =
        "RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('it''s \"%s\" of %s', a), HINT = 'h';";
    let found: Vec<_> = in_sql(raised).into_iter().map(|one| (one.pattern, one.sqlstates)).collect();
    assert_eq!(found, [("it's @ of *".to_owned(), BTreeSet::from(["42704"]))]);
}

#[test]
fn patterns_meet_where_a_text_matches_both() {
    let do_meet = |one: &str, other: &str| meet(pattern(one).as_bytes(), pattern(other).as_bytes());
    for (one, other) in
        [("a {} c", "a b c"), ("a \"{x}\" b", "a \"n1\" b"), ("could not … it: …", "could not {a} it: {b}")]
    {
        assert!(do_meet(one, other) && do_meet(other, one), "{one} and {other}");
    }
    for (one, other) in [("a {} c", "a b d"), ("a {} c", "a b b c"), ("a \"{x}\"", "a n1"), ("{} is on", "it is off")] {
        assert!(!do_meet(one, other) && !do_meet(other, one), "{one} and {other}");
    }
}
