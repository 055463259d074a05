//! RFC 9457 problems: the one shape of every refusal, and the one table from codes to statuses and titles.

use std::borrow::Cow;

use cratestack_engine::api::{Code, Failure, FieldError, Rejection};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::answer::Response;
use crate::headers::X_REQUEST_ID;

/// The media type of every refusal.
pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A stable code: the engine's, or one that only a request over HTTP can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProblemCode {
    /// A code of the engine.
    Engine(Code),
    /// The body is no JSON.
    InvalidJson,
    /// The path exists; the verb does not.
    MethodNotAllowed,
    /// No format that the caller takes.
    NotAcceptable,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is too long.
    ContentTooLarge,
    /// The URL is too long.
    UriTooLong,
    /// A body of a type, charset or coding that the route does not take.
    UnsupportedMediaType,
    /// The header fields are too long.
    HeadersTooLarge,
    /// The request needs an idempotency key.
    KeyRequired,
    /// The idempotency key is not well formed.
    KeyInvalid,
    /// The idempotency key is older than keys are kept.
    KeyExpired,
    /// A request with the key was begun, and nobody knows how it ended.
    OutcomeUnknown,
    /// A rate limit is used up.
    RateLimited,
}

impl ProblemCode {
    /// The table: code, status, title.
    pub(crate) fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Engine(code) => match code {
                Code::BadRequest => ("bad_request", S::BAD_REQUEST, "The request is malformed"),
                Code::InvalidQuery => ("invalid_query", S::BAD_REQUEST, "A query parameter is not valid"),
                Code::InvalidCursor => ("invalid_cursor", S::BAD_REQUEST, "The cursor is not valid"),
                Code::Unauthenticated => ("unauthenticated", S::UNAUTHORIZED, "Valid credentials are needed"),
                Code::Forbidden => ("forbidden", S::FORBIDDEN, "The caller may not do this"),
                Code::NotFound => ("not_found", S::NOT_FOUND, "There is no such resource"),
                Code::UniqueViolation => ("unique_violation", S::CONFLICT, "The value is taken"),
                Code::ForeignKeyViolation => ("foreign_key_violation", S::CONFLICT, "Rows depend on each other"),
                Code::TransactionAborted => ("transaction_aborted", S::CONFLICT, "Concurrent changes got in the way"),
                Code::VersionMismatch => ("version_mismatch", S::PRECONDITION_FAILED, "The row is at another version"),
                Code::VersionRequired => {
                    ("version_required", S::PRECONDITION_REQUIRED, "The expected version is missing")
                }
                Code::ValidationFailed => ("validation_failed", S::UNPROCESSABLE_ENTITY, "The input is not valid"),
                // The code of the service has words of its own.
                Code::Rejected => ("rejected", S::UNPROCESSABLE_ENTITY, "The request was refused"),
                Code::IdempotencyKeyReused => {
                    ("idempotency_key_reused", S::UNPROCESSABLE_ENTITY, "The key belongs to another request")
                }
                Code::IdempotencyInFlight => {
                    ("idempotency_in_flight", S::CONFLICT, "A request with this key is being done")
                }
                Code::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "Something went wrong here"),
                Code::NotImplemented => ("not_implemented", S::NOT_IMPLEMENTED, "This service cannot do that"),
                Code::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "The service cannot answer now"),
            },
            Self::InvalidJson => ("invalid_json", S::BAD_REQUEST, "The body is not valid JSON"),
            Self::MethodNotAllowed => ("method_not_allowed", S::METHOD_NOT_ALLOWED, "The method is not allowed here"),
            Self::NotAcceptable => ("not_acceptable", S::NOT_ACCEPTABLE, "No acceptable format"),
            Self::RequestTimeout => ("request_timeout", S::REQUEST_TIMEOUT, "The request took too long to arrive"),
            Self::KeyRequired => ("idempotency_key_required", S::BAD_REQUEST, "An idempotency key is needed"),
            Self::OutcomeUnknown => {
                ("idempotency_outcome_unknown", S::CONFLICT, "Nobody knows whether the request was done")
            }
            Self::RateLimited => ("rate_limited", S::TOO_MANY_REQUESTS, "A rate limit is used up"),
            Self::KeyInvalid => ("idempotency_key_invalid", S::BAD_REQUEST, "The idempotency key is not valid"),
            Self::KeyExpired => ("idempotency_key_expired", S::UNPROCESSABLE_ENTITY, "The idempotency key is too old"),
            Self::ContentTooLarge => ("content_too_large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UriTooLong => ("uri_too_long", S::URI_TOO_LONG, "The URL is too long"),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", S::UNSUPPORTED_MEDIA_TYPE, "The body has an unsupported type")
            }
            Self::HeadersTooLarge => {
                ("headers_too_large", S::REQUEST_HEADER_FIELDS_TOO_LARGE, "The header fields are too large")
            }
        }
    }
}

