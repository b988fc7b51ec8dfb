//! docs/reference/functions.md has every check that quick_health_check() can return, and no other.

use std::collections::BTreeSet;
use std::fs;

use crate::pages::{files_below, quoted, read, root, rows, section};

/// A name that ends with the name of an object has `…` in its place, as in the reference.
fn as_documented(literal: &str) -> String {
    match literal.split_once('{') {
        Some((kind, _)) => format!("{kind}…"),
        None => literal.to_owned(),
    }
}

/// The names of the checks in a source: what `check()` and `Check { … }` get as name, itself or by a variable.
fn names_in(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for start in ["check(", "name: ", "let name = "] {
        for (at, _) in code.match_indices(start) {
            let argument = code[at + start.len()..].trim_start().trim_start_matches('&').trim_start_matches("format!(");
            // What is not a literal is a variable, whose own literal is found.
            if let Some(literal) = argument.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                names.insert(as_documented(literal));
            }
        }
    }
    names
}

#[test]
fn the_reference_has_every_health_check_and_no_other() {
    let mut files = files_below(&root().join("src/health"), ".rs");
    files.push(root().join("src/health.rs"));
    files.push(root().join("src/sql/health.rs"));
    let names = |path| names_in(&fs::read_to_string(path).expect("a source of the extension"));
    let in_sources: BTreeSet<String> = files.iter().flat_map(names).collect();
    assert!(in_sources.len() > 20, "only {in_sources:?} were found");

    let page = read("docs/reference/functions.md");
    let table = rows(section(&page, "### quick_health_check"));
    let documented: BTreeSet<String> = table.iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    let missing: Vec<_> = in_sources.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&in_sources).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not in the reference: {missing:?}; there alone: {unknown:?}");
}

#[test]
fn names_of_checks_are_found() {
    let source = "let name = \"a\"; check(name, x, \"not a name\"); (check(\n    \"b\", x)); Check { name: format!(\"c d {e}\") }\n\
                  check(&format!(\"f {}\", g), x)\n#[cfg(test)]\nlet name = \"h\";";
    assert_eq!(names_in(source).into_iter().collect::<Vec<_>>(), ["a", "b", "c d …", "f …"]);
}
