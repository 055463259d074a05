//! `steps.http`: the requests of a case, in the format that editors run (README.md describes the dialect).

use std::collections::BTreeMap;

use base64::Engine as _;

use crate::json::{self, Node};

/// A parsed `steps.http`.
#[derive(Debug, Default)]
pub struct Script {
    /// The contract sentence that the case proves.
    pub about: String,
    /// `@token NAME = {..}`: claims, as JSON text.
    pub tokens: BTreeMap<String, String>,
    /// `@table NAME`: dumped at the end, in this order.
    pub tables: Vec<String>,
    /// `@indexes TABLE`: names and uniqueness of a table's indexes, at the end.
    pub indexes: Vec<String>,
    /// `@trail all`: the audit trail stands at the end.
    pub trail: bool,
    /// `@outbox all`: the events of the outbox stand at the end.
    pub outbox: bool,
    /// `@show Header`: shown besides the usual headers.
    pub show: Vec<String>,
    /// Why no step of the case can be run in process.
    pub http_only: Option<String>,
    /// `@backend NAME reason`: the case runs on this database alone.
    pub backend: Option<(String, String)>,
    /// The requests.
    pub steps: Vec<Step>,
}

/// One request.
#[derive(Debug, Default, Clone)]
pub struct Step {
    /// `# @name`, else `step N`.
    pub name: String,
    /// Line of the request in the file, from 1.
    pub line: usize,
    /// What happens before the request is sent.
    pub before: Vec<Before>,
    /// Why this step cannot be run in process.
    pub http_only: Option<String>,
    /// Send the body as CBOR.
    pub cbor: bool,
    /// The method.
    pub method: String,
    /// The target, with variables.
    pub target: String,
    /// Headers, with variables.
    pub headers: Vec<(String, String)>,
    /// The body, with variables.
    pub body: Option<String>,
}

/// A preparation of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Before {
    /// `@sql`: a statement past the engine.
    Sql(String),
    /// `@advance`: seconds that the clock jumps ahead.
    Advance(u64),
}

/// What earlier steps answered, by name.
pub type Answers = BTreeMap<String, Answered>;

/// The parts of an answer that later steps may quote.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// Header names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, where it is JSON.
    pub body: Option<Node>,
}

impl Script {
    /// Parses the text; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        let mut step = Step::default();
        let mut part = Part::Head;
        let mut body: Vec<&str> = Vec::new();
        let mut preamble = true;
        for (index, line) in text.lines().enumerate() {
            let fail = |message: &str| format!("line {}: {message}", index + 1);
            if line.starts_with("###") {
                script.finish(&mut step, &mut body, preamble).map_err(|message| fail(&message))?;
                preamble = false;
                part = Part::Head;
                continue;
            }
            match part {
                Part::Head if line.trim().is_empty() => {}
                Part::Head if line.starts_with('#') => {
                    let comment = line.trim_start_matches('#').trim();
                    match comment.strip_prefix('@') {
                        Some(directive) => {
                            script.directive(&mut step, directive, preamble).map_err(|message| fail(&message))?;
                        }
                        None if preamble && script.steps.is_empty() => {
                            script.about.push_str(comment);
                            script.about.push(' ');
                        }
                        None => {}
                    }
                }
                Part::Head => {
                    let (method, target) = line.split_once(' ').ok_or_else(|| fail("not a request line"))?;
                    method.clone_into(&mut step.method);
                    target.trim().clone_into(&mut step.target);
                    step.line = index + 1;
                    preamble = false;
                    part = Part::Headers;
                }
                Part::Headers if line.trim().is_empty() => part = Part::Body,
                Part::Headers if line.starts_with('#') => {}
                Part::Headers => {
                    let (name, value) = line.split_once(':').ok_or_else(|| fail("not a header"))?;
                    step.headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                Part::Body => body.push(line),
            }
        }
        script.finish(&mut step, &mut body, preamble)?;
        script.about.truncate(script.about.trim_end().len());
        if script.about.is_empty() {
            return Err("line 1: the contract sentence is missing: the file begins with `# ..`".to_owned());
        }
        Ok(script)
    }