impl From<Code> for ProblemCode {
    fn from(code: Code) -> Self {
        Self::Engine(code)
    }
}

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The stable code.
    pub(crate) code: ProblemCode,
    /// One lower-case sentence, without values.
    pub(crate) detail: Cow<'static, str>,
    /// What is wrong with which member.
    pub(crate) errors: Vec<FieldError>,
    /// The failing item of an atomic batch.
    pub(crate) item: Option<usize>,
    /// The version that a mismatch met; becomes an `ETag`.
    pub(crate) current_version: Option<i64>,
    /// Headers that this refusal brings along.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What code of the service says in place of the table.
    pub(crate) rejection: Option<Rejection>,
    /// For the log alone.
    pub(crate) internal: Option<String>,
}

impl Problem {
    /// A refusal with a sentence for the caller.
    pub(crate) fn new(code: impl Into<ProblemCode>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            item: None,
            current_version: None,
            headers: Vec::new(),
            rejection: None,
            internal: None,
        }
    }

    /// Its code, status and title.
    fn row(&self) -> (&str, StatusCode, &'static str) {
        let row @ (_, _, title) = self.code.row();
        let own = self.rejection.as_ref();
        let own = own.and_then(|own| Some((own.code.as_str(), StatusCode::from_u16(own.status).ok()?, title)));
        own.unwrap_or(row)
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.row().1
    }

    /// The 400 that no other code names.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// A 500 with `internal` for the log.
    pub(crate) fn internal(internal: impl Into<String>) -> Self {
        Self { internal: Some(internal.into()), ..Self::new(Code::Internal, "") }
    }

    /// The same for the engine, which is to undo what could not be told.
    pub(crate) fn into_failure(self) -> Failure {
        let (code, status, _) = self.row();
        match self.code {
            ProblemCode::Engine(code) => Failure {
                errors: self.errors,
                item: self.item,
                current_version: self.current_version,
                rejection: self.rejection,
                internal: self.internal,
                ..Failure::new(code, self.detail)
            },
            _ => Failure::reject(code, status.as_u16(), self.detail.clone()),
        }
    }

    /// Adds a header.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Writes what the caller must not see to the log, under the request id: the request's span may be filtered out.
    pub(crate) fn log(&self, request_id: &str) {
        let (code, status, _) = self.row();
        let internal = self.internal.as_deref().unwrap_or_default();
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            tracing::error!(request_id, code, detail = %self.detail, internal, "request failed");
        } else {
            tracing::debug!(request_id, code, detail = %self.detail, internal, "request refused");
        }
    }

    /// The body, as JSON text.
    pub(crate) fn json(&self, type_base: &str, request_id: &str) -> String {
        let (code, status, title) = self.row();
        let hidden = self.code == ProblemCode::Engine(Code::Internal);
        let detail = if hidden { "the log has the details under this request id" } else { self.detail.as_ref() };
        let body = ProblemBody {
            r#type: format!("{type_base}{code}"),
            title,
            status: status.as_u16(),
            code,
            detail,
            request_id,
            item: self.item,
            errors: self.errors.iter().map(ErrorBody::from).collect(),
        };
        // Serialising text and numbers into memory has no way to fail.
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The answer of a layer, which has nobody around it to log it and to name the request.
    pub(crate) fn refuse(self, type_base: &str, request_id: &str) -> axum::response::Response {
        self.log(request_id);
        let mut response = self.into_response(type_base, request_id);
        if let Ok(id) = HeaderValue::from_str(request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        crate::answer::sent(response)
    }

    /// The answer.
    pub(crate) fn into_response(self, type_base: &str, request_id: &str) -> Response {
        let mut response = Response::new(self.json(type_base, request_id).into());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            code: ProblemCode::Engine(failure.code),
            detail: Cow::Owned(failure.detail),
            errors: failure.errors,
            item: failure.item,
            current_version: failure.current_version,
            headers: match failure.code {
                Code::IdempotencyInFlight => vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))],
                _ => Vec::new(),
            },
            rejection: failure.rejection,
            internal: failure.internal,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProblemBody<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorBody<'a>>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    pointer: &'a str,
    code: &'a str,
    detail: &'a str,
}

