//! The order in which modules may import each other, and the tests that enforce it.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, the lowest first. A module imports only from lower layers, and modules of the same layer do not import
/// each other.
const LAYERS: &[&[&str]] = &[
    &["counted", "error", "identity", "lsn", "protocol", "quoted"],
    &["document", "intent_id", "node_name"],
    &["pg"],
    &["backoff", "failpoint", "older_copy", "refused", "tally"],
    &["guc"],
    &["shmem"],
    &["barrier", "stand_aside"],
    &["wake"],
    &["node"],
    &["remote"],
    &["compare"],
    &["intent"],
    &["slot"],
    &["health"],
    &["plan"],
    &["apply", "plugin"],
    &["rebuild", "recover", "restore_point"],
    &["reconcile"],
    &["comparing"],
    &["worker"],
    &["sql"],
    &["document_tests", "layers", "lib", "pg_tests"],
];

/// The module of a file, as a path from the crate's root.
type Module = Vec<String>;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of src").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(root: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(root).expect("below src").with_extension("");
    relative.iter().map(|part| part.to_string_lossy().into_owned()).collect()
}

/// Collects every path that begins with `crate` or `super`, also within groups of `use` and within macros, as a path
/// from the root.
fn paths(tokens: &TokenStream, module: &[String], found: &mut BTreeSet<Module>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            // A module within the file: its `super` is the module of the file.
            TokenTree::Ident(word) if word == "mod" => {
                if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                    let inner: Module = module.iter().cloned().chain(["inner".to_owned()]).collect();
                    paths(&body.stream(), &inner, found);
                    at += 3;
                    continue;
                }
            }
            TokenTree::Ident(word) if (word == "crate" || word == "super") && !follows_colon(&tokens, at) => {
                let mut base: Module = if word == "crate" { Vec::new() } else { parent(module) };
                at = path_from(&tokens, at + 1, &mut base, found);
                continue;
            }
            TokenTree::Group(group) => paths(&group.stream(), module, found),
            _ => (),
        }
        at += 1;
    }
}

fn parent(module: &[String]) -> Module {
    module.split_last().map(|(_, parent)| parent.to_vec()).unwrap_or_default()
}

fn follows_colon(tokens: &[TokenTree], at: usize) -> bool {
    at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(mark) if mark.as_char() == ':')
}

/// Follows `::a::b::{…}` from `at` and collects each path. Returns the index of the token after them.
fn path_from(tokens: &[TokenTree], mut at: usize, base: &mut Module, found: &mut BTreeSet<Module>) -> usize {
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    while is_colon(at) && is_colon(at + 1) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(word)) if word == "super" => *base = parent(base),
            Some(TokenTree::Ident(word)) => base.push(word.to_string()),
            Some(TokenTree::Group(group)) => {
                let items: Vec<TokenTree> = group.stream().into_iter().collect();
                for item in items.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',')) {
                    let mut path = base.clone();
                    match item.first() {
                        Some(TokenTree::Ident(word)) if word == "self" => {
                            found.insert(path);
                        }
                        Some(TokenTree::Ident(word)) => {
                            path.push(word.to_string());
                            path_from(item, 1, &mut path, found);
                        }
                        _ => (),
                    }
                }
                return at + 3;
            }
            _ => break,
        }
        at += 3;
    }
    found.insert(base.clone());
    at
}

/// The modules that each module imports: of each path, the longest prefix that is a file.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let modules: BTreeSet<Module> = files.iter().map(|file| module_of(&root, file)).collect();
    let mut imports = BTreeMap::new();
    for file in &files {
        let module = module_of(&root, file);
        let text = fs::read_to_string(file).expect("a source file");
        let tokens: TokenStream = text.parse().expect("a source file's tokens");
        let mut found = BTreeSet::new();
        let inside = if module == ["lib"] { Vec::new() } else { module.clone() };
        paths(&tokens, &inside, &mut found);
        let used = found.iter().filter_map(|path| {
            (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| modules.contains(path))
        });
        imports.insert(module.clone(), used.filter(|used| *used != module).collect());
    }
    imports
}

fn layer(name: &str) -> usize {
    let place = LAYERS.iter().position(|layer| layer.contains(&name));
    place.unwrap_or_else(|| panic!("module {name} has no place in LAYERS"))
}

#[test]
fn modules_import_from_lower_layers_alone() {
    let imports = imports();
    assert!(imports.len() > 150, "the sources are not read");
    let mut upwards = Vec::new();
    for (module, used) in &imports {
        for used in used.iter().filter(|used| used[0] != module[0]) {
            if layer(&used[0]) >= layer(&module[0]) {
                upwards.push(format!("{} imports {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert_eq!(upwards, Vec::<String>::new());
}

/// The four files that prepare, open, find and change rows of a table with core's executor depend on each other.
const ONE_THING: &[&str] = &["pg::executor", "pg::held", "pg::open_table", "pg::tuple"];

/// There is no circle of imports within a folder either. A module may use what its parent modules define.
#[test]
fn no_modules_import_each_other_in_a_circle() {
    let imports: BTreeMap<Module, BTreeSet<Module>> = imports()
        .into_iter()
        .map(|(module, used)| {
            let used = used.into_iter().filter(|used| !module.starts_with(used)).collect();
            (module, used)
        })
        .collect();
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut left = vec![from.clone()];
        while let Some(module) = left.pop() {
            let further = imports[&module].iter().filter(|used| !reached.contains(*used)).cloned();
            let further: Vec<Module> = further.collect();
            reached.extend(further.iter().cloned());
            left.extend(further);
        }
        reached
    };
    let circular = imports.keys().filter(|module| reached(module).contains(*module)).map(|module| module.join("::"));
    assert_eq!(
        circular.filter(|module| !ONE_THING.contains(&module.as_str())).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}
