//! Every link of every document leads to a file and a heading that exist, and the site has every page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::pages::{files_below, prose, read, root};

/// The targets of the links and pictures in a document.
fn targets(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(document) {
        // What is in backquotes is no link.
        let text: String = line.split('`').step_by(2).collect();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}

/// The anchors that GitHub and mdBook give the headings of a document.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for line in prose(document).filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim();
        let anchor: String = title
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let times = seen.entry(anchor.clone()).or_default();
        found.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
        *times += 1;
    }
    found
}

/// The path without `.` and `..`.
fn straightened(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                straight.pop();
            }
            other => straight.push(other),
        }
    }
    straight
}

/// What is wrong with a link; None: nothing.
fn fault(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.to_owned()
    } else {
        straightened(&page.parent().expect("a page is in a folder").join(file))
    };
    if !path.exists() {
        return Some("there is no such file".into());
    }
    let docs = root().join("docs");
    if page.starts_with(&docs) && !path.starts_with(&docs) {
        return Some("a page of the site cannot link to a file outside docs/".into());
    }
    if anchor.is_empty() {
        return None;
    }
    let document = fs::read_to_string(&path).unwrap_or_default();
    (!anchors(&document).contains(anchor)).then(|| "there is no such heading".into())
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let pages = files_below(root(), ".md");
    let mut faults = Vec::new();
    let mut count = 0;
    for page in &pages {
        let document = fs::read_to_string(page).expect("a page can be read");
        for target in targets(&document) {
            count += 1;
            if let Some(fault) = fault(page, &target) {
                let page = page.strip_prefix(root()).unwrap_or(page);
                faults.push(format!("{}: ({target}): {fault}", page.display()));
            }
        }
    }
    assert!(count > 100, "only {count} links were found in {} pages", pages.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The folders whose files the documents name by their path.
const FOLDERS: &[&str] = &["bench/", "cli/", "docs/", "pg_regress/", "scripts/", "sql/", "src/", "tests/"];

/// The paths of files and folders of the project that a document names in backquotes or in a picture made of text.
fn paths(document: &str) -> impl Iterator<Item = &str> {
    let words = document.split(|c: char| c.is_whitespace() || matches!(c, '`' | '(' | ')' | ',' | ':' | ';' | '|'));
    // Those with a placeholder, or a part of a pattern, name no single file. PostgreSQL has a folder src/test too.
    words
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.starts_with("src/test/"))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.contains(['<', '*', '…', '#']))
}

#[test]
fn every_file_of_the_project_that_the_documents_name_exists() {
    let mut pages = files_below(root(), ".md");
    // It tells of what was.
    pages.retain(|page| !page.ends_with("CHANGELOG.md"));
    let mut faults = Vec::new();
    let mut count = 0;
    for page in &pages {
        let document = fs::read_to_string(page).expect("a page can be read");
        for path in paths(&document) {
            count += 1;
            if !root().join(path).exists() {
                faults.push(format!("{}: {path}", page.strip_prefix(root()).unwrap_or(page).display()));
            }
        }
    }
    assert!(count > 50, "only {count} paths were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_summary_of_the_site_has_every_page_once() {
    let docs = root().join("docs");
    let mut named: Vec<PathBuf> = targets(&read("docs/SUMMARY.md")).iter().map(|target| docs.join(target)).collect();
    named.sort();
    let mut pages = files_below(&docs, ".md");
    pages.retain(|page| !page.ends_with("SUMMARY.md"));
    assert_eq!(named, pages);
}

#[test]
fn a_broken_link_is_found() {
    let page = root().join("docs/index.md");
    assert_eq!(fault(&page, "runbook.md#3-recover"), None);
    assert_eq!(fault(&page, "https://www.postgresql.org/"), None);
    assert!(fault(&page, "nothing.md").is_some());
    assert!(fault(&page, "runbook.md#nothing").is_some());
    assert!(fault(&page, "../README.md").is_some());
    assert_eq!(targets("[a](b.md) `[no](link)` ![c](d.svg)\n```\n[no](link)\n```"), ["b.md", "d.svg"]);
    assert!(anchors("# A `b_c`: d\n# A b_c d\n## Twice\n## Twice").iter().eq([
        "a-b_c-d",
        "a-b_c-d-1",
        "twice",
        "twice-1"
    ]));
}
