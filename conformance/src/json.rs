//! JSON as answered: members in the order sent and numbers as written, laid out for reading and comparing.

use std::fmt::Write as _;

/// Columns that a value may fill before it is broken over lines.
const WIDTH: usize = 110;

/// A parsed JSON text that forgets only white space.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A string, number, boolean or null, as written.
    Leaf(String),
    /// An array.
    Array(Vec<Node>),
    /// An object; names as written, with their quotes.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parses one JSON value; `None` when the text is not exactly that.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text };
        let node = parser.value(0)?;
        parser.space();
        parser.rest.is_empty().then_some(node)
    }

    /// The member with that name.
    pub fn member(&self, name: &str) -> Option<&Node> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(quoted, _)| unquote(quoted) == name).map(|(_, node)| node)
    }

    /// The text of a string, or the source text of another leaf.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Leaf(raw) => Some(unquote(raw)),
            _ => None,
        }
    }

    /// Follows `$.items[0].id`.
    pub fn path(&self, path: &str) -> Option<&Node> {
        let mut node = self;
        for step in path.strip_prefix('$')?.replace('[', ".[").split('.').filter(|step| !step.is_empty()) {
            node = match (node, step.strip_prefix('[')) {
                (Self::Array(items), Some(index)) => items.get(index.strip_suffix(']')?.parse::<usize>().ok()?)?,
                (object, None) => object.member(step)?,
                _ => return None,
            };
        }
        Some(node)
    }

    /// Replaces every `"next": "..."`: cursors are opaque and differ from run to run.
    pub fn mask_cursors(&mut self) {
        match self {
            Self::Leaf(_) => {}
            Self::Array(items) => items.iter_mut().for_each(Self::mask_cursors),
            Self::Object(members) => {
                for (name, node) in members {
                    match node {
                        Self::Leaf(raw) if name == "\"next\"" && raw.starts_with('"') => {
                            "\"<cursor>\"".clone_into(raw);
                        }
                        node => node.mask_cursors(),
                    }
                }
            }
        }
    }

    /// Replaces what differs from run to run in every event of the audit trail: the database's clock, its user, the id of
    /// the event, the address of the caller.
    pub fn mask_events(&mut self) {
        let event = self.member("typ").and_then(Self::text).as_deref() == Some("audit.event");
        let outside = self.member("out_of_band").and_then(Self::text).as_deref() == Some("true");
        match self {
            Self::Object(members) if event => {
                for (name, node) in members {
                    match (unquote(name).as_str(), node) {
                        ("at" | "db_user" | "event_id" | "schema_version", node) => *node = masked(),
                        ("actor", Self::Object(actor)) => {
                            let varies = |name: &str| name == "client_ip" || (outside && name == "subject");
                            let varying = actor.iter_mut().filter(|(name, _)| varies(&unquote(name)));
                            varying.for_each(|(_, node)| *node = masked());
                        }
                        _ => {}
                    }
                }
            }
            Self::Object(members) => members.iter_mut().for_each(|(_, node)| node.mask_events()),
            Self::Array(items) => items.iter_mut().for_each(Self::mask_events),
            Self::Leaf(_) => {}
        }
    }

    /// On one line.
    pub fn compact(&self) -> String {
        match self {
            Self::Leaf(raw) => raw.clone(),
            Self::Array(items) => format!("[{}]", joined(items.iter().map(Self::compact))),
            Self::Object(members) => {
                format!("{{{}}}", joined(members.iter().map(|(name, node)| format!("{name}: {}", node.compact()))))
            }
        }
    }

    /// Over several lines where one is too long.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.lay_out(&mut out, 0, 0);
        out
    }

    fn lay_out(&self, out: &mut String, indent: usize, used: usize) {
        let line = self.compact();
        if used + line.chars().count() <= WIDTH || matches!(self, Self::Leaf(_)) {
            out.push_str(&line);
            return;
        }
        let inner = indent + 2;
        let (open, close) = if matches!(self, Self::Array(_)) { ('[', ']') } else { ('{', '}') };
        out.push(open);
        let mut item = |name: &str, node: &Node, last: bool| {
            let _ = write!(out, "\n{:inner$}{name}", "");
            node.lay_out(out, inner, inner + name.chars().count() + 1);
            if !last {
                out.push(',');
            }
        };
        match self {
            Self::Leaf(_) => {}
            Self::Array(items) => {
                items.iter().enumerate().for_each(|(at, node)| item("", node, at + 1 == items.len()));
            }
            Self::Object(members) => members
                .iter()
                .enumerate()
                .for_each(|(at, (name, node))| item(&format!("{name}: "), node, at + 1 == members.len())),
        }
        let _ = write!(out, "\n{:indent$}{close}", "");
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// The content of a JSON string; other text is given back as it is.
pub fn unquote(raw: &str) -> String {
    serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned())
}

