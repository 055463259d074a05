//! The service that an experienced engineer writes by hand with axum and sqlx: default settings, the same answers.

use std::fmt::Write as _;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

#[derive(sqlx::FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    id: Uuid,
    tenant_id: String,
    owner: String,
    email: String,
    balance: Decimal,
    overdraft: Decimal,
    currency: String,
    #[serde(serialize_with = "micros")]
    created_at: DateTime<Utc>,
    version: i64,
}

fn micros<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

const COLUMNS: &str = "id, tenant_id, owner, email, balance, overdraft, currency, created_at, version";

struct Failure(StatusCode);

impl From<sqlx::Error> for Failure {
    fn from(_: sqlx::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    id: String,
    tenant_id: String,
}

fn claims(headers: &HeaderMap) -> Result<Claims, Failure> {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok());
    let encoded = token.and_then(|token| token.strip_prefix("Bearer dev.")).ok_or(Failure(StatusCode::UNAUTHORIZED))?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| Failure(StatusCode::UNAUTHORIZED))?;
    serde_json::from_slice(&json).map_err(|_| Failure(StatusCode::UNAUTHORIZED))
}

fn row(account: &Account) -> Response {
    ([(ETAG, format!("\"{}\"", account.version))], Json(account)).into_response()
}

async fn read(State(pool): State<PgPool>, headers: HeaderMap, Path(id): Path<Uuid>) -> Result<Response, Failure> {
    let claims = claims(&headers)?;
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE id = $1 AND tenant_id = $2");
    let account: Option<Account> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).bind(claims.tenant_id).fetch_optional(&pool).await?;
    account.as_ref().map(row).ok_or(Failure(StatusCode::NOT_FOUND))
}

#[derive(Deserialize)]
struct Page {
    limit: Option<i64>,
}

#[derive(Serialize)]
struct List {
    items: Vec<Account>,
    next: Option<String>,
}

async fn list(State(pool): State<PgPool>, headers: HeaderMap, Query(page): Query<Page>) -> Result<Response, Failure> {
    let claims = claims(&headers)?;
    let limit = page.limit.unwrap_or(50).clamp(1, 1000);
    let sql = format!("SELECT {COLUMNS} FROM accounts WHERE tenant_id = $1 ORDER BY id LIMIT $2");
    let mut items: Vec<Account> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(claims.tenant_id).bind(limit + 1).fetch_all(&pool).await?;
    let next = if items.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        items.pop();
        items.last().map(|last| {
            let mut cursor = String::new();
            let _infallible = write!(cursor, "{}", last.id.simple());
            cursor
        })
    } else {
        None
    };
    Ok(Json(List { items, next }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountPatch {
    owner: Option<String>,
    email: Option<String>,
    overdraft: Option<Decimal>,
}

/// What an auditor asks for, as most people write it: one row with both sides, in the transaction of the change.
pub(crate) const TABLES: &str = "
    CREATE TABLE hand_accounts (LIKE accounts INCLUDING ALL);
    CREATE TABLE hand_audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),
        model text NOT NULL, row_id uuid NOT NULL, actor text NOT NULL, op text NOT NULL, before jsonb, after jsonb);
    CREATE INDEX ON hand_audit (model, row_id);
    CREATE INDEX ON hand_audit (at);
    CREATE TABLE hand_keys (principal text NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, state text NOT NULL,
        status integer, etag text, body text, locked_until timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (principal, key))";

async fn record(
    tx: &mut sqlx::PgConnection,
    actor: &str,
    id: Uuid,
    before: String,
    after: String,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO hand_audit (model, row_id, actor, op, before, after) VALUES ('Account', $1, $2, 'update', $3::text::jsonb, $4::text::jsonb)",
    )
    .bind(id)
    .bind(actor)
    .bind(before)
    .bind(after)
    .execute(tx)
    .await
    .map(|_| ())
}

async fn patch(
    pool: State<PgPool>,
    headers: HeaderMap,
    id: Path<Uuid>,
    patch: Json<AccountPatch>,
) -> Result<Response, Failure> {
    write("accounts", pool, headers, id, patch).await
}

async fn audited_patch(
    pool: State<PgPool>,
    headers: HeaderMap,
    id: Path<Uuid>,
    body: Bytes,
) -> Result<Response, Failure> {
    let parsed: AccountPatch = serde_json::from_slice(&body).map_err(|_| Failure(StatusCode::BAD_REQUEST))?;
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned) else {
        return write("hand_accounts", pool, headers, id, Json(parsed)).await;
    };
    let principal = claims(&headers)?.id;
    let mut digest = Sha256::new();
    digest.update(id.as_bytes());
    digest.update(headers.get(IF_MATCH).map(axum::http::HeaderValue::as_bytes).unwrap_or_default());
    digest.update(&body);
    let fingerprint = digest.finalize().to_vec();
    if let Some(answer) = reserve(&pool, &principal, &key, &fingerprint).await? {
        return Ok(answer);
    }
    let answer = write("hand_accounts", State(pool.0.clone()), headers, id, Json(parsed)).await?;
    complete(&pool, &principal, &key, answer).await
}

