//! The queries that answer questions about ranges. They are made and run as the owner of the table, within
//! [`crate::pg::owned_table::each_row`].

use super::question::{Asked, KeyText, Question, RANGES, ROWS, ROWS_AT_ONCE, Span};
use crate::node::incomplete;
use crate::pg::key_condition::{self, Comparison, condition};
use crate::pg::owned_table::{OwnedTable, OwnedTableError};
use crate::pg::spi_text;
use pgrx::spi::quote_literal;

/// The query for a question about rows. It gives the columns of the question; for `Sums` behind them also the position of
/// the row's range, if `has_places`, or else its key.
pub(super) fn of_rows(question: &Question, table: &OwnedTable, has_places: bool) -> Result<String, OwnedTableError> {
    let name = |index: &usize| question.columns[*index].as_str();
    let columns = question.columns.iter().map(|column| table.column(column)).collect::<Result<Vec<_>, _>>()?;
    let key: Vec<Comparison> =
        question.key.iter().map(|index| table.comparison(name(index))).collect::<Result<_, _>>()?;
    if let Some((index, _)) = question.key.iter().zip(&key).find(|(_, column)| column.order.is_none()) {
        return Err(table.no_order(name(index)));
    }
    let parts = Parts {
        table: table.quoted(),
        row: columns.join(", "),
        key_columns: question.key.iter().map(|index| columns[*index].clone()).collect::<Vec<_>>().join(", "),
        key,
        has_places,
    };
    table.write_alike();
    table.prefer_index(matches!(question.asked, Asked::Cut { .. } | Asked::Rows { .. }));
    let filter = match question.asked {
        Asked::Keys { .. } => None,
        _ => row_filter(table.oid(), &question.publications),
    };
    Ok(parts.query(&question.asked, filter))
}

/// The ends of a span's ranges but the last one, where its key is one integer and the ends are integers: the range of a
/// row is then found without an expression that the executor evaluates for each row.
pub(super) fn integer_ends(question: &Question, span: &Span, table: &OwnedTable) -> Option<Vec<i64>> {
    let [index] = question.key.as_slice() else { return None };
    if !table.is_integer(&question.columns[*index]) {
        return None;
    }
    let (_, inner) = span.ends.split_last()?;
    let number = |end: &Option<KeyText>| match end.as_deref()? {
        [text] => text.parse().ok(),
        _ => None,
    };
    let ends: Vec<i64> = inner.iter().map(number).collect::<Option<_>>()?;
    ends.is_sorted().then_some(ends)
}

struct Parts {
    table: String,
    /// The columns of the question.
    row: String,
    key_columns: String,
    key: Vec<Comparison>,
    /// Whether the query tells the position of a row's range.
    has_places: bool,
}

impl Parts {
    fn query(&self, asked: &Asked, filter: Option<String>) -> String {
        let Parts { table, row, key_columns, key, has_places } = self;
        let filter = filter.map(|filter| format!("({filter}) IS TRUE"));
        match asked {
            Asked::Cut { after, .. } => {
                let condition = all([self.after(after.as_ref()), filter]);
                let most = RANGES as u64 * ROWS;
                format!("SELECT {row} FROM {table} t WHERE {condition} ORDER BY {key_columns} LIMIT {most}")
            }
            Asked::Sums { span, .. } => {
                let condition = all([self.after(span.after.as_ref()), self.up_to_end(span), filter]);
                let place = has_places.then(|| self.place(span, 0, span.ends.len() - 1));
                format!("SELECT {row}, {} FROM {table} t WHERE {condition}", place.as_ref().unwrap_or(key_columns))
            }
            Asked::Rows { span, wanted, from } => {
                if let Some((ranges, of_range)) = self.ranges(span, wanted) {
                    let condition = all([Some(of_range), self.after(from.as_ref()), filter]);
                    return format!(
                        "SELECT {row} FROM {ranges} CROSS JOIN LATERAL (SELECT * FROM {table} t WHERE {condition} OFFSET 0) t
                          ORDER BY {key_columns} LIMIT {ROWS_AT_ONCE}"
                    );
                }
                let is_wanted = (wanted.len() < span.ends.len()).then(|| {
                    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                    format!("{} IN ({})", self.place(span, 0, span.ends.len() - 1), wanted.join(", "))
                });
                let after = self.after(from.as_ref().or(span.after.as_ref()));
                let condition = all([after, self.up_to_end(span), is_wanted, filter]);
                format!("SELECT {row} FROM {table} t WHERE {condition} ORDER BY {key_columns} LIMIT {ROWS_AT_ONCE}")
            }
            Asked::Keys { keys } => {
                let condition = if keys.is_empty() { "false".to_owned() } else { condition(key, keys) };
                format!("SELECT {row} FROM {table} t WHERE {condition} LIMIT {}", 2 * keys.len())
            }
            Asked::Shape => shape(0, &[]),
        }
    }

