//! Request bodies, paths and queries: parsed here or refused with what is wrong and where.

use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use sds_core::cluster::leader::{ApiRequest, ShardQuery};
use sds_core::cluster::report::ShardState;
use sds_core::cluster::{CreateVolume, DEFAULT_POOL};
use sds_core::id::DeviceId;
use sds_core::limits::{SHARDS_LISTED_MAX, SHARDS_PER_POOL_DEFAULT, STRIPE_UNIT_BYTES_DEFAULT, STRIPE_WIDTH_DEFAULT};
use sds_core::map::Copies;
use sds_core::unit::ByteCount;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Header by which a repeated request is recognised
/// (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeBody {
    name: String,
    size_bytes: u64,
    #[serde(default = "default_pool")]
    pool: String,
    #[serde(default = "default_stripe_unit")]
    stripe_unit: u32,
    #[serde(default = "default_stripe_width")]
    stripe_width: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolBody {
    name: String,
    #[serde(default = "default_shards")]
    shards: u32,
    #[serde(default)]
    copies: Copies,
}

/// Which shards are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardsQuery {
    pool: Option<String>,
    state: Option<ShardState>,
    device: Option<u32>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForceBody {
    device: u32,
    #[serde(default)]
    reason: String,
}

/// Shards in an answer unless the query says otherwise.
const SHARDS_LISTED_DEFAULT: usize = 1_000;

fn default_pool() -> String {
    DEFAULT_POOL.to_owned()
}

const fn default_stripe_unit() -> u32 {
    STRIPE_UNIT_BYTES_DEFAULT
}

const fn default_stripe_width() -> u32 {
    STRIPE_WIDTH_DEFAULT
}

const fn default_shards() -> u32 {
    SHARDS_PER_POOL_DEFAULT
}

/// A name in the path.
pub(super) fn name(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let invalid = |rejection: PathRejection| Problem::new(StatusCode::BAD_REQUEST, "invalid-name", "Invalid name", rejection.body_text());
    name.map(|Path(name)| name).map_err(invalid)
}

/// The body's bytes, if it has come whole and is not too large.
pub(super) fn bytes(bytes: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    bytes.map_err(|rejection| Problem::new(rejection.status(), "bad-body", "Unusable body", rejection.body_text()))
}

/// A volume to be made: the body, and the key among the headers.
///
/// # Errors
/// What is wrong with the body or the key.
pub fn create_volume(bytes: &[u8], headers: &HeaderMap) -> Result<CreateVolume, Problem> {
    let body: VolumeBody = parse(bytes)?;
    let key = match headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => return Err(bad("the Idempotency-Key header has other characters than visible ASCII".to_owned())),
    };
    Ok(CreateVolume {
        name: body.name,
        size: ByteCount::new(body.size_bytes),
        pool: body.pool,
        stripe_unit: body.stripe_unit,
        stripe_width: body.stripe_width,
        key,
    })
}

/// A pool to be made.
///
/// # Errors
/// What is wrong with the body.
pub fn create_pool(bytes: &[u8]) -> Result<ApiRequest, Problem> {
    let PoolBody { name, shards, copies } = parse(bytes)?;
    Ok(ApiRequest::CreatePool { name, shards, copies })
}

/// Which shards are asked for.
///
/// # Errors
/// What is wrong with the query.
pub fn shards(query: Result<Query<ShardsQuery>, QueryRejection>) -> Result<ApiRequest, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "bad-query", "Unusable query", detail);
    let Query(ShardsQuery { pool, state, device, limit }) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let limit = limit.unwrap_or(SHARDS_LISTED_DEFAULT);
    if limit == 0 || limit > SHARDS_LISTED_MAX {
        return Err(bad(format!("limit {limit} cannot be; give 1 to {SHARDS_LISTED_MAX}")));
    }
    Ok(ApiRequest::Shards(ShardQuery { pool, state, device: device.map(DeviceId::new), limit }))
}

/// A pool's name and a shard's number in the path.
pub(super) fn shard(path: Result<Path<(String, u32)>, PathRejection>) -> Result<(String, u32), Problem> {
    let invalid = |rejection: PathRejection| Problem::new(StatusCode::BAD_REQUEST, "invalid-name", "Invalid name", rejection.body_text());
    path.map(|Path(shard)| shard).map_err(invalid)
}

/// A shard, named by its pool and number, to be forced.
///
/// # Errors
/// What is wrong with the body.
pub fn force_shard((pool, shard): (String, u32), bytes: &[u8]) -> Result<ApiRequest, Problem> {
    let ForceBody { device, reason } = parse(bytes)?;
    Ok(ApiRequest::ForceShard { pool, shard, device: DeviceId::new(device), reason })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| bad(format!("the body is not what is expected: {error}")))
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-body", "Unusable body", detail)
}
