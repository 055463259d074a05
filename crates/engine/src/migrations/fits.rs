//! Whether a database has what a schema needs: what a migration says of it must be so.
//!
//! Tables, columns with type and `NOT NULL`, and by their names constraints, indexes and triggers. What a constraint says is
//! compared on SQLite alone, where it stands as it was written. What there is besides is nobody's business here.

use std::collections::{HashMap, HashSet};

use cratestack_schema::ir::Schema;

use super::session::{Refusal, Session};
use super::split;
use crate::ddl::{self, Catalog, ConstraintKind, META_TABLE};
use crate::sql::{Dialect, ident};

/// What is there.
#[derive(Debug, Default)]
struct There {
    /// By table, its columns with type and whether they are `NOT NULL`.
    tables: HashMap<String, HashMap<String, (String, bool)>>,
    /// Constraints of PostgreSQL, indexes and triggers: table and name.
    parts: HashSet<(String, String)>,
    /// On SQLite, the normalised statement that made a table.
    texts: HashMap<String, String>,
}

/// Kind, table, name, type and whether `NULL` is refused.
const POSTGRES: &str = "\
    SELECT 'column', c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod) || CASE \
      WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || quote_ident(l.collname) ELSE '' END, \
      CASE WHEN a.attnotnull THEN 'y' END \
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation \
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') \
    UNION ALL SELECT 'part', c.relname::text, n.conname::text, NULL, NULL FROM pg_constraint n \
    JOIN pg_class c ON c.oid = n.conrelid WHERE c.relnamespace = current_schema()::regnamespace \
    UNION ALL SELECT 'part', c.relname::text, i.relname::text, NULL, NULL FROM pg_index x \
    JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid \
    WHERE c.relnamespace = current_schema()::regnamespace AND x.indisvalid \
    UNION ALL SELECT 'part', c.relname::text, g.tgname::text, NULL, NULL FROM pg_trigger g \
    JOIN pg_class c ON c.oid = g.tgrelid WHERE c.relnamespace = current_schema()::regnamespace AND NOT g.tgisinternal";
const SQLITE: &str = "\
    SELECT 'column', m.name, p.name, p.type, CASE WHEN p.\"notnull\" THEN 'y' END \
    FROM sqlite_schema m, pragma_table_xinfo(m.name) p \
    WHERE m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL%' \
    UNION ALL SELECT 'part', tbl_name, name, NULL, NULL FROM sqlite_schema WHERE type IN ('index', 'trigger') \
    UNION ALL SELECT 'text', name, sql, NULL, NULL FROM sqlite_schema WHERE type = 'table'";

impl There {
    async fn load(session: &mut Session) -> Result<Self, Refusal> {
        let dialect = session.dialect();
        let sql = if dialect == Dialect::Postgres { POSTGRES } else { SQLITE };
        let mut there = Self::default();
        for row in session.query(sql, &[]).await? {
            let mut columns = row.into_iter();
            let mut next = || columns.next().flatten().unwrap_or_default();
            let (kind, table, name, ty, refuses_null) = (next(), next(), next(), next(), next());
            match kind.as_str() {
                "column" => {
                    there.tables.entry(table).or_default().insert(name, (ty, !refuses_null.is_empty()));
                }
                "text" => {
                    there.texts.insert(table, normal(&name, dialect));
                }
                _ => {
                    there.parts.insert((table, name));
                }
            }
        }
        Ok(there)
    }
}

/// A statement, or a part of one, as far as it counts.
fn normal(sql: &str, dialect: Dialect) -> String {
    let sections = split::sections(sql, dialect).unwrap_or_default();
    sections.into_iter().flat_map(|section| section.statements).map(|statement| statement.normal).collect()
}

/// What `schema` needs and the database does not have: sentences.
pub(super) async fn lacking(session: &mut Session, schema: &Schema) -> Result<Vec<String>, Refusal> {
    let dialect = session.dialect();
    let there = There::load(session).await?;
    Ok(compare(&ddl::catalog(schema, dialect), &there, dialect))
}

fn compare(needed: &Catalog, there: &There, dialect: Dialect) -> Vec<String> {
    let mut lacking = Vec::new();
    let logs = needed.logs.iter().flat_map(|log| &log.create);
    let logs = logs.filter_map(|sql| split::sections(sql, dialect).ok()?.pop()?.statements.pop()?.makes_table());
    lacking
        .extend(logs.filter(|name| !there.tables.contains_key(name)).map(|name| format!("there is no table `{name}`")));
    for table in needed.tables.iter().filter(|table| table.name != META_TABLE) {
        let name = &table.name;
        let Some(columns) = there.tables.get(name) else {
            lacking.push(format!("there is no table `{name}`"));
            continue;
        };
        for column in &table.columns {
            // As PostgreSQL writes it.
            let wanted = column.ty.replace("timestamptz", "timestamp with time zone");
            let null = |refused: bool| if refused { "`NOT NULL`" } else { "free to be null" };
            match columns.get(&column.name) {
                None => lacking.push(format!("`{name}` has no column `{}`", column.name)),
                Some((ty, _)) if !ty.eq_ignore_ascii_case(&wanted) => {
                    lacking.push(format!("the column `{}` of `{name}` is `{ty}`, and not `{wanted}`", column.name));
                }
                // SQLite's numbers of rows are never null, whatever it says of them.
                Some((_, refused)) if *refused != column.not_null && !column.identity => {
                    let (is, not) = (null(*refused), null(column.not_null));
                    lacking.push(format!("the column `{}` of `{name}` is {is}, and not {not}", column.name));
                }
                Some(_) => {}
            }
        }
        let has = |part: &str| there.parts.contains(&(name.clone(), part.to_owned()));
        let text = there.texts.get(name);
        // SQLite's key of a numbered column stands with the column.
        let numbered = table.columns.iter().any(|column| column.identity);
        let constraints = table.constraints.iter().filter(|constraint| match dialect {
            Dialect::Postgres => !has(&constraint.name),
            Dialect::Sqlite if numbered && constraint.kind == ConstraintKind::Primary => false,
            Dialect::Sqlite => !text.is_some_and(|text| {
                // A reference may stand with its column.
                let named = |name: &str| text.contains(&format!("constraint {name} "));
                let reference = matches!(constraint.kind, ConstraintKind::Foreign(_));
                text.contains(&normal(&constraint.sql, dialect))
                    || (reference && (named(&constraint.name) || named(&ident(&constraint.name))))
            }),
        });
        lacking.extend(constraints.map(|constraint| format!("`{name}` lacks the constraint `{}`", constraint.name)));
        let indexes = table.indexes.iter().filter(|index| !has(&index.name));
        lacking.extend(indexes.map(|index| format!("`{name}` lacks the index `{}`", index.name)));
    }
    let triggers = needed.triggers.iter();
    let triggers = triggers.filter(|trigger| !there.parts.contains(&(trigger.table.clone(), trigger.name.clone())));
    lacking.extend(triggers.map(|trigger| format!("`{}` lacks the trigger `{}`", trigger.table, trigger.name)));
    lacking
}
