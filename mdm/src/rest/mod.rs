//! The API: REST and JSON under `/api/v1`.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/v1/status` | 200, the whole system |
//! | `GET /api/v1/volumes` | 200, `{"volumes": [...]}` |
//! | `POST /api/v1/volumes` | 201 and the volume; 200 if its `Idempotency-Key` made it before |
//! | `GET /api/v1/volumes/{name}` | 200, the volume |
//! | `DELETE /api/v1/volumes/{name}` | 204 |
//! | `GET /api/v1/pools` | 200, `{"pools": [...]}` |
//! | `POST /api/v1/pools` | 201 and the pool |
//! | `GET /api/v1/shards?pool=&state=&device=&limit=` | 200, `{"shards": [...], "more": 0}` |
//! | `GET /api/v1/pools/{name}/shards/{number}` | 200, the shard |
//! | `POST /api/v1/pools/{name}/shards/{number}/force` | 200, the shard as it is now |
//! | `GET /api/v1/audit` | 200, `{"audit": [...]}` |
//!
//! Bodies are those of `sds_core::cluster::report` and [`body`]; errors are problem details
//! ([`problem`]). Invariant: a request body is bounded, and a field it does not know is an error.

pub mod body;
mod bounded;
pub mod problem;

pub(crate) use bounded::Bounded;

use crate::member::Api;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use problem::Problem;
use sds_core::cluster::leader::{ApiReply, ApiRequest};
use serde::Serialize;

/// Largest request body.
const BODY_BYTES_MAX: usize = 64 << 10;

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/volumes", get(volumes).post(create_volume))
        .route("/api/v1/volumes/{name}", get(volume).delete(delete_volume))
        .route("/api/v1/pools", get(pools).post(create_pool))
        .route("/api/v1/shards", get(shards))
        .route("/api/v1/pools/{name}/shards/{number}", get(shard))
        .route("/api/v1/pools/{name}/shards/{number}/force", post(force_shard))
        .route("/api/v1/audit", get(audit))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(not_of_a_page))
        .with_state(api)
}

/// A web page that somebody on this host looks at can send requests here as well: what changes something must be of another kind than such a
/// page may send, and nothing may come from a page that is not of this address.
async fn not_of_a_page(request: Request, next: Next) -> Response {
    match complaint(request.method(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn complaint(method: &Method, headers: &HeaderMap) -> Option<Problem> {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let authority = |origin: &str| origin.split_once("://").map_or_else(|| origin.to_owned(), |(_, authority)| authority.to_owned());
    if headers.contains_key(header::ORIGIN) && header(header::ORIGIN).map(authority).as_deref() != header(header::HOST) {
        let detail = "the request comes from a web page of another address; use `sdsctl`, or a program that sends no Origin".to_owned();
        return Some(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "Request of a foreign web page", detail));
    }
    let is_json = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if *method == Method::POST && !header(header::CONTENT_TYPE).is_some_and(is_json) {
        let detail = "the body must be JSON and say so: `Content-Type: application/json`".to_owned();
        return Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "Body is not JSON", detail));
    }
    None
}

async fn status(State(api): State<Api>) -> Response {
    ask(&api, ApiRequest::Status).await
}

async fn volumes(State(api): State<Api>) -> Response {
    ask(&api, ApiRequest::Volumes).await
}

async fn volume(State(api): State<Api>, name: Result<Path<String>, PathRejection>) -> Response {
    match body::name(name) {
        Ok(name) => ask(&api, ApiRequest::Volume { name }).await,
        Err(problem) => problem.into_response(),
    }
}