/// Reserve, execute, complete: three commits, as middleware for idempotency keys usually has them.
async fn reserve(pool: &PgPool, principal: &str, key: &str, fingerprint: &[u8]) -> Result<Option<Response>, Failure> {
    let reserved: Option<i32> = sqlx::query_scalar(
        "INSERT INTO hand_keys (principal, key, fingerprint, state, locked_until) VALUES ($1, $2, $3, 'started', now() + interval '30 s')
         ON CONFLICT DO NOTHING RETURNING 1",
    )
    .bind(principal)
    .bind(key)
    .bind(fingerprint)
    .fetch_optional(pool)
    .await?;
    if reserved.is_some() {
        return Ok(None);
    }
    let found: (Vec<u8>, Option<i32>, Option<String>, Option<String>) =
        sqlx::query_as("SELECT fingerprint, status, etag, body FROM hand_keys WHERE principal = $1 AND key = $2")
            .bind(principal)
            .bind(key)
            .fetch_one(pool)
            .await?;
    match found {
        (known, ..) if known != fingerprint => Err(Failure(StatusCode::UNPROCESSABLE_ENTITY)),
        (_, Some(_), Some(etag), Some(body)) => {
            Ok(Some(([(ETAG, etag), (CONTENT_TYPE, "application/json".to_owned())], body).into_response()))
        }
        _ => Err(Failure(StatusCode::CONFLICT)),
    }
}

async fn complete(pool: &PgPool, principal: &str, key: &str, answer: Response) -> Result<Response, Failure> {
    let (head, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.map_err(|_| Failure(StatusCode::INTERNAL_SERVER_ERROR))?;
    sqlx::query(
        "UPDATE hand_keys SET state = 'done', status = $3, etag = $4, body = $5, locked_until = NULL WHERE principal = $1 AND key = $2",
    )
    .bind(principal)
    .bind(key)
    .bind(i32::from(head.status.as_u16()))
    .bind(head.headers.get(ETAG).and_then(|tag| tag.to_str().ok()))
    .bind(String::from_utf8_lossy(&body).into_owned())
    .execute(pool)
    .await?;
    Ok(Response::from_parts(head, body.into()))
}

async fn write(
    table: &'static str,
    State(pool): State<PgPool>,
    headers: HeaderMap,
    Path(id): Path<Uuid>,
    Json(patch): Json<AccountPatch>,
) -> Result<Response, Failure> {
    let claims = claims(&headers)?;
    if headers.get(CONTENT_TYPE).is_none() {
        return Err(Failure(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    if patch.owner.as_ref().is_some_and(|owner| owner.is_empty() || owner.chars().count() > 80) {
        return Err(Failure(StatusCode::UNPROCESSABLE_ENTITY));
    }
    let expected: i64 = headers
        .get(IF_MATCH)
        .ok_or(Failure(StatusCode::PRECONDITION_REQUIRED))?
        .to_str()
        .ok()
        .and_then(|tag| tag.trim_matches('"').parse().ok())
        .ok_or(Failure(StatusCode::BAD_REQUEST))?;
    let mut tx = pool.begin().await?;
    let select = format!("SELECT {COLUMNS} FROM {table} WHERE id = $1 AND tenant_id = $2 FOR UPDATE");
    let current: Option<Account> =
        sqlx::query_as(sqlx::AssertSqlSafe(select)).bind(id).bind(&claims.tenant_id).fetch_optional(&mut *tx).await?;
    let current = current.ok_or(Failure(StatusCode::NOT_FOUND))?;
    if current.version != expected {
        return Err(Failure(StatusCode::PRECONDITION_FAILED));
    }
    let before = serde_json::to_string(&current).map_err(|_| Failure(StatusCode::INTERNAL_SERVER_ERROR))?;
    let update = format!(
        "UPDATE {table} SET owner = $2, email = $3, overdraft = $4, version = version + 1 WHERE id = $1 RETURNING {COLUMNS}"
    );
    let account: Account = sqlx::query_as(sqlx::AssertSqlSafe(update))
        .bind(id)
        .bind(patch.owner.unwrap_or(current.owner))
        .bind(patch.email.unwrap_or(current.email))
        .bind(patch.overdraft.unwrap_or(current.overdraft))
        .fetch_one(&mut *tx)
        .await?;
    if table == "hand_accounts" {
        let after = serde_json::to_string(&account).map_err(|_| Failure(StatusCode::INTERNAL_SERVER_ERROR))?;
        record(&mut tx, &claims.id, id, before, after).await?;
    }
    tx.commit().await?;
    Ok(row(&account))
}

/// The routes that the benchmark calls.
pub(crate) fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/api/accounts", get(list))
        .route("/api/accounts/{id}", get(read).patch(patch))
        .route("/api/audited-accounts/{id}", axum::routing::patch(audited_patch))
        .with_state(pool)
}
