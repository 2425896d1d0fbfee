//! How a table is cut: which columns order its rows, where its ranges begin, and the SQL that reads a part of one.
//!
//! Keys are compared by the server alone, in the collation of the key's index: under another one keys can count as equal that the
//! index keeps apart, and rows between two parts would be passed over. Bounds come from the server's statistics of the key's first
//! column; without statistics a table is one range, which is read on and on. A table whose declared key no index vouches for is read by
//! the place of its rows (`ctid`): a row that moves meanwhile comes whole with its change, since such tables have REPLICA IDENTITY FULL.
//!
//! Where a table is written anew (ALTER TABLE, VACUUM FULL, CLUSTER), nothing is streamed, its rows have other places, and a snapshot from
//! before ALTER TABLE can find it empty. A read says which files it was of ([`Files`]), so that such a one does not count, and
//! which types its columns had: in binary a value of one type can pass for one of another.

use std::collections::HashMap;

use guitong_schemas::contract::system::SnapshotConfig;
use guitong_schemas::table::Table;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::config::{quote_literal, quote_name};
use super::copy::Form;
use super::position::Range;
use super::prepare::quoted;
use super::relation::Relation;

/// A range is at least so many chunks: shorter ones would cost more than they gain.
const CHUNKS: u64 = 4;
/// Ranges for each worker, so that all have something to do until near the end.
const RANGES: usize = 4;
/// What places of rows are called.
const PAGES: &str = "ctid";

/// What a table is, beside its relation.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) oid: u32,
    pub(crate) partitioned: bool,
    pub(crate) bytes: u64,
    /// How many columns it had when its relation was made of the catalogue, published or not.
    pub(crate) columns: usize,
}

/// How rows of a table are asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Names of the ordering columns, for the position.
    pub(crate) order: Vec<String>,
    /// The same as SQL, with the collation of the index where the column has another.
    terms: Vec<String>,
    /// ` COLLATE …` of the first one, for values that do not come from the column.
    collation: String,
    select: String,
    pub(crate) by_pages: bool,
    /// Of the table's columns; reading by pages gives the place as one more.
    pub(crate) form: Form,
}

impl Plan {
    /// # Errors
    /// When the catalogue cannot be read.
    pub(crate) async fn make(
        connection: &mut PgConnection,
        relation: &Relation,
        shape: &Shape,
        filter: Option<&str>,
    ) -> Result<Self, sqlx::Error> {
        let table = &relation.table;
        let form = relation.form();
        if !relation.chunkable {
            let select = select(table, shape.partitioned, filter, true);
            let order = vec![places(&Files::now(connection, shape).await?)];
            let terms = vec![PAGES.to_owned()];
            return Ok(Self { terms, order, collation: String::new(), select, by_pages: true, form });
        }
        let order: Vec<String> = table.key_columns().map(|column| column.name.clone()).collect();
        let collations = collations(connection, shape.oid).await?;
        let of = |name: &String| collations.iter().find(|collation| collation.column == *name);
        let terms = order.iter().map(|name| match of(name) {
            Some(collation) if collation.differs => format!("{} COLLATE {}", quote_name(name), collation.name),
            _ => quote_name(name),
        });
        let terms = terms.collect();
        let collation = order.first().and_then(of).map(|first| format!(" COLLATE {}", first.name)).unwrap_or_default();
        let select = select(table, shape.partitioned, filter, false);
        Ok(Self { order, terms, collation, select, by_pages: false, form })
    }

    /// The table's ranges in their order.
    ///
    /// # Errors
    /// When the statistics cannot be read.
    pub(crate) async fn ranges(
        &self,
        connection: &mut PgConnection,
        relation: &Relation,
        shape: &Shape,
        config: &SnapshotConfig,
    ) -> Result<Vec<Range>, sqlx::Error> {
        let sensible = usize::try_from(shape.bytes / (config.chunk as u64 * CHUNKS).max(1)).unwrap_or(usize::MAX);
        let wanted = if config.workers > 1 { sensible.min(config.workers * RANGES) } else { 1 };
        if self.by_pages {
            return Ok(cut_pages(pages(connection, shape.oid).await?, wanted.max(1) as u64));
        }
        let bounds = if wanted < 2 { Vec::new() } else { self.statistics(connection, relation, shape).await? };
        Ok(cut(&bounds, wanted))
    }

