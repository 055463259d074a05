//! What happened, as text: `expected.snap`.

use std::fmt::Write as _;

use crate::json::Node;

/// The headers that matter, in the order shown.
pub const SHOWN: [&str; 14] = [
    "Content-Type",
    "ETag",
    "Location",
    "Warning",
    "Allow",
    "Link",
    "WWW-Authenticate",
    "Cache-Control",
    "Preference-Applied",
    "Retry-After",
    "Accept-Patch",
    "Accept",
    "Last-Modified",
    "Idempotent-Replayed",
];

/// A whole run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transcript {
    /// Sections in order.
    pub sections: Vec<Section>,
}

/// One step, or one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// `create: POST /api/accounts`, `table accounts`.
    pub title: String,
    /// Everything below the title.
    pub content: Content,
}

/// The content of a [`Section`].
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An answer.
    Answer(Shown),
    /// Lines: rows of a table, outcome of a raw statement.
    Lines(Vec<String>),
}

/// An answer as shown.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The status.
    pub status: u16,
    /// Names as in [`SHOWN`].
    pub headers: Vec<(String, String)>,
    /// Text of the body, laid out, cursors masked; empty for none.
    pub body: String,
    /// Text of the body as it came; not part of a transcript.
    pub raw: String,
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.headers, &self.body) == (other.status, &other.headers, &other.body)
    }
}

impl Transcript {
    /// As text; `about` stands on top.
    pub fn render(&self, about: &str) -> String {
        let mut out = format!("# {about}\n");
        for section in &self.sections {
            let _ = write!(out, "\n### {}\n{}", section.title, section.content.render());
        }
        out
    }

    /// The inverse of [`Transcript::render`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sections = Vec::new();
        for block in text.split("\n### ").skip(1) {
            let (title, rest) = block.split_once('\n').unwrap_or((block, ""));
            let content = match rest.split_once('\n').unwrap_or((rest, "")) {
                (status, _) if status.len() == 3 && status.parse::<u16>().is_ok() => {
                    Content::Answer(Shown::parse(rest.trim_end_matches('\n'))?)
                }
                _ => Content::Lines(rest.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()),
            };
            sections.push(Section { title: title.to_owned(), content });
        }
        Ok(Self { sections })
    }

    /// What an in-process run can be held to: status, strong entity tag, `Location`, and the body without the members
    /// of a problem that HTTP adds. Sections that `keep` refuses are left out.
    #[must_use]
    pub fn in_process(self, keep: impl Fn(&str) -> bool) -> Self {
        let sections = self.sections.into_iter().filter(|section| keep(&section.title)).map(|mut section| {
            if let Content::Answer(shown) = section.content {
                section.content = Content::Answer(shown.in_process());
            }
            section
        });
        Self { sections: sections.collect() }
    }
}

impl Content {
    fn render(&self) -> String {
        match self {
            Self::Lines(lines) => lines.iter().fold(String::new(), |out, line| out + line + "\n"),
            Self::Answer(shown) => {
                let mut out = format!("{}\n", shown.status);
                for (name, value) in &shown.headers {
                    let _ = writeln!(out, "{name}: {value}");
                }
                if !shown.body.is_empty() {
                    let _ = writeln!(out, "\n{}", shown.body);
                }
                out
            }
        }
    }
}

impl Shown {
    fn parse(text: &str) -> Result<Self, String> {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.parse().ok()).ok_or("a section without a status")?;
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").ok_or_else(|| format!("`{line}` is not a header"))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok(Self { status, headers: headers.collect::<Result<_, String>>()?, body: body.to_owned(), raw: String::new() })
    }

    fn in_process(mut self) -> Self {
        self.headers.retain(|(name, value)| name == "Location" || name == "ETag" && value.starts_with('"'));
        if let Some(node) = Node::parse(&self.body) {
            self.body = without_http(node).pretty();
        }
        self
    }

    /// Lays an answer out. `show` names further headers, in lower case.
    pub fn new(status: u16, headers: &[(String, String)], body: &[u8], show: &[String]) -> Self {
        let named = |name: &str| {
            let found = headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name));
            found.map(|(_, value)| (name.to_owned(), mask_cursor(value))).collect::<Vec<_>>()
        };
        let usual = SHOWN.iter().flat_map(|name| named(name));
        let headers: Vec<_> = usual.chain(show.iter().flat_map(|name| named(name))).collect();
        let cbor = headers.iter().any(|(name, value)| name == "Content-Type" && value.starts_with("application/cbor"));
        let body = if cbor {
            match crate::json::from_cbor(body) {
                Ok(text) => text,
                Err(error) => format!("not CBOR: {error}").into_bytes(),
            }
        } else {
            body.to_vec()
        };
        Self { status, headers, body: lay_out(&body), raw: String::from_utf8_lossy(&body).into_owned() }
    }
}

