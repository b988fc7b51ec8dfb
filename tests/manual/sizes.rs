//! The extension's sources stay in rooms that one can see at once: a function of at most 60 lines, a file of at most 500.

use std::path::Path;

use crate::pages::{files_below, read, root};

const MOST_LINES_OF_A_FUNCTION: usize = 60;
const MOST_LINES_OF_A_FILE: usize = 500;

/// Functions that are a table: a line or two for each setting, error or reason.
const TABLES: &[&str] = &["src/guc.rs register", "src/plan/advice.rs of", "src/recover/error.rs hint"];

/// The functions of a source, each with its number of lines. The source is formatted by rustfmt, so that the end of a
/// function is the next line that is indented like its beginning and closes a brace.
fn functions(source: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let of_line = |at: usize| {
        let name = name_of_function(lines[at])?;
        if lines[at].ends_with(['}', ';']) {
            return Some((name, 1));
        }
        let indent = indent_of(lines[at]);
        let is_end = |line: &&str| !line.is_empty() && indent_of(line) == indent && line.trim_start() == "}";
        let is_declared = |line: &&str| indent_of(line) == indent && line.ends_with(';');
        let length = lines[at + 1..].iter().position(|line| is_end(line) || is_declared(line));
        Some((name, length.unwrap_or_else(|| panic!("no end of {}", lines[at])) + 2))
    };
    (0..lines.len()).filter_map(of_line).collect()
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The name, where this line begins a function.
fn name_of_function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifiers = ["const", "async", "unsafe", "extern", "\"C\"", "\"C-unwind\""];
    let is_qualifier = |word: &str| word.starts_with("pub") || qualifiers.contains(&word);
    let name = &after[..after.find(['(', '<'])?];
    before.split_whitespace().all(is_qualifier).then_some(name)
}

/// The extension's sources, by their paths.
fn sources() -> Vec<(String, String)> {
    let shown = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    let paths = files_below(&root().join("src"), ".rs");
    paths.iter().map(|path| (shown(path), read(&shown(path)))).collect()
}

#[test]
fn no_function_and_no_file_of_the_extension_is_too_long() {
    let mut too_long = Vec::new();
    let mut tables = Vec::new();
    for (path, source) in &sources() {
        let lines = source.lines().count();
        if lines > MOST_LINES_OF_A_FILE {
            too_long.push(format!("{path}: {lines} lines"));
        }
        for (name, lines) in functions(source).into_iter().filter(|(_, lines)| *lines > MOST_LINES_OF_A_FUNCTION) {
            let function = format!("{path} {name}");
            if TABLES.contains(&function.as_str()) {
                tables.push(function);
            } else {
                too_long.push(format!("{function}: {lines} lines"));
            }
        }
    }
    assert!(too_long.is_empty(), "to be divided by meaning: {too_long:#?}");
    tables.sort();
    assert_eq!(tables, TABLES, "a table of the list is gone, or is short by now");
}

#[test]
fn functions_are_found_with_their_lengths() {
    let source = "pub(super) fn short() {}\n\n\
                  unsafe extern \"C-unwind\" {\n    fn declared(\n        one: i32,\n    ) -> i32;\n}\n\n\
                  impl A {\n    /// A fn in a comment (no function).\n    pub unsafe fn long<T>(\n        one: T,\n    ) -> T {\n        \
                  let inner = || {\n            one\n        };\n        inner()\n    }\n}\n";
    assert_eq!(functions(source), [("short", 1), ("declared", 3), ("long", 8)]);
}
