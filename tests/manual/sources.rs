//! The sources as the documents are compared with them.

use std::fs;

use crate::pages::{files_below, root};

/// All Rust sources of the extension, without their tests' own folders, one after the other.
pub fn rust() -> String {
    concatenated("src", ".rs", |_| true)
}

/// The SQL of the present version: upgrade scripts repeat it.
pub fn sql() -> String {
    concatenated("sql", ".sql", |name| !name.contains("--"))
}

fn concatenated(folder: &str, ending: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    files_below(&root().join(folder), ending)
        .into_iter()
        .filter(|path| is_wanted(&path.file_name().expect("a name").to_string_lossy()))
        .map(|path| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The string literals of the `match` that has an arm with this word.
pub fn words_of_the_match_with(rust: &str, word: &str) -> Vec<String> {
    let arms = [format!("=> \"{word}\","), format!("=> Some(\"{word}\"),")];
    let lines: Vec<&str> = rust.lines().collect();
    let at = lines
        .iter()
        .position(|line| arms.iter().any(|arm| line.trim_end().ends_with(arm)))
        .unwrap_or_else(|| panic!("no match has the word {word}"));
    let is_arm = |line: &&&str| line.contains("=>");
    let before = lines[..at].iter().rev().take_while(is_arm).count();
    lines[at - before..].iter().take_while(is_arm).filter_map(|line| literal(line)).collect()
}

/// The string literals of the list `Variant = "word",` that has this word.
pub fn words_of_the_list_with(rust: &str, word: &str) -> Vec<String> {
    let lines: Vec<&str> = rust.lines().collect();
    let item = format!("= \"{word}\",");
    let at = lines
        .iter()
        .position(|line| line.trim_end().ends_with(&item))
        .unwrap_or_else(|| panic!("no list has the word {word}"));
    let is_inside = |line: &&&str| line.starts_with(' ') || line.is_empty();
    let before = lines[..at].iter().rev().take_while(is_inside).count();
    let inside = lines[at - before..].iter().take_while(is_inside);
    inside.filter(|line| line.contains(" = \"")).filter_map(|line| literal(line)).collect()
}

fn literal(line: &str) -> Option<String> {
    line.split('"').nth(1).map(str::to_owned)
}

#[test]
fn words_are_found() {
    let rust = "match self {\n    A::None => None,\n    A::B => Some(\"b\"),\n    A::C => Some(\"c\"),\n}\n\
                reasons! {\n    /// Doc.\n    D = \"d\",\n\n    // More.\n    E = \"e\",\n}\n";
    assert_eq!(words_of_the_match_with(rust, "c"), ["b", "c"]);
    assert_eq!(words_of_the_list_with(rust, "e"), ["d", "e"]);
}