/// A JSON string with that content.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// JSON text to CBOR.
pub fn to_cbor(body: &[u8]) -> Result<Vec<u8>, String> {
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    let mut out = Vec::new();
    ciborium::into_writer(&value, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

/// CBOR to JSON text, members in their order.
pub fn from_cbor(body: &[u8]) -> Result<Vec<u8>, String> {
    let value: ciborium::Value = ciborium::from_reader(body).map_err(|error| error.to_string())?;
    Ok(cbor_node(&value).compact().into_bytes())
}

fn cbor_node(value: &ciborium::Value) -> Node {
    use ciborium::Value;
    match value {
        Value::Array(items) => Node::Array(items.iter().map(cbor_node).collect()),
        Value::Map(members) => {
            let name = |name: &Value| name.as_text().map_or_else(|| format!("{name:?}"), quote);
            Node::Object(members.iter().map(|(key, value)| (name(key), cbor_node(value))).collect())
        }
        Value::Text(text) => Node::Leaf(quote(text)),
        Value::Integer(number) => Node::Leaf(i128::from(*number).to_string()),
        Value::Float(number) => Node::Leaf(serde_json::Value::from(*number).to_string()),
        Value::Bool(value) => Node::Leaf(value.to_string()),
        Value::Null => Node::Leaf("null".to_owned()),
        // No JSON: shown for what it is.
        other => Node::Leaf(quote(&format!("{other:?}"))),
    }
}

fn masked() -> Node {
    Node::Leaf("\"<..>\"".to_owned())
}

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn eat(&mut self, c: char) -> bool {
        self.space();
        self.rest.strip_prefix(c).map(|rest| self.rest = rest).is_some()
    }

    fn take(&mut self, length: usize) -> Option<&'t str> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > 200 {
            return None;
        }
        if self.eat('[') {
            let mut items = Vec::new();
            while !self.eat(']') {
                if !items.is_empty() && !self.eat(',') {
                    return None;
                }
                items.push(self.value(depth + 1)?);
            }
            return Some(Node::Array(items));
        }
        if self.eat('{') {
            let mut members = Vec::new();
            while !self.eat('}') {
                if !members.is_empty() && !self.eat(',') {
                    return None;
                }
                self.space();
                let name = self.string()?.to_owned();
                if !self.eat(':') {
                    return None;
                }
                members.push((name, self.value(depth + 1)?));
            }
            return Some(Node::Object(members));
        }
        self.leaf()
    }

    fn leaf(&mut self) -> Option<Node> {
        self.space();
        if self.rest.starts_with('"') {
            return self.string().map(|raw| Node::Leaf(raw.to_owned()));
        }
        let end = self.rest.find([',', ']', '}', ' ', '\t', '\r', '\n', ':', '[', '{', '"']).unwrap_or(self.rest.len());
        let raw = self.take(end)?;
        serde_json::from_str::<serde_json::Value>(raw).ok()?;
        Some(Node::Leaf(raw.to_owned()))
    }

    fn string(&mut self) -> Option<&'t str> {
        let mut escaped = false;
        let inner = self.rest.strip_prefix('"')?;
        let end = inner.find(|c| {
            let close = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            close
        })?;
        self.take(end + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn order_and_number_text_are_kept() {
        let node = Node::parse(r#" {"b":1.50,"a":[ ],"c":{"x":"é\"]"}} "#).unwrap();
        assert_eq!(node.compact(), r#"{"b": 1.50, "a": [], "c": {"x": "é\"]"}}"#);
        assert_eq!(node.path("$.c.x").unwrap().text().unwrap(), "é\"]");
    }

    #[test]
    fn paths_reach_into_arrays() {
        let node = Node::parse(r#"{"items":[{"id":"a"},{"id":"b"}],"next":"xyz"}"#).unwrap();
        assert_eq!(node.path("$.items[1].id").unwrap().text().unwrap(), "b");
        assert_eq!(node.path("$.items[2].id"), None);
    }

    #[test]
    fn long_values_are_broken_and_cursors_masked() {
        let long = "x".repeat(95);
        let mut node = Node::parse(&format!(r#"{{"items":[{{"id":"{long}"}},1],"next":"abc"}}"#)).unwrap();
        node.mask_cursors();
        let expected =
            format!("{{\n  \"items\": [\n    {{\"id\": \"{long}\"}},\n    1\n  ],\n  \"next\": \"<cursor>\"\n}}");
        assert_eq!(node.pretty(), expected);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "[1,]x", "{\"a\" 1}", "nul", "\"a", "1 2"] {
            assert_eq!(Node::parse(text), None, "{text}");
        }
    }
}