    /// Values of the key's first column, in its order, that the server noted when it last analysed the table.
    async fn statistics(
        &self,
        connection: &mut PgConnection,
        relation: &Relation,
        shape: &Shape,
    ) -> Result<Vec<String>, sqlx::Error> {
        let Some(first) = self.order.first() else { return Ok(Vec::new()) };
        let name = &relation.table.name;
        let element: Option<String> = sqlx::query_scalar(
            "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = $1::int8::oid AND attname = $2 AND NOT attisdropped",
        )
        .bind(i64::from(shape.oid))
        .bind(first)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(element) = element else { return Ok(Vec::new()) };
        let collation = &self.collation;
        let sql = format!(
            "SELECT bound::text AS value FROM (SELECT unnest(histogram_bounds::text::{element}[]) AS bound FROM pg_stats \
             WHERE schemaname = $1 AND tablename = $2 AND attname = $3 AND inherited = $4 UNION \
             SELECT unnest(most_common_vals::text::{element}[]) FROM pg_stats \
             WHERE schemaname = $1 AND tablename = $2 AND attname = $3 AND inherited = $4) AS bounds ORDER BY bounds.bound{collation}"
        );
        let query =
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(&name.schema).bind(&name.name).bind(first).bind(shape.partitioned);
        match query.fetch_all(&mut *connection).await {
            Ok(bounds) => Ok(bounds),
            // A type whose values have no array of texts; its table is read on.
            Err(sqlx::Error::Database(error)) => {
                tracing::debug!(table = %name, %error, "the statistics do not read");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// The query of the next rows of a range, in order, `limit` at most; `pages` bounds them where places order them.
    pub(crate) fn next(&self, range: &Range, limit: usize, pages: u64) -> String {
        let mut conditions = Vec::new();
        conditions.extend(range.after.as_deref().map(|after| self.compare(">", after)));
        if self.by_pages {
            conditions.push(self.compare("<", &end_of_pages(range, pages)));
            return format!("{}{}", self.select, wherever(&conditions));
        }
        conditions.extend(range.upto.as_deref().map(|upto| self.compare("<=", upto)));
        format!("{}{} ORDER BY {} LIMIT {limit}", self.select, wherever(&conditions), self.terms.join(", "))
    }

    /// The query of single rows.
    pub(crate) fn keys(&self, keys: &[Vec<String>]) -> String {
        let literals: Vec<String> = keys.iter().map(|key| values(key)).collect();
        let names: Vec<String> = self.order.iter().map(|name| quote_name(name)).collect();
        format!("{} WHERE ({}) IN ({})", self.select, names.join(", "), literals.join(", "))
    }

    /// Whether rows that were read of these files are of the table that the plan was made for.
    pub(crate) fn is_of(&self, files: &Files) -> bool {
        files.seen && (!self.by_pages || self.order == [places(files)])
    }

    /// A bound can be of the first columns alone.
    fn compare(&self, operator: &str, bound: &[String]) -> String {
        let terms: Vec<&str> = self.terms.iter().take(bound.len()).map(String::as_str).collect();
        format!("({}) {operator} {}", terms.join(", "), values(bound))
    }

    /// Whether ranges of a stored position are of this order.
    pub(crate) fn fits(&self, order: &[String], ranges: &[Range]) -> bool {
        let bounds = ranges.iter().flat_map(|range| range.after.iter().chain(&range.upto));
        (order.is_empty() || order == self.order) && bounds.into_iter().all(|bound| bound.len() <= self.order.len())
    }
}

/// What the order of places is called: places are of the files.
fn places(files: &Files) -> String {
    format!("{PAGES} of {}", files.nodes)
}

/// The files in which a table, or each of its partitions, is stored, and what is in them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    nodes: String,
    /// They were the same when the snapshot was taken.
    pub(crate) seen: bool,
    /// Type oids by the columns' names.
    types: HashMap<String, u32>,
}

impl Files {
    /// Asks for them. The functions tell what is now, and `pg_class` what the snapshot sees; after a table was read, nothing can change
    /// either before the transaction ends.
    pub(crate) fn query(shape: &Shape) -> String {
        let oid = shape.oid;
        let all = if shape.partitioned { format!("(SELECT relid FROM pg_partition_tree({oid}))") } else { format!("({oid})") };
        format!(
            "SELECT coalesce(string_agg(pg_relation_filenode(oid)::text, ',' ORDER BY oid), ''), \
             coalesce(bool_and(pg_relation_filenode(oid) IS NOT DISTINCT FROM nullif(relfilenode, 0)), false)::text, \
             (SELECT coalesce(json_object_agg(attname, atttypid::int8), '{{}}')::text FROM pg_attribute \
              WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped) FROM pg_class WHERE oid IN {all}"
        )
    }

    /// From the values that [`Files::query`] gave.
    pub(crate) fn read(values: &[String]) -> Option<Self> {
        let [nodes, seen, types] = values else { return None };
        Self::of(nodes.clone(), seen, types)
    }

    fn of(nodes: String, seen: &str, types: &str) -> Option<Self> {
        Some(Self { nodes, seen: seen == "true", types: serde_json::from_str(types).ok()? })
    }

    /// Whether the files hold the columns as the relation has them, and no column more than when it was made.
    pub(crate) fn are_of(&self, relation: &Relation, shape: &Shape) -> bool {
        self.types.len() == shape.columns && relation.kept().all(|column| self.types.get(&column.name) == Some(&column.type_oid))
    }

    async fn now(connection: &mut PgConnection, shape: &Shape) -> Result<Self, sqlx::Error> {
        let (nodes, seen, types): (String, String, String) =
            sqlx::query_as(AssertSqlSafe(Self::query(shape))).fetch_one(connection).await?;
        Self::of(nodes, &seen, &types)
            .ok_or_else(|| sqlx::Error::Protocol("the types of a table's columns do not read".to_owned()))
    }
}

/// The place at which reading so many pages of a range ends, which is the range's end at last.
pub(crate) fn end_of_pages(range: &Range, pages: u64) -> Vec<String> {
    let end = range.after.as_deref().map_or(0, page).saturating_add(pages.max(1));
    place(range.upto.as_deref().map_or(end, |upto| end.min(page(upto))))
}

fn page(place: &[String]) -> u64 {
    let text = place.first().map(String::as_str).unwrap_or_default();
    text.trim_start_matches('(').split(',').next().and_then(|page| page.parse().ok()).unwrap_or(0)
}

fn place(page: u64) -> Vec<String> {
    vec![format!("({page},0)")]
}

fn wherever(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

fn values(key: &[String]) -> String {
    let values: Vec<String> = key.iter().map(|value| quote_literal(value)).collect();
    format!("({})", values.join(", "))
}

/// The columns that are published, of the rows that meet the filter. The filter stands in a query of its own, on lines of its own, so that
/// neither an OR nor a comment in it reaches what follows.
pub(crate) fn select(table: &Table, partitioned: bool, filter: Option<&str>, with_place: bool) -> String {
    let mut columns: Vec<String> = table.columns.iter().map(|column| quote_name(&column.name)).collect();
    if with_place {
        columns.push(PAGES.to_owned());
    }
    let columns = columns.join(", ");
    let from = format!("{}{}", if partitioned { "" } else { "ONLY " }, quoted(&table.name));
    match filter {
        None => format!("SELECT {columns} FROM {from}"),
        Some(filter) => format!("SELECT {columns} FROM (SELECT {columns} FROM {from} WHERE (\n{filter}\n)) AS filtered"),
    }
}

/// Evenly spaced ranges between the bounds.
fn cut(bounds: &[String], wanted: usize) -> Vec<Range> {
    let mut inner: Vec<&String> = (1..wanted).filter_map(|at| bounds.get(at * bounds.len() / wanted)).collect();
    inner.dedup();
    let mut ranges = Vec::with_capacity(inner.len() + 1);
    let mut after = None;
    for bound in inner {
        let upto = Some(vec![bound.clone()]);
        ranges.push(Range { after: after.take(), upto: upto.clone() });
        after = upto;
    }
    ranges.push(Range { after, upto: None });
    ranges
}

/// What a column of the key's index is compared by.
struct Collation {
    column: String,
    name: String,
    /// The column itself has another.
    differs: bool,
}

async fn collations(connection: &mut PgConnection, oid: u32) -> Result<Vec<Collation>, sqlx::Error> {
    let found: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT a.attname::text AS column, quote_ident(n.nspname) || '.' || quote_ident(o.collname) AS name, \
         a.attcollation <> k.compared_by AS differs \
         FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid \
            AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END, \
         unnest(i.indkey::int2[], i.indcollation::oid[]) AS k(attnum, compared_by) \
         JOIN pg_attribute a ON a.attnum = k.attnum JOIN pg_collation o ON o.oid = k.compared_by \
         JOIN pg_namespace n ON n.oid = o.collnamespace WHERE c.oid = $1::int8::oid AND a.attrelid = c.oid",
    )
    .bind(i64::from(oid))
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(column, name, differs)| Collation { column, name, differs }).collect())
}

