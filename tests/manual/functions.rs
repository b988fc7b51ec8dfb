//! docs/reference/functions.md has every function and procedure of sql/, with its signature, and no other.

use std::collections::{BTreeMap, BTreeSet};

use crate::pages::{quoted, read, rows, section};
use crate::sources::sql;

const PAGE: &str = "docs/reference/functions.md";

/// The schema of functions that only our own code calls.
const INTERNAL: &str = "spock_internal.";

struct Function {
    /// As in the documents: arguments, then what it returns; white space is one blank.
    signature: String,
    is_internal: bool,
    /// Whether EXECUTE was taken from PUBLIC.
    is_revoked: bool,
}

/// White space is one blank, and none stands inside parentheses' ends.
fn normalised(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace("( ", "(").replace(" )", ")")
}

/// The text up to the parenthesis that closes one already open, and what follows it.
fn to_closing(text: &str) -> (&str, &str) {
    let mut depth = 1;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&text[..at], &text[at + 1..]);
        }
    }
    panic!("a parenthesis is not closed: {text}")
}

/// By name; no name is overloaded. A function that is in both schemas, because nodes of the version before ask for it
/// in the other one, is an internal one.
fn functions_of(sql: &str) -> BTreeMap<String, Function> {
    let mut found: BTreeMap<String, Function> = BTreeMap::new();
    let text: String = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join("\n");
    for (kind, prefix) in [("CREATE FUNCTION ", ""), ("CREATE PROCEDURE ", "PROCEDURE ")] {
        for rest in text.split(kind).skip(1) {
            let (qualified, rest) = rest.split_once('(').expect("arguments");
            let is_internal = qualified.trim().starts_with(INTERNAL);
            let name = qualified.trim().rsplit('.').next().unwrap_or_default();
            let (arguments, rest) = to_closing(rest);
            let clauses = normalised(rest);
            let returned = clauses.split("LANGUAGE ").next().unwrap_or_default().trim().to_owned();
            let (outs, ins): (Vec<&str>, Vec<&str>) =
                arguments.split(',').map(str::trim).filter(|it| !it.is_empty()).partition(|it| it.starts_with("OUT "));
            let returned = if outs.is_empty() {
                returned
            } else {
                let columns: Vec<&str> = outs.iter().map(|column| column.trim_start_matches("OUT ").trim()).collect();
                format!("RETURNS TABLE ({})", columns.join(", "))
            };
            let signature = normalised(&format!("{prefix}{name}({}) {returned}", ins.join(", ")));
            let is_revoked = ["FUNCTION", "PROCEDURE"]
                .iter()
                .any(|what| text.contains(&format!("REVOKE ALL ON {what} {}(", qualified.trim())));
            let function = Function { signature, is_internal, is_revoked };
            match found.get(name) {
                Some(known) => assert!(known.is_internal != is_internal, "{name} is overloaded"),
                None => {
                    found.insert(name.to_owned(), function);
                    continue;
                }
            }
            if function.is_internal {
                found.insert(name.to_owned(), function);
            }
        }
    }
    found
}

/// The name that a signature begins with.
fn name_of(signature: &str) -> &str {
    signature.trim_start_matches("PROCEDURE ").split('(').next().unwrap_or_default()
}

