//! The pages and what is in them: headings, tables, code.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder is in the repository")
}

pub fn read(file: &str) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose name ends so, in order; what is built and what is hidden is left out.
pub fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of the folder").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines outside fenced code.
pub fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The part of a document below a heading, up to the next heading of the same or a higher level.
pub fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let level = heading.chars().take_while(|c| *c == '#').count();
    let start = document
        .match_indices(heading)
        .find(|(at, _)| {
            let is_line_start = *at == 0 || document.as_bytes()[at - 1] == b'\n';
            let after = document[at + heading.len()..].chars().next();
            is_line_start && after.is_none_or(|c| c == '\n')
        })
        .map(|(at, _)| at + heading.len())
        .unwrap_or_else(|| panic!("there is no heading {heading}"));
    let rest = &document[start..];
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        let hashes = line.chars().take_while(|c| *c == '#').count();
        if (1..=level).contains(&hashes) && line[hashes..].starts_with(' ') {
            return &rest[..at];
        }
        at += line.len();
    }
    rest
}

/// The rows of all tables in a part of a document, without their head.
pub fn rows(part: &str) -> Vec<Vec<&str>> {
    let is_rule = |line: &str| line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '));
    let lines: Vec<&str> = prose(part).collect();
    let mut rows = Vec::new();
    let mut is_in_body = false;
    for line in lines {
        let line = line.trim();
        if !line.starts_with('|') {
            is_in_body = false;
        } else if is_rule(line) {
            is_in_body = true;
        } else if is_in_body {
            rows.push(line.trim_matches('|').split('|').map(str::trim).collect());
        }
    }
    rows
}

/// What is in backquotes.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn tables_and_sections_are_found() {
    let document =
        "# A\n\n| a | b |\n|---|---|\n| `x` | y |\n\n```\n| no | table |\n```\n## B\ntext\n# C\n| n |\n|--|\n| 1 |\n";
    assert_eq!(rows(section(document, "# A")), [["`x`", "y"]]);
    assert_eq!(section(document, "## B"), "\ntext\n");
    assert_eq!(rows(section(document, "# C")), [["1"]]);
    assert_eq!(quoted("`a`, `b c` d"), ["a", "b c"]);
}