    fn finish(&mut self, step: &mut Step, body: &mut Vec<&str>, preamble: bool) -> Result<(), String> {
        let mut step = std::mem::take(step);
        let text = std::mem::take(body).join("\n");
        let text = text.trim_end_matches('\n');
        if step.method.is_empty() {
            return if preamble || step.name.is_empty() && step.before.is_empty() {
                Ok(())
            } else {
                Err("a request is missing".to_owned())
            };
        }
        if step.name.is_empty() {
            step.name = format!("step {}", self.steps.len() + 1);
        }
        if self.steps.iter().any(|other| other.name == step.name) {
            return Err(format!("the name `{}` is taken", step.name));
        }
        if !text.is_empty() {
            step.body = Some(text.to_owned());
        }
        self.steps.push(step);
        Ok(())
    }

    fn directive(&mut self, step: &mut Step, text: &str, preamble: bool) -> Result<(), String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim();
        if rest.is_empty() && word != "cbor" {
            return Err(format!("`@{word}` needs a value"));
        }
        match (word, preamble) {
            ("token", true) => {
                let (name, claims) = rest.split_once('=').ok_or("`@token` is written `@token name = {..}`")?;
                let claims = claims.trim();
                Node::parse(claims).ok_or("the claims are not JSON")?;
                self.tokens.insert(name.trim().to_owned(), claims.to_owned());
            }
            ("table", true) => self.tables.push(rest.to_owned()),
            ("indexes", true) => self.indexes.push(rest.to_owned()),
            ("trail", true) if rest == "all" => self.trail = true,
            ("outbox", true) if rest == "all" => self.outbox = true,
            ("show", true) => self.show.push(rest.to_ascii_lowercase()),
            ("http-only", true) => self.http_only = Some(rest.to_owned()),
            ("backend", true) => {
                let (name, reason) = rest.split_once(' ').ok_or("`@backend` needs a name and a reason")?;
                if !["sqlite", "postgresql"].contains(&name) {
                    return Err(format!("there is no backend `{name}`"));
                }
                self.backend = Some((name.to_owned(), reason.to_owned()));
            }
            ("name", false) => rest.clone_into(&mut step.name),
            ("http-only", false) => step.http_only = Some(rest.to_owned()),
            ("sql", false) => step.before.push(Before::Sql(rest.to_owned())),
            ("advance", false) => {
                let seconds = rest.strip_suffix('s').and_then(|digits| digits.parse().ok());
                step.before.push(Before::Advance(seconds.ok_or("`@advance` is written `@advance 90s`")?));
            }
            ("cbor", false) => step.cbor = true,
            (_, true) => return Err(format!("`@{word}` is unknown before the first `###`")),
            (_, false) => return Err(format!("`@{word}` is unknown in a request")),
        }
        Ok(())
    }

    /// Replaces the variables of a text. The result may be no UTF-8 (`{{$bytes ..}}`).
    pub fn expand(&self, text: &str, answers: &Answers) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inner, tail) = after.split_once("}}").ok_or("`{{` without `}}`")?;
            out.extend_from_slice(before.as_bytes());
            out.extend(self.variable(inner, answers)?);
            rest = tail;
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(out)
    }

    fn variable(&self, inner: &str, answers: &Answers) -> Result<Vec<u8>, String> {
        if inner.trim() == "host" {
            return Ok(crate::MOUNT.into());
        }
        if let Some(claims) = self.tokens.get(inner.trim()) {
            let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            return Ok(format!("dev.{token}").into_bytes());
        }
        if let Some(rest) = inner.strip_prefix("$repeat ") {
            let (count, unit) = rest.split_once(' ').ok_or("`$repeat` is written `{{$repeat 10 text}}`")?;
            return Ok(unit.repeat(count.parse().map_err(|_| "`$repeat` needs a number")?).into_bytes());
        }
        if let Some(rest) = inner.strip_prefix("$bytes ") {
            let parsed: Result<Vec<u8>, _> = rest.split_whitespace().map(|hex| u8::from_str_radix(hex, 16)).collect();
            return parsed.map_err(|_| "`$bytes` needs hexadecimal bytes".to_owned());
        }
        let missing = |what: &str| format!("`{{{{{inner}}}}}`: {what}");
        let (step, path) = inner.trim().split_once(".response.").ok_or_else(|| missing("there is no such variable"))?;
        let answer = answers.get(step).ok_or_else(|| missing("no earlier step has that name"))?;
        if let Some(name) = path.strip_prefix("headers.") {
            let header = answer.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            return header.map(|(_, value)| value.clone().into_bytes()).ok_or_else(|| missing("no such header"));
        }
        let path = path.strip_prefix("body.").ok_or_else(|| missing("neither `headers.` nor `body.`"))?;
        let node = answer.body.as_ref().and_then(|body| body.path(path)).ok_or_else(|| missing("no such member"))?;
        Ok(node.text().unwrap_or_else(|| node.compact()).into_bytes())
    }
}