async fn create_volume(State(api): State<Api>, headers: HeaderMap, bytes: Result<Bytes, BytesRejection>) -> Response {
    let request = body::bytes(bytes).and_then(|bytes| body::create_volume(&bytes, &headers));
    match request {
        Ok(create) => ask(&api, ApiRequest::CreateVolume(create)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn delete_volume(State(api): State<Api>, name: Result<Path<String>, PathRejection>) -> Response {
    match body::name(name) {
        Ok(name) => ask(&api, ApiRequest::DeleteVolume { name }).await,
        Err(problem) => problem.into_response(),
    }
}

async fn pools(State(api): State<Api>) -> Response {
    ask(&api, ApiRequest::Pools).await
}

async fn create_pool(State(api): State<Api>, bytes: Result<Bytes, BytesRejection>) -> Response {
    match body::bytes(bytes).and_then(|bytes| body::create_pool(&bytes)) {
        Ok(request) => ask(&api, request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn shards(State(api): State<Api>, query: Result<Query<body::ShardsQuery>, QueryRejection>) -> Response {
    match body::shards(query) {
        Ok(request) => ask(&api, request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn shard(State(api): State<Api>, path: Result<Path<(String, u32)>, PathRejection>) -> Response {
    match body::shard(path) {
        Ok((pool, shard)) => ask(&api, ApiRequest::Shard { pool, shard }).await,
        Err(problem) => problem.into_response(),
    }
}

async fn force_shard(
    State(api): State<Api>,
    path: Result<Path<(String, u32)>, PathRejection>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let request = body::shard(path).and_then(|shard| body::force_shard(shard, &body::bytes(bytes)?));
    match request {
        Ok(request) => ask(&api, request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn audit(State(api): State<Api>) -> Response {
    ask(&api, ApiRequest::Audit).await
}

async fn no_such_path(uri: Uri) -> Response {
    let detail = format!(
        "there is nothing at {}; the API is under /api/v1: status, volumes, volumes/NAME, pools, pools/NAME/shards/NUMBER, shards, audit",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "No such path", detail).into_response()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} cannot be done to {}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", "Method not allowed", detail).into_response()
}

async fn ask(api: &Api, request: ApiRequest) -> Response {
    let reply = match api.request(request).await {
        Ok(reply) => reply,
        Err(not_leading) => {
            let detail = not_leading.to_string();
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-leading", "This member does not lead", detail).into_response();
        }
    };
    match reply {
        ApiReply::VolumeCreated { volume, new } => {
            let code = if new { StatusCode::CREATED } else { StatusCode::OK };
            let location = format!("/api/v1/volumes/{}", volume.name);
            (code, [(header::LOCATION, location)], axum::Json(volume)).into_response()
        }
        ApiReply::VolumeDeleted => StatusCode::NO_CONTENT.into_response(),
        ApiReply::Volume(volume) => axum::Json(volume).into_response(),
        ApiReply::Volumes(volumes) => axum::Json(Volumes { volumes }).into_response(),
        ApiReply::PoolCreated(pool) => (StatusCode::CREATED, axum::Json(pool)).into_response(),
        ApiReply::Pools(pools) => axum::Json(Pools { pools }).into_response(),
        ApiReply::Shards { shards, more } => axum::Json(Shards { shards, more }).into_response(),
        ApiReply::Shard(shard) => axum::Json(shard).into_response(),
        ApiReply::Audit(audit) => axum::Json(Audit { audit }).into_response(),
        ApiReply::Status(status) => axum::Json(status).into_response(),
        ApiReply::Refused(refusal) => Problem::from(refusal).into_response(),
        ApiReply::Overloaded => {
            let detail = "too many changes are in progress; nothing was changed, try again".to_owned();
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too many changes in progress", detail).into_response()
        }
        ApiReply::Unknown => {
            let detail = "whether the change was made is unknown; look, or repeat it with the same Idempotency-Key".to_owned();
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unknown-outcome", "Unknown outcome", detail).into_response()
        }
    }
}

#[derive(Serialize)]
struct Volumes {
    volumes: Vec<sds_core::cluster::report::VolumeStatus>,
}

#[derive(Serialize)]
struct Pools {
    pools: Vec<sds_core::cluster::report::PoolStatus>,
}

#[derive(Serialize)]
struct Shards {
    shards: Vec<sds_core::cluster::report::ShardStatus>,
    more: u64,
}

#[derive(Serialize)]
struct Audit {
    audit: Vec<sds_core::cluster::report::AuditStatus>,
}
