use super::document::Journal;

#[test]
fn placeholder_replaced_by_the_state_machine_tests() {
    let here = crate::node::identity::DatabaseIdentity { system_identifier: 7, database: 5 };
    let journal = Journal::new(here);
    assert_eq!(Journal::parse(&journal.to_text()), Ok(journal));
}