impl<'a> From<&'a FieldError> for ErrorBody<'a> {
    fn from(error: &'a FieldError) -> Self {
        Self { pointer: &error.pointer, code: &error.code, detail: &error.detail }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_contracts() {
        let error = |pointer: &str, code: &str, detail: &str| FieldError {
            pointer: pointer.to_owned(),
            code: code.to_owned(),
            detail: detail.to_owned(),
        };
        let failure = Failure::validation(vec![
            error("#/email", "email", "is not an email address"),
            error("#/overdraft", "range", "must be at least 0"),
        ]);
        let text = Problem::from(failure).json("https://cratestack.dev/problems/", "0198");
        assert_eq!(
            text,
            r##"{"type":"https://cratestack.dev/problems/validation_failed","title":"The input is not valid","status":422,"code":"validation_failed","detail":"2 fields are not valid","requestId":"0198","errors":[{"pointer":"#/email","code":"email","detail":"is not an email address"},{"pointer":"#/overdraft","code":"range","detail":"must be at least 0"}]}"##
        );
    }

    const ALL: [ProblemCode; 31] = [
        ProblemCode::Engine(Code::Rejected),
        ProblemCode::Engine(Code::BadRequest),
        ProblemCode::Engine(Code::InvalidQuery),
        ProblemCode::Engine(Code::InvalidCursor),
        ProblemCode::Engine(Code::Unauthenticated),
        ProblemCode::Engine(Code::Forbidden),
        ProblemCode::Engine(Code::NotFound),
        ProblemCode::Engine(Code::UniqueViolation),
        ProblemCode::Engine(Code::ForeignKeyViolation),
        ProblemCode::Engine(Code::TransactionAborted),
        ProblemCode::Engine(Code::VersionMismatch),
        ProblemCode::Engine(Code::VersionRequired),
        ProblemCode::Engine(Code::ValidationFailed),
        ProblemCode::Engine(Code::IdempotencyKeyReused),
        ProblemCode::Engine(Code::IdempotencyInFlight),
        ProblemCode::Engine(Code::Internal),
        ProblemCode::Engine(Code::NotImplemented),
        ProblemCode::Engine(Code::Unavailable),
        ProblemCode::InvalidJson,
        ProblemCode::MethodNotAllowed,
        ProblemCode::NotAcceptable,
        ProblemCode::RequestTimeout,
        ProblemCode::ContentTooLarge,
        ProblemCode::UriTooLong,
        ProblemCode::UnsupportedMediaType,
        ProblemCode::HeadersTooLarge,
        ProblemCode::KeyRequired,
        ProblemCode::KeyInvalid,
        ProblemCode::KeyExpired,
        ProblemCode::OutcomeUnknown,
        ProblemCode::RateLimited,
    ];

    #[test]
    fn the_guide_has_every_code_with_its_status() {
        let rows = include_str!("problem.rs").matches("\", S::").count();
        // This test has the pattern once itself.
        assert_eq!(rows - 1, ALL.len(), "`ALL` has forgotten a code");
        let guide = include_str!("../../../docs/http.md");
        let part = guide.split_once("## Problems").unwrap().1.split_once("`errors` are objects").unwrap().0;
        let mut written: Vec<(u16, &str)> = part
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                Some((cells.next()?.parse().ok()?, cells.next()?.trim_matches('`')))
            })
            .collect();
        written.sort_unstable();
        let mut known: Vec<(u16, &str)> = ALL.iter().map(|code| (code.row().1.as_u16(), code.row().0)).collect();
        known.sort_unstable();
        assert_eq!(written, known);
    }

    #[test]
    fn internal_detail_stays_inside() {
        let failure =
            Failure { detail: "secret".to_owned(), ..Failure::new(Code::Internal, "").with_internal("secret") };
        let text = Problem::from(failure).json("t:", "id");
        assert!(!text.contains("secret"), "{text}");
    }
}