    /// The wanted ranges, for which an index is asked one by one; None if one of them has no beginning or no end.
    fn ranges(&self, span: &Span, wanted: &[usize]) -> Option<(String, String)> {
        let pairs = wanted.iter().map(|place| {
            let low = if *place == 0 { span.after.as_deref() } else { span.ends[place - 1].as_deref() };
            Some([low?, span.ends[*place].as_deref()?])
        });
        let pairs: Vec<[&[String]; 2]> = pairs.collect::<Option<_>>()?;
        if pairs.is_empty() { None } else { key_condition::ranges(&self.key, "r", &pairs) }
    }

    fn after(&self, key: Option<&KeyText>) -> Option<String> {
        key_condition::after(&self.key, key?)
    }

    fn up_to(&self, key: Option<&KeyText>) -> Option<String> {
        key_condition::up_to(&self.key, key?)
    }

    fn up_to_end(&self, span: &Span) -> Option<String> {
        self.up_to(span.ends.last().and_then(Option::as_ref))
    }

    /// The position of a row's range among those from `first` to `last`, as a binary search.
    fn place(&self, span: &Span, first: usize, last: usize) -> String {
        if first == last {
            return first.to_string();
        }
        let middle = first.midpoint(last);
        let is_before = self.up_to(span.ends[middle].as_ref()).unwrap_or_else(|| "true".to_owned());
        let (left, right) = (self.place(span, first, middle), self.place(span, middle + 1, last));
        format!("CASE WHEN {is_before} THEN {left} ELSE {right} END")
    }
}

