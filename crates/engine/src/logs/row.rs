//! The texts of rows, as SQL puts them together: what an entry of a log says of a row, and of its key.

use cratestack_schema::ir::{Field, FieldId, Model, ModelId, Schema};

use crate::sql::{Dialect, SqlType, column, ident};
use crate::storage::{Codec, TextForm, literal, push_json_string};

/// A part of a text that SQL puts together.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// As it is.
    Text(String),
    /// An expression that is text, and never null.
    Sql(String),
}

impl Piece {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn sql(sql: impl Into<String>) -> Self {
        Self::Sql(sql.into())
    }

    pub(crate) fn json(text: &str) -> Self {
        let mut out = String::new();
        push_json_string(&mut out, text);
        Self::Text(out)
    }
}

/// The expression that puts the pieces together.
pub(crate) fn render(dialect: Dialect, pieces: &[Piece]) -> String {
    /// PostgreSQL's functions take at most 100 arguments.
    const ARGUMENTS: usize = 90;
    let mut parts: Vec<String> = Vec::new();
    let mut pending = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => pending.push_str(text),
            Piece::Sql(sql) => {
                if !pending.is_empty() {
                    parts.push(literal(&std::mem::take(&mut pending)));
                }
                parts.push(if dialect == Dialect::Sqlite { format!("({sql})") } else { sql.clone() });
            }
        }
    }
    if !pending.is_empty() || parts.is_empty() {
        parts.push(literal(&pending));
    }
    while parts.len() > 1 {
        parts = match dialect {
            Dialect::Postgres => parts.chunks(ARGUMENTS).map(|few| format!("concat({})", few.join(", "))).collect(),
            // In pairs: SQLite limits the depth of expressions.
            Dialect::Sqlite => parts
                .chunks(2)
                .map(|pair| if pair.len() == 2 { format!("({})", pair.join(" || ")) } else { pair.concat() })
                .collect(),
        };
    }
    parts.concat()
}

/// The JSON of a value in its form, `null` where `optional`, its column, is null. Quotes are text of their own, since what is put
/// together in one go costs the database less.
pub(crate) fn json(dialect: Dialect, form: TextForm, optional: Option<&str>) -> Vec<Piece> {
    match (optional, form) {
        (Some(column), form) => {
            vec![Piece::Sql(format!("CASE WHEN {column} IS NULL THEN 'null' ELSE {} END", form.json(dialect)))]
        }
        (None, TextForm::Plain(sql)) => vec![Piece::text("\""), Piece::Sql(sql), Piece::text("\"")],
        (None, form) => vec![Piece::Sql(form.json(dialect))],
    }
}

/// What stands for a row that does not fit, given SQL for its text: an object in an object, which is no row's value.
pub(crate) fn digest(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::Postgres => format!(
            "concat('{{\"omitted\":{{\"length\":', octet_length({text}), ',\"sha256\":\"', \
             encode(sha256(convert_to({text}, 'UTF8')), 'hex'), '\"}}}}')"
        ),
        Dialect::Sqlite => format!("'{{\"omitted\":{{\"length\":' || {} || '}}}}'", octets(dialect, text)),
    }
}

/// How many octets a text has in UTF-8.
pub(crate) fn octets(dialect: Dialect, text: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("octet_length({text})"),
        Dialect::Sqlite => format!("length(CAST({text} AS BLOB))"),
    }
}

/// What the triggers of a model write of a row: SQL for the text of its key, and of the row as JSON.
pub(crate) fn texts(schema: &Schema, id: ModelId, dialect: Dialect, row: &str) -> (String, String) {
    let writer = Writer { schema, id, model: schema.model(id), dialect };
    (writer.key(row), render(dialect, &writer.object(row)))
}

/// Writes SQL about the rows of one model: their keys, their fields, what differs.
pub(crate) struct Writer<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) id: ModelId,
    pub(crate) model: &'a Model,
    pub(crate) dialect: Dialect,
}

impl Writer<'_> {
    /// The fields in the order of their names, as entries have them.
    fn fields(&self) -> Vec<&Field> {
        let mut fields: Vec<&Field> = self.model.fields.iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    }

    fn form(&self, field: &Field, row: &str) -> TextForm {
        let codec = Codec { schema: self.schema, dialect: self.dialect, ty: SqlType::of(field) };
        codec.text_form(&column(row, &field.column))
    }

    /// The row as the entry shows it.
    pub(crate) fn object(&self, row: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for field in self.fields().into_iter().filter(|field| !field.server_only) {
            let separator = if pieces.is_empty() { '{' } else { ',' };
            pieces.push(Piece::Text(format!("{separator}\"{}\":", field.name)));
            pieces.extend(self.shown(field, row));
        }
        pieces.push(Piece::text(if pieces.is_empty() { "{}" } else { "}" }));
        pieces
    }

    fn shown(&self, field: &Field, row: &str) -> Vec<Piece> {
        let name = column(row, &field.column);
        // Objects, so that they cannot be mistaken for values.
        let redacted = match field {
            _ if field.pii => "{\"redacted\":\"pii\"}",
            _ if field.sensitive => "{\"redacted\":\"sensitive\"}",
            _ => return json(self.dialect, self.form(field, row), field.optional.then_some(&name)),
        };
        vec![if field.optional {
            Piece::Sql(format!("CASE WHEN {name} IS NULL THEN 'null' ELSE '{redacted}' END"))
        } else {
            Piece::text(redacted)
        }]
    }

    /// The names of the fields that differ, each with quotes and a comma before it. A row that is not there has nulls.
    pub(crate) fn changed(&self, differs: impl Fn(&str) -> String) -> Vec<Piece> {
        let name = |field: &Field| {
            // PostgreSQL takes 1.0 and 1.00 in a document for the same; who reads it does not.
            let document = self.dialect == Dialect::Postgres && SqlType::of(field).is_document();
            let differs = differs(&format!("{}{}", ident(&field.column), if document { "::text" } else { "" }));
            Piece::Sql(format!("CASE WHEN {differs} THEN ',\"{}\"' ELSE '' END", field.name))
        };
        self.fields().into_iter().map(name).collect()
    }

    /// The key as text; of several fields a JSON array.
    pub(crate) fn key(&self, row: &str) -> String {
        if let [id] = self.model.key.as_slice() {
            let text = self.form(self.model.field(*id), row).text();
            return if self.dialect == Dialect::Sqlite { format!("CAST({text} AS TEXT)") } else { text };
        }
        let mut pieces = Vec::new();
        for id in &self.model.key {
            pieces.push(Piece::text(if pieces.is_empty() { "[" } else { "," }));
            pieces.extend(json(self.dialect, self.form(self.model.field(*id), row), None));
        }
        pieces.push(Piece::text("]"));
        render(self.dialect, &pieces)
    }

    pub(crate) fn tombstone(&self) -> Option<String> {
        self.model.soft_delete.map(|id| ident(&self.model.field(id).column))
    }

    pub(crate) fn key_columns(&self) -> impl Iterator<Item = String> {
        self.model.key.iter().map(|id| ident(&self.model.field(*id).column))
    }

    /// The fields on which the rows that are in the way of a row depend.
    pub(crate) fn uniques(&self) -> impl Iterator<Item = FieldId> {
        let indexed = self.model.uniques.iter().flat_map(|index| index.fields.iter().copied());
        let any = !self.model.uniques.is_empty();
        indexed.chain(self.model.soft_delete.filter(move |_| any))
    }
}