/// Parts of as many pages, up to the table's present end: rows that come behind it are streamed.
fn cut_pages(pages: u64, wanted: u64) -> Vec<Range> {
    let step = pages.div_ceil(wanted).max(1);
    let begins = (0..pages.div_ceil(step).max(1)).map(|part| part * step);
    begins.map(|from| Range { after: Some(place(from)), upto: Some(place((from + step).min(pages))) }).collect()
}

async fn pages(connection: &mut PgConnection, oid: u32) -> Result<u64, sqlx::Error> {
    let pages: i64 = sqlx::query_scalar("SELECT (pg_relation_size($1::int8::oid) / current_setting('block_size')::int8)::int8")
        .bind(i64::from(oid))
        .fetch_one(connection)
        .await?;
    Ok(pages.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(terms: &[&str]) -> Plan {
        let terms: Vec<String> = terms.iter().map(|term| (*term).to_owned()).collect();
        let by_pages = terms[0] == PAGES;
        Plan {
            order: terms.clone(),
            terms,
            collation: String::new(),
            select: "SELECT * FROM t".into(),
            by_pages,
            form: Form::Text(1),
        }
    }

    #[test]
    fn ranges_meet_and_leave_nothing_out() {
        let bounds: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let ranges = cut(&bounds, 3);
        assert_eq!(ranges.len(), 3);
        assert_eq!((&ranges[0].after, &ranges[2].upto), (&None, &None));
        assert!(ranges.windows(2).all(|pair| pair[0].upto.is_some() && pair[0].upto == pair[1].after));
        assert_eq!(cut(&[], 3), [Range::default()]);
        assert_eq!(cut(&vec!["x".to_owned(); 9], 4).len(), 2, "one value cuts once");
    }

    #[test]
    fn bounds_can_be_of_the_first_columns() {
        let range = Range { after: Some(vec!["1".into(), "it's".into()]), upto: Some(vec!["5".into()]) };
        assert_eq!(
            plan(&["a", "b COLLATE x"]).next(&range, 7, 1),
            "SELECT * FROM t WHERE (a, b COLLATE x) > ('1', 'it''s') AND (a) <= ('5') ORDER BY a, b COLLATE x LIMIT 7"
        );
    }

    #[test]
    fn pages_end_at_the_range() {
        let plan = plan(&[PAGES]);
        let range = Range { after: Some(vec!["(8,3)".into()]), upto: Some(vec!["(12,0)".into()]) };
        assert_eq!(plan.next(&range, 7, 2), "SELECT * FROM t WHERE (ctid) > ('(8,3)') AND (ctid) < ('(10,0)')");
        assert_eq!(end_of_pages(&range, 100), ["(12,0)"]);
        assert_eq!(cut_pages(0, 4), [Range { after: Some(place(0)), upto: Some(place(0)) }]);
        let ranges = cut_pages(10, 4);
        assert_eq!(ranges.len(), 4);
        assert_eq!(ranges[3], Range { after: Some(place(9)), upto: Some(place(10)) });
    }

    #[test]
    fn a_stored_range_of_another_order_does_not_fit() {
        let plan = plan(&["a", "b"]);
        let range = |bound: &[&str]| Range { after: Some(bound.iter().map(|&text| text.into()).collect()), upto: None };
        assert!(plan.fits(&["a".into(), "b".into()], &[range(&["1"])]));
        assert!(!plan.fits(&["a".into()], &[range(&["1"])]));
        assert!(!plan.fits(&[], &[range(&["1", "2", "3"])]));
    }
}