fn all<const N: usize>(conditions: [Option<String>; N]) -> String {
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// One row per publication of these names that publishes the table: whether it publishes all rows, its row filter and
/// its list of columns, and whether it publishes generated columns.
fn publishing(table: u32, publications: &[String]) -> String {
    let names: Vec<String> = publications.iter().map(quote_literal).collect();
    format!(
        "SELECT p.puballtables OR n.oid IS NOT NULL OR r.prqual IS NULL AS is_whole,
                pg_catalog.pg_get_expr(r.prqual, r.prrelid) AS filter, r.prattrs AS attrs,
                coalesce(pg_catalog.to_jsonb(p) ->> 'pubgencols', 'n') = 's' AS generated
           FROM pg_catalog.pg_publication p
           JOIN pg_catalog.pg_class c ON c.oid = {table}
           LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
           LEFT JOIN pg_catalog.pg_publication_namespace n ON n.pnpubid = p.oid AND n.pnnspid = c.relnamespace
          WHERE p.pubname = ANY (ARRAY[{}]::pg_catalog.name[])
            AND (p.puballtables OR n.oid IS NOT NULL OR r.oid IS NOT NULL)",
        names.join(", ")
    )
}

/// The condition under which the publications publish a row of the table; None: they publish all, or do not publish the
/// table.
fn row_filter(table: u32, publications: &[String]) -> Option<String> {
    if publications.is_empty() {
        return None;
    }
    let found = spi_text::rows(&format!(
        "SELECT pg_catalog.string_agg('(' || filter || ')', ' OR ') FROM ({}) x HAVING NOT pg_catalog.bool_or(is_whole)",
        publishing(table, publications)
    ));
    found.into_iter().next()?.pop().flatten()
}

/// The query for the shape of a table, as one JSON document.
pub(super) fn shape(table: u32, publications: &[String]) -> String {
    format!(
        "WITH c AS (SELECT * FROM pg_catalog.pg_class WHERE oid = {table}),
              pubs AS ({}),
              a AS (SELECT * FROM pg_catalog.pg_attribute WHERE attrelid = {table} AND attnum > 0 AND NOT attisdropped),
              i AS (SELECT i.indkey, i.indnkeyatts FROM pg_catalog.pg_index i, c
                     WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                       AND (i.indisprimary OR (c.relreplident = 'i' AND i.indisreplident))
                     ORDER BY (c.relreplident = 'i' AND i.indisreplident) DESC LIMIT 1),
              k AS (SELECT a.*, n.place FROM i, pg_catalog.generate_series(0, i.indnkeyatts - 1) n(place)
                      JOIN a ON a.attnum = (SELECT indkey[n.place] FROM i)),
              d AS (SELECT encoding, datlocprovider, datcollate, oid,
                           coalesce(pg_catalog.to_jsonb(x) ->> 'datlocale', pg_catalog.to_jsonb(x) ->> 'daticulocale') AS locale
                      FROM pg_catalog.pg_database x WHERE datname = pg_catalog.current_database())
         SELECT pg_catalog.jsonb_build_object(
           'columns', (SELECT coalesce(pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM a),
           'published', (SELECT coalesce(pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM a
                          WHERE (NOT EXISTS (SELECT FROM pubs) AND a.attgenerated = '')
                             OR EXISTS (SELECT FROM pubs p
                                         WHERE CASE WHEN p.attrs IS NULL THEN a.attgenerated = '' OR (p.generated AND a.attgenerated = 's')
                                                    ELSE a.attnum = ANY (p.attrs) END)),
           'is_published', EXISTS (SELECT FROM pubs),
           'is_filtered', EXISTS (SELECT FROM pubs) AND NOT EXISTS (SELECT FROM pubs p WHERE p.is_whole),
           'key', (SELECT pg_catalog.jsonb_agg(k.attname ORDER BY k.place) FROM k),
           'order', (SELECT CASE WHEN pg_catalog.bool_and(k.atttypid < 16384) THEN pg_catalog.string_agg(pg_catalog.concat_ws(' ',
                              pg_catalog.format_type(k.atttypid, NULL),
                              CASE WHEN o.collprovider = 'd' THEN pg_catalog.concat_ws(' ', d.encoding, d.datlocprovider, d.datcollate,
                                        d.locale, pg_catalog.pg_database_collation_actual_version(d.oid))
                                   WHEN o.oid IS NOT NULL THEN pg_catalog.concat_ws(' ', d.encoding, o.collprovider, o.collcollate,
                                        coalesce(pg_catalog.to_jsonb(o) ->> 'colllocale', pg_catalog.to_jsonb(o) ->> 'colliculocale'),
                                        o.collisdeterministic, pg_catalog.pg_collation_actual_version(o.oid)) END), ', ' ORDER BY k.place) END
                       FROM d, k LEFT JOIN pg_catalog.pg_collation o ON o.oid = k.attcollation),
           'rows', coalesce((SELECT sum(greatest(l.reltuples, 0)) FROM pg_catalog.pg_partition_tree({table}) p
                               JOIN pg_catalog.pg_class l ON l.oid = p.relid WHERE p.isleaf),
                            (SELECT greatest(c.reltuples, 0) FROM c))::pg_catalog.int8,
           'is_incomplete', {})",
        publishing(table, publications),
        incomplete::any_of(&format!("ARRAY[{table}]::pg_catalog.oid[]"))
    )
}
