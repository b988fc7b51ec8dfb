//! Text in columns.

/// The first row is the heading; numbers and positions read best aligned right, names left: the first column is left.
pub fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                line.push_str(&if column == 0 { format!("{cell:<width$}") } else { format!("   {cell:>width$}") });
            }
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["of", "n1", "n2"], ["n1", "-", "0/16B3748"], ["node_3", "?", "-"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect();
        assert_eq!(
            lines(&rows),
            ["  of       n1          n2", "  n1        -   0/16B3748", "  node_3    ?           -"]
        );
    }
}
