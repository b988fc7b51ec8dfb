//! The check of tables whose copy was ended before it was complete (pure).

use super::{Check, Status, check};
use crate::quoted::literal;

/// How many tables are named at most.
const NAMED: usize = 10;

/// The check. `tables`: their qualified names as SQL has them. None: there is no such table.
pub fn incomplete(tables: &[String]) -> Option<Check> {
    let (first, rest) = tables.split_at(tables.len().min(NAMED));
    if first.is_empty() {
        return None;
    }
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let arguments = if rest.is_empty() {
        let named: Vec<String> = first.iter().map(|table| format!("{}::regclass", literal(table))).collect();
        format!("tables := ARRAY[{}]", named.join(", "))
    } else {
        String::new()
    };
    let details = format!(
        "a copy was ended before it was complete: {}{more}; until they are rebuilt they lack rows, receive nothing and refuse \
         writes; CALL spock.rebuild_run({arguments}); rebuilds them from another node",
        first.join(", ")
    );
    Some(check("incomplete_tables", Status::Critical, details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_tables_unless_there_are_many() {
        assert_eq!(incomplete(&[]), None);
        let told = |tables: &[String]| incomplete(tables).map(|check| check.details).unwrap_or_default();
        let few = told(&["public.t".to_owned(), "public.\"o'k\"".to_owned()]);
        let command = "CALL spock.rebuild_run(tables := ARRAY['public.t'::regclass, 'public.\"o''k\"'::regclass]);";
        assert!(few.contains(command) && few.contains("public.t, public.\"o'k\";"), "{few}");
        let many = told(&vec!["public.t".to_owned(); 13]);
        assert!(many.contains("public.t and 3 more") && many.contains("CALL spock.rebuild_run();"), "{many}");
    }
}
