//! Conditions on the columns of a key, as they stand in a query on a table that is run as its owner
//! (src/pg/owned_table.rs): which rows have one of these keys, and which lie after a key or up to it (pure).

use pgrx::spi::quote_literal;

/// The parts of an SQL expression that compares a column with literals.
pub struct Comparison {
    /// The column, quoted and cast to the type of the operator's left operand. Otherwise an operator of the same name,
    /// which a user has created for the column's own type, a domain, would be preferred.
    pub column: String,
    /// The operator, as in `OPERATOR(pg_catalog.=)`.
    pub equal: String,
    /// Casts that turn a literal into a value of the operator's right operand, as in
    /// `::pg_catalog.regclass::pg_catalog.oid`. The literal is first read as the column's type, or as the base type of
    /// a domain.
    pub casts: String,
    /// The same casts for an array literal, if both types have array types.
    pub array_casts: Option<String>,
    /// The operators `>` and `<=` of the type's order; None if the type has none.
    pub order: Option<OrderOperators>,
}

/// The operators of a type's default order. They have the operands of the operator `=`.
pub struct OrderOperators {
    pub greater: String,
    pub at_most: String,
}

impl Comparison {
    fn literal(&self, value: &str) -> String {
        format!("{}{}", quote_literal(value), self.casts)
    }
}

/// The condition that selects the rows after a key in the table's order of keys. None if a column has no order.
pub fn after(key: &[Comparison], values: &[String]) -> Option<String> {
    in_order(key, &literals(key, values)?, |order| &order.greater, "false")
}

/// The condition that selects the rows up to a key, that key included. None if a column has no order.
pub fn up_to(key: &[Comparison], values: &[String]) -> Option<String> {
    in_order(key, &literals(key, values)?, |order| &order.at_most, "true")
}

/// The table `name`, in FROM, whose rows are ranges of keys: from after the first key of each pair up to the second one.
/// And the condition that selects the rows of a range, which an index can answer. None if a column has no order.
pub fn ranges(key: &[Comparison], name: &str, pairs: &[[&[String]; 2]]) -> Option<(String, String)> {
    let rows = pairs.iter().map(|pair| {
        let bounds: Vec<Vec<String>> = pair.iter().map(|values| literals(key, values)).collect::<Option<_>>()?;
        Some(format!("({})", bounds.concat().join(", ")))
    });
    let rows: Vec<String> = rows.collect::<Option<_>>()?;
    let columns = |bound: &str| -> Vec<String> { (0..key.len()).map(|place| format!("{bound}{place}")).collect() };
    let of_range =
        |bound: &str| -> Vec<String> { columns(bound).iter().map(|column| format!("{name}.{column}")).collect() };
    let (low, high) = ("low", "high");
    let condition = format!(
        "{} AND {}",
        in_order(key, &of_range(low), |order| &order.greater, "false")?,
        in_order(key, &of_range(high), |order| &order.at_most, "true")?
    );
    let names = [columns(low), columns(high)].concat().join(", ");
    Some((format!("(VALUES {}) {name}({names})", rows.join(", ")), condition))
}

fn literals(key: &[Comparison], values: &[String]) -> Option<Vec<String>> {
    (key.len() == values.len()).then(|| key.iter().zip(values).map(|(column, value)| column.literal(value)).collect())
}

/// Compares rows column by column with other values, which are SQL expressions. If all operators are core's, this is a row
/// comparison, which an index over several columns can answer; a row comparison has one operator for all columns, hence
/// one schema.
fn in_order(
    key: &[Comparison],
    literals: &[String],
    operator: impl Fn(&OrderOperators) -> &String,
    when_equal: &str,
) -> Option<String> {
    let operators: Vec<&String> =
        key.iter().map(|column| column.order.as_ref().map(&operator)).collect::<Option<_>>()?;
    if let ([column], [operator], [literal]) = (key, operators.as_slice(), literals) {
        return Some(format!("{} {operator} {literal}", column.column));
    }
    let first = operators.first()?;
    if first.starts_with("OPERATOR(pg_catalog.") && operators.iter().all(|operator| operator == first) {
        let columns: Vec<&str> = key.iter().map(|column| column.column.as_str()).collect();
        return Some(format!("ROW({}) {first} ROW({})", columns.join(", "), literals.join(", ")));
    }
    // From the last column to the first: a > x OR (a = x AND …).
    let mut condition = when_equal.to_owned();
    for ((column, literal), _) in key.iter().zip(literals).zip(&operators).rev() {
        let greater = column.order.as_ref().map(|order| &order.greater)?;
        let (left, equal) = (&column.column, &column.equal);
        condition = match when_equal {
            "false" => format!("({left} {greater} {literal} OR ({left} {equal} {literal} AND {condition}))"),
            _ => format!("(NOT {left} {greater} {literal} AND (NOT {left} {equal} {literal} OR {condition}))"),
        };
    }
    Some(condition)
}

/// The condition that selects the rows with these keys. Every literal is cast to its column's type; for a domain, to
/// its base type, without the domain's checks.
pub fn condition(key: &[Comparison], keys: &[Vec<String>]) -> String {
    if let [Comparison { column, equal, array_casts: Some(casts), .. }] = key {
        // One array literal for all keys is read in a tenth of the time.
        let list = array_literal(keys.iter().filter_map(|key| key.first()));
        return format!("{column} {equal} ANY ({}{casts})", quote_literal(&list));
    }
    let one = |values: &Vec<String>| {
        let parts = key.iter().zip(values).map(|(Comparison { column, equal, casts, .. }, value)| {
            format!("{column} {equal} {}{casts}", quote_literal(value))
        });
        format!("({})", parts.collect::<Vec<_>>().join(" AND "))
    };
    keys.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

fn array_literal<'a>(values: impl Iterator<Item = &'a String>) -> String {
    let mut list = String::from("{");
    for value in values {
        list.push_str(if list.len() > 1 { ",\"" } else { "\"" });
        for character in value.chars() {
            if matches!(character, '"' | '\\') {
                list.push('\\');
            }
            list.push(character);
        }
        list.push('"');
    }
    list.push('}');
    list
}