#[test]
fn every_function_is_documented_with_its_signature_and_no_other_is() {
    let in_sql = functions_of(&sql());
    assert!(in_sql.len() > 40, "only {} functions were found", in_sql.len());
    let document = read(PAGE);
    // The first code below a heading of a function is its signature.
    let mut documented: BTreeMap<String, String> = BTreeMap::new();
    for part in document.split("\n### ").skip(1) {
        let heading = part.lines().next().unwrap_or_default();
        let code = part.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next());
        let signature = normalised(code.unwrap_or_else(|| panic!("{heading} has no signature")));
        assert_eq!(name_of(&signature), heading, "the signature below the heading");
        documented.insert(heading.to_owned(), signature);
    }
    let internal: BTreeSet<String> = rows(section(&document, "## Functions that the extension calls itself"))
        .iter()
        .flat_map(|row| quoted(row[0]))
        .map(str::to_owned)
        .collect();
    let mut faults = Vec::new();
    for (name, function) in &in_sql {
        match documented.get(name) {
            Some(_) if function.is_internal => faults.push(format!("{name}: is internal, and has a section")),
            None if internal.contains(name) && !function.is_internal => {
                faults.push(format!("{name}: is called internal, and is in the schema of what a person calls"));
            }
            Some(_) if internal.contains(name) => faults.push(format!("{name}: has a section, and is called internal")),
            Some(signature) if *signature != function.signature => {
                faults.push(format!("{name}:\n  documented: {signature}\n  in sql/:     {}", function.signature));
            }
            None if !internal.contains(name) => faults.push(format!("{name}: not documented: {}", function.signature)),
            _ => {}
        }
    }
    let names = documented.keys().chain(&internal);
    faults.extend(names.filter(|name| !in_sql.contains_key(*name)).map(|name| format!("{name}: not in sql/")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_schema_of_what_a_person_calls_has_of_the_others_only_what_the_version_before_asks_for() {
    let file = read("sql/asked_by_0_1_0.sql");
    let released = functions_of(&read("tests/fixtures/spock_recovery--0.1.0.sql"));
    let in_sql = functions_of(&sql());
    let kept = functions_of(&file);
    assert!(!kept.is_empty());
    for (name, function) in &kept {
        assert_eq!(function.signature, released[name].signature, "{name} is not what version 0.1.0 has");
        assert!(in_sql[name].is_internal, "{name} has no successor");
    }
    let table = read(PAGE);
    let listed: BTreeSet<&str> = section(&table, "## Asked by version 0.1.0")
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| released.contains_key(*word))
        .collect();
    assert_eq!(listed, kept.keys().map(String::as_str).collect());
}

#[test]
fn the_overview_of_functions_has_each_once_and_says_truly_who_may_call_it() {
    let in_sql = functions_of(&sql());
    let document = read(PAGE);
    let sections: BTreeSet<&str> =
        document.split("\n### ").skip(1).map(|part| part.lines().next().unwrap_or_default()).collect();
    let overview = rows(document.split("\n## ").next().unwrap_or_default());
    let listed: Vec<&str> = overview.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(listed.len(), sections.len(), "{listed:?}");
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), sections);
    let mut faults = Vec::new();
    for row in &overview {
        let name = quoted(row[0])[0];
        // Whom the others let in they decide themselves.
        let is_closed = matches!(row[1], "superuser" | "superuser, `pg_monitor`");
        if in_sql.get(name).is_some_and(|function| function.is_revoked != is_closed) {
            faults.push(format!(
                "{name}: who: {}, and EXECUTE is{} revoked from PUBLIC",
                row[1],
                if is_closed { " not" } else { "" }
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn signatures_are_read_from_sql() {
    let sql = "-- CREATE FUNCTION no()\nCREATE FUNCTION f(a name,\n   b text DEFAULT NULL) RETURNS oid\n LANGUAGE c AS 'x';\n\
               REVOKE ALL ON FUNCTION f(name, text) FROM PUBLIC;\n\
               CREATE FUNCTION g(OUT a name, OUT b oid)\n RETURNS SETOF record\n LANGUAGE c;\n\
               CREATE PROCEDURE spock_internal.p(INOUT r jsonb DEFAULT NULL)\n LANGUAGE plpgsql AS $$ $$;";
    let found = functions_of(sql);
    let signatures: Vec<(&str, bool, bool)> =
        found.values().map(|it| (it.signature.as_str(), it.is_internal, it.is_revoked)).collect();
    assert_eq!(
        signatures,
        [
            ("f(a name, b text DEFAULT NULL) RETURNS oid", false, true),
            ("g() RETURNS TABLE (a name, b oid)", false, false),
            ("PROCEDURE p(INOUT r jsonb DEFAULT NULL)", true, false),
        ]
    );
}