/// Without what HTTP adds: type, title and request id of problems, weak entity tags of batch items.
fn without_http(node: Node) -> Node {
    match node {
        Node::Leaf(_) => node,
        Node::Array(items) => Node::Array(items.into_iter().map(without_http).collect()),
        Node::Object(members) => {
            let problem = members.iter().any(|(name, _)| name == "\"code\"")
                && members.iter().any(|(name, _)| name == "\"requestId\"");
            let kept = |(name, node): &(String, Node)| match name.as_str() {
                "\"type\"" | "\"title\"" | "\"requestId\"" => !problem,
                "\"etag\"" => !node.text().is_some_and(|text| text.starts_with("W/")),
                _ => true,
            };
            Node::Object(members.into_iter().filter(kept).map(|(name, node)| (name, without_http(node))).collect())
        }
    }
}

/// JSON is laid out, other text stands behind bars.
fn lay_out(body: &[u8]) -> String {
    if body.is_empty() {
        return String::new();
    }
    if let Some(mut node) = std::str::from_utf8(body).ok().and_then(Node::parse) {
        node.mask_cursors();
        node.mask_events();
        return node.pretty();
    }
    let text = String::from_utf8_lossy(body);
    text.lines().map(|line| format!("| {line}")).collect::<Vec<_>>().join("\n")
}

/// `cursor=..` in a `Link`.
fn mask_cursor(value: &str) -> String {
    match value.split_once("cursor=") {
        Some((before, after)) => {
            let end = after.find(['&', '>']).unwrap_or(after.len());
            format!("{before}cursor=<cursor>{}", after.get(end..).unwrap_or_default())
        }
        None => value.to_owned(),
    }
}

/// A line diff, `-` expected and `+` found; `None` when equal.
pub fn diff(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let diff = similar::TextDiff::from_lines(expected, found);
    Some(diff.unified_diff().context_radius(4).header("expected", "found").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Transcript {
        let headers = [
            ("content-type".to_owned(), "application/json".to_owned()),
            ("etag".to_owned(), "\"1\"".to_owned()),
            ("date".to_owned(), "now".to_owned()),
            ("link".to_owned(), "</api/a?cursor=abc&limit=1>; rel=\"next\"".to_owned()),
        ];
        let answer = Shown::new(200, &headers, br#"{"items":[],"next":"abc"}"#, &[]);
        let problem = [("content-type".to_owned(), "application/problem+json".to_owned())];
        let refused =
            Shown::new(404, &problem, br#"{"type":"t","status":404,"code":"not_found","requestId":"r"}"#, &[]);
        Transcript {
            sections: vec![
                Section { title: "list: GET /api/a".to_owned(), content: Content::Answer(answer) },
                Section { title: "none: GET /api/a/1".to_owned(), content: Content::Answer(refused) },
                Section { title: "table a".to_owned(), content: Content::Lines(vec!["{\"id\": 1}".to_owned()]) },
            ],
        }
    }

    #[test]
    fn rendering_is_stable_and_reversible() {
        let text = sample().render("About.");
        insta::assert_snapshot!(text, @r#"
        # About.

        ### list: GET /api/a
        200
        Content-Type: application/json
        ETag: "1"
        Link: </api/a?cursor=<cursor>&limit=1>; rel="next"

        {"items": [], "next": "<cursor>"}

        ### none: GET /api/a/1
        404
        Content-Type: application/problem+json

        {"type": "t", "status": 404, "code": "not_found", "requestId": "r"}

        ### table a
        {"id": 1}
        "#);
        assert_eq!(Transcript::parse(&text).unwrap(), sample());
    }

    #[test]
    fn in_process_runs_are_not_held_to_http() {
        let text = sample().in_process(|title| title != "table a").render("About.");
        insta::assert_snapshot!(text, @r#"
        # About.

        ### list: GET /api/a
        200
        ETag: "1"

        {"items": [], "next": "<cursor>"}

        ### none: GET /api/a/1
        404

        {"status": 404, "code": "not_found"}
        "#);
    }

    #[test]
    fn a_diff_shows_both_sides() {
        assert_eq!(diff("a\n", "a\n"), None);
        assert!(diff("a\nb\n", "a\nc\n").unwrap().contains("-b\n+c"));
    }
}