enum Part {
    Head,
    Headers,
    Body,
}

/// A request with its variables replaced.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Vec<u8>>,
}

impl Step {
    /// Replaces the variables.
    pub fn request(&self, script: &Script, answers: &Answers) -> Result<Request, String> {
        let text = |text: &str| -> Result<String, String> {
            String::from_utf8(script.expand(text, answers)?).map_err(|_| "only a body may hold raw bytes".to_owned())
        };
        let headers = self.headers.iter().map(|(name, value)| Ok((name.clone(), text(value)?)));
        let body = self.body.as_deref().map(|body| script.expand(body, answers)).transpose()?;
        Ok(Request {
            method: self.method.clone(),
            target: text(&self.target)?,
            headers: headers.collect::<Result<_, String>>()?,
            body: if self.cbor { body.map(|body| json::to_cbor(&body)).transpose()? } else { body },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"# A create answers 201.
# @token teller = {"id": "ann"}
# @table accounts

###
# @name create
# @advance 5s
POST {{host}}/accounts
Authorization: Bearer {{teller}}
Content-Type: application/json

{"owner": "Ann"}

###
# @http-only a header of HTTP
GET {{host}}/accounts/{{create.response.body.$.id}}
If-None-Match: {{create.response.headers.ETag}}
"#;

    fn answers() -> Answers {
        let body = Node::parse(r#"{"id":"x1"}"#);
        let headers = vec![("etag".to_owned(), "\"1\"".to_owned())];
        Answers::from([("create".to_owned(), Answered { headers, body })])
    }

    #[test]
    fn a_script_is_read() {
        let script = Script::parse(SCRIPT).unwrap();
        assert_eq!(script.about, "A create answers 201.");
        assert_eq!(script.tables, ["accounts"]);
        let names: Vec<_> = script.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["create", "step 2"]);
        assert_eq!(script.steps[0].body.as_deref(), Some("{\"owner\": \"Ann\"}"));
        assert_eq!(script.steps[0].before, [Before::Advance(5)]);
        assert_eq!(script.steps[1].http_only.as_deref(), Some("a header of HTTP"));
    }

    #[test]
    fn variables_come_from_tokens_and_answers() {
        let script = Script::parse(SCRIPT).unwrap();
        let request = script.steps[1].request(&script, &answers()).unwrap();
        assert_eq!(request.target, "/api/accounts/x1");
        assert_eq!(request.headers, [("If-None-Match".to_owned(), "\"1\"".to_owned())]);
        let first = script.steps[0].request(&script, &answers()).unwrap();
        assert_eq!(first.headers[0].1, "Bearer dev.eyJpZCI6ICJhbm4ifQ");
    }

    #[test]
    fn generated_text() {
        let script = Script::parse(SCRIPT).unwrap();
        assert_eq!(script.expand("a{{$repeat 3 {[}}b{{$bytes ff 00}}", &answers()).unwrap(), b"a{[{[{[b\xff\x00");
        assert!(script.expand("{{nobody}}", &answers()).unwrap_err().contains("no such variable"));
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(
            Script::parse("# x\n# @tokens a = {}\n").unwrap_err(),
            "line 2: `@tokens` is unknown before the first `###`"
        );
        assert_eq!(Script::parse("# x\n###\nGET\n").unwrap_err(), "line 3: not a request line");
        assert!(Script::parse("###\nGET /x\n").unwrap_err().contains("contract sentence"));
    }
}
