//! Answers of the engine as HTTP: status, entity tag, `Location`, body.

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use bytes::Bytes;
use cratestack_engine::api::{Answer, Code, Failure, Row};
use cratestack_engine::idempotency::{DIGEST_MARK, Outline, Sketch, Stencil, VERSION_MARK};
use cratestack_engine::plan::write::Kind;
use cratestack_schema::ir::{ModelId, Schema};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::cbor;
use crate::headers::{Condition, EntityTag, PREFERENCE_APPLIED};
use crate::media::Format;
use crate::problem::{Problem, ProblemCode};
use crate::url;

/// An answer that is whole.
pub(crate) type Response = http::Response<Bytes>;

/// The same for axum.
pub(crate) fn sent(response: Response) -> axum::response::Response {
    response.map(Body::from)
}

/// What shapes the answer to one request, besides what the engine found.
#[derive(Debug)]
pub(crate) struct Shape<'a> {
    /// The URL segment of the model that the request is about.
    pub(crate) segment: &'a str,
    /// The negotiated format.
    pub(crate) format: Format,
    /// The path before the API's own, as callers see it.
    pub(crate) base: &'a str,
    /// The path of the request, as callers see it, and its query.
    pub(crate) target: (&'a str, Option<&'a str>),
    /// `Prefer: return=minimal` on a request that it applies to.
    pub(crate) minimal: bool,
    /// Whether the answer holds personal data.
    pub(crate) personal: bool,
    /// Whether this is a `GET` or `HEAD`.
    pub(crate) safe: bool,
    /// `If-Match` and `If-None-Match` of a safe request.
    pub(crate) conditions: (Option<Condition>, Option<Condition>),
    /// For the problems of batch items.
    pub(crate) problem_base: &'a str,
    /// For the problems of batch items.
    pub(crate) request_id: &'a str,
}

/// What one operation came to; a whole answer, or one item of a batch's.
struct Outcome {
    status: StatusCode,
    etag: Option<EntityTag>,
    location: Option<String>,
    /// JSON text.
    body: Option<String>,
}

/// What the answer to one row has, before the row is known.
struct Frame {
    status: StatusCode,
    tag: Tag,
    location: bool,
    body: bool,
}

/// What an entity tag is made of.
enum Tag {
    Version,
    Body,
    None,
}

