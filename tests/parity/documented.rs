//! docs/parity.md names tests and cases that exist.

use std::fs;
use std::path::Path;

fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn every_test_that_the_table_of_parity_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder is in the repository");
    let (mut all, mut parity) = (String::new(), String::new());
    sources(&root.join("tests"), &mut all);
    sources(&root.join("src"), &mut all);
    sources(&root.join("tests/parity"), &mut parity);
    let document = fs::read_to_string(root.join("docs/parity.md")).expect("docs/parity.md");
    // In the tables, what is quoted and holds :: is a test, what is quoted and holds no more than a name is a case.
    let quoted: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    let tests: Vec<&str> = quoted.iter().copied().filter(|name| name.contains("::")).collect();
    assert!(tests.len() > 40, "only {} tests are named", tests.len());
    for test in tests {
        let name = test.rsplit("::").next().expect("a part");
        assert!(all.contains(&format!("fn {name}(")), "there is no test {test}");
    }
    for case in
        quoted.iter().filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
    {
        assert!(parity.contains(&format!("\"{case}\"")), "there is no case {case}");
    }
}