impl Shape<'_> {
    /// The answer to one row, given whether the caller may read it, whether it is new, and whether its version tells it from others.
    fn frame(&self, readable: bool, created: bool, versioned: bool) -> Frame {
        let status = match (created, readable && !self.minimal) {
            (true, _) => StatusCode::CREATED,
            (false, true) => StatusCode::OK,
            (false, false) => StatusCode::NO_CONTENT,
        };
        if !readable {
            // The caller wrote what it may not read: neither body nor tag, but where it is.
            return Frame { status, tag: Tag::None, location: true, body: false };
        }
        let tag = if versioned { Tag::Version } else { Tag::Body };
        Frame { status, tag, location: created, body: !self.minimal }
    }

    /// The answer to a write of one row before it is done. `None` for CBOR, which is made here.
    pub(crate) fn stencil(&self, sketch: &Sketch) -> Option<Stencil> {
        if self.format != Format::Json {
            return None;
        }
        let outline = |frame: &Frame| {
            let mut headers = Vec::new();
            let mut add = |name: HeaderName, value: String| headers.push((name.as_str().to_owned(), value));
            if frame.body {
                add(header::CONTENT_TYPE, self.format.media_type().to_owned());
            }
            if frame.location {
                add(header::LOCATION, url::row(self.base, self.segment, &sketch.key));
            }
            match frame.tag {
                Tag::Version => {
                    add(header::ETAG, EntityTag::strong(format!("{VERSION_MARK}{}", self.format.tag_suffix())).text());
                }
                Tag::Body => {
                    add(header::ETAG, EntityTag::weak(format!("{DIGEST_MARK}{}", self.format.tag_suffix())).text());
                }
                Tag::None => {}
            }
            Outline { status: frame.status.as_u16(), headers }
        };
        let created = sketch.kind == Kind::Create;
        let seen = match sketch.kind {
            Kind::Delete => deleted_frame(false),
            Kind::Tombstone => deleted_frame(sketch.versioned),
            Kind::Create | Kind::Patch | Kind::Restore => self.frame(true, created, sketch.versioned),
        };
        let hidden = self.frame(false, created, sketch.versioned);
        Some(Stencil { seen: outline(&seen), hidden: outline(&hidden), body: seen.body })
    }

    /// The response.
    pub(crate) fn respond(&self, answer: Answer) -> Result<Response, Problem> {
        match answer {
            Answer::Page { items, next, total } => self.page(&items, next.as_deref(), total),
            Answer::Batch(results) => self.batch(results),
            Answer::Row(row) => self.single(self.row(row)),
            Answer::Deleted { version } => self.single(self.deleted(version)),
        }
    }

    fn deleted(&self, version: Option<i64>) -> Outcome {
        let etag = version.map(|version| version_tag(version, self.format));
        Outcome { status: deleted_frame(version.is_some()).status, etag, location: None, body: None }
    }

    fn row(&self, row: Row) -> Outcome {
        let version = row.version.filter(|_| row.full);
        let frame = self.frame(row.body.is_some(), row.created, version.is_some());
        let etag = match (frame.tag, version, &row.body) {
            (Tag::Version, Some(version), _) => Some(version_tag(version, self.format)),
            (Tag::Body, _, Some(body)) => Some(body_tag(body, self.format)),
            _ => None,
        };
        let location = frame.location.then(|| url::row(self.base, self.segment, &row.key));
        Outcome { status: frame.status, etag, location, body: row.body.filter(|_| frame.body) }
    }

    fn single(&self, outcome: Outcome) -> Result<Response, Problem> {
        if self.safe
            && let Some(response) = self.condition(outcome.etag.as_ref())?
        {
            return Ok(response);
        }
        let mut response = match outcome.body {
            Some(body) => self.encoded(body)?,
            None => Response::default(),
        };
        *response.status_mut() = outcome.status;
        self.head(&mut response);
        if let Some(etag) = outcome.etag {
            insert(&mut response, header::ETAG, etag.text())?;
        }
        if let Some(location) = outcome.location {
            insert(&mut response, header::LOCATION, location)?;
        }
        Ok(response)
    }

    /// The 412 or 304 that the request's conditions call for (RFC 9110 section 13.2.2).
    fn condition(&self, current: Option<&EntityTag>) -> Result<Option<Response>, Problem> {
        let (if_match, if_none_match) = &self.conditions;
        let etag = || current.and_then(|tag| HeaderValue::try_from(tag.text()).ok());
        if let Some(condition) = if_match
            && !condition.strongly_matches(current)
        {
            let problem = Problem::new(Code::VersionMismatch, "`If-Match` names no current representation");
            return Err(match etag() {
                Some(etag) => problem.with(header::ETAG, etag),
                None => problem,
            });
        }
        if !if_none_match.as_ref().is_some_and(|condition| condition.weakly_matches(current)) {
            return Ok(None);
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        self.head(&mut response);
        if let Some(etag) = etag() {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(Some(response))
    }

    fn page(&self, items: &str, next: Option<&str>, total: Option<u64>) -> Result<Response, Problem> {
        if let Some(response) = self.condition(None)? {
            return Ok(response);
        }
        let cursor = next.map_or_else(|| "null".to_owned(), quoted);
        let mut body = String::with_capacity(items.len() + cursor.len() + 64);
        body.extend(["{\"items\":", items, ",\"next\":", &cursor]);
        if let Some(total) = total {
            body.extend([",\"total\":", &total.to_string()]);
        }
        body.push('}');
        let mut response = self.encoded(body)?;
        self.head(&mut response);
        if let Some(next) = next {
            let (path, query) = self.target;
            insert(&mut response, header::LINK, url::next_link(path, query, next))?;
        }
        Ok(response)
    }

    fn batch(&self, results: Vec<Result<Answer, Failure>>) -> Result<Response, Problem> {
        let status = if results.iter().all(Result::is_ok) { StatusCode::OK } else { StatusCode::MULTI_STATUS };
        let mut body = "{\"items\":[".to_owned();
        for (at, result) in results.into_iter().enumerate() {
            if at > 0 {
                body.push(',');
            }
            match result {
                Ok(Answer::Row(row)) => push_outcome(&mut body, self.row(row)),
                Ok(Answer::Deleted { version }) => push_outcome(&mut body, self.deleted(version)),
                Ok(_) => {
                    return Err(Problem::internal("an item of a batch was answered with a page or a batch"));
                }
                Err(failure) => self.push_failure(&mut body, failure),
            }
        }
        body.push_str("]}");
        let mut response = self.encoded(body)?;
        *response.status_mut() = status;
        self.head(&mut response);
        Ok(response)
    }

    fn push_failure(&self, body: &mut String, failure: Failure) {
        let problem = Problem::from(failure);
        problem.log(self.request_id);
        body.extend(["{\"status\":", problem.status().as_str()]);
        if let Some(version) = problem.current_version {
            body.extend([",\"etag\":", &quoted(&version_tag(version, self.format).text())]);
        }
        body.extend([",\"problem\":", &problem.json(self.problem_base, self.request_id), "}"]);
    }

    /// JSON text in the negotiated format. JSON itself is passed on as it is.
    fn encoded(&self, body: String) -> Result<Response, Problem> {
        encoded(body, self.format)
    }

    /// The headers that every success has.
    fn head(&self, response: &mut Response) {
        self.add_head(response.headers_mut());
    }

    /// The headers of every success that are no part of what is recorded.
    pub(crate) fn add_head(&self, headers: &mut http::HeaderMap) {
        if self.safe {
            headers.insert(header::VARY, HeaderValue::from_static("accept, authorization"));
        }
        if self.personal {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if self.minimal {
            headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("return=minimal"));
        }
    }
}

/// JSON text as a 200 in a format.
pub(crate) fn encoded(body: String, format: Format) -> Result<Response, Problem> {
    let bytes = match format {
        Format::Json => Bytes::from(body),
        Format::Cbor => cbor::from_json(&body).map(Bytes::from).map_err(|why| match why {
            cbor::Unencodable::Number => Problem::new(
                ProblemCode::NotAcceptable,
                "the answer holds a number that CBOR cannot carry here: ask for `application/json`",
            ),
            cbor::Unencodable::NotJson => Problem::internal("the engine's answer is not valid JSON"),
        })?,
    };
    let mut response = Response::new(bytes);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    Ok(response)
}

/// The answer to a deletion.
fn deleted_frame(versioned: bool) -> Frame {
    let tag = if versioned { Tag::Version } else { Tag::None };
    Frame { status: StatusCode::NO_CONTENT, tag, location: false, body: false }
}

fn push_outcome(body: &mut String, outcome: Outcome) {
    body.extend(["{\"status\":", outcome.status.as_str()]);
    if let Some(etag) = outcome.etag {
        body.extend([",\"etag\":", &quoted(&etag.text())]);
    }
    if let Some(location) = outcome.location {
        body.extend([",\"location\":", &quoted(&location)]);
    }
    if let Some(row) = outcome.body {
        body.extend([",\"body\":", &row]);
    }
    body.push('}');
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn insert(response: &mut Response, name: HeaderName, value: String) -> Result<(), Problem> {
    let value = HeaderValue::try_from(value)
        .map_err(|_| Problem::internal(format!("the value of `{name}` is no header value")))?;
    response.headers_mut().insert(name, value);
    Ok(())
}

/// The strong tag of the full representation of a row at a version.
pub(crate) fn version_tag(version: i64, format: Format) -> EntityTag {
    EntityTag::strong(version.to_string() + format.tag_suffix())
}

/// The weak tag of a representation without a version of its own. The hash is one that nobody can make collide, so that
/// a writer cannot keep readers on an old row.
fn body_tag(body: &str, format: Format) -> EntityTag {
    let hash = digest(&SHA256, body.as_bytes());
    let half = hash.as_ref().first_chunk().map_or(0, |octets| u128::from_be_bytes(*octets));
    EntityTag::weak(format!("{half:032x}{}", format.tag_suffix()))
}

/// Whether an answer with these parameters can hold personal data: the model's own, or an included one's.
pub(crate) fn is_personal(schema: &Schema, model: ModelId, params: &[(String, String)]) -> bool {
    let includes = params.iter().filter(|(name, _)| name == "include").flat_map(|(_, value)| value.split(','));
    let mut models = includes.flat_map(|path| {
        path.split('.').scan(model, |at, name| {
            let relation = schema.model(*at).relation_named(name.trim())?;
            *at = schema.model(*at).relation(relation).target;
            Some(*at)
        })
    });
    schema.model(model).personal() || models.any(|id| schema.model(id).personal())
}
