//! Errors as problem details (RFC 9457): `type`, `title`, `status`, `detail`.
//!
//! `type` is stable, for programs; `detail` is for people and names the way out.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sds_core::cluster::Refusal;
use serde::Serialize;

/// A problem. `type` is `urn:sds:problem:` and a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, title: &str, detail: String) -> Self {
        Self { kind: format!("urn:sds:problem:{kind}"), title: title.to_owned(), status: status.as_u16(), detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, kind, title) = match &refusal {
            Refusal::NotInitialised => (StatusCode::SERVICE_UNAVAILABLE, "not-initialised", "Not initialised"),
            Refusal::Name { .. } => (StatusCode::BAD_REQUEST, "bad-name", "Unusable name"),
            Refusal::TextTooLong { .. } => (StatusCode::BAD_REQUEST, "text-too-long", "Text too long"),
            Refusal::VolumeExists { .. } => (StatusCode::CONFLICT, "volume-exists", "Volume exists"),
            Refusal::PoolExists { .. } => (StatusCode::CONFLICT, "pool-exists", "Pool exists"),
            Refusal::NoVolume { .. } => (StatusCode::NOT_FOUND, "no-volume", "No such volume"),
            Refusal::NoPool { .. } => (StatusCode::BAD_REQUEST, "no-pool", "No such pool"),
            Refusal::SizeZero | Refusal::SizeUnaligned { .. } | Refusal::SizeTooLarge { .. } => {
                (StatusCode::BAD_REQUEST, "bad-size", "Unusable size")
            }
            Refusal::OverProvisioned { .. } => (StatusCode::CONFLICT, "over-provisioned", "Not enough space"),
            Refusal::Stripe(_) => (StatusCode::BAD_REQUEST, "bad-stripe", "Unusable stripe layout"),
            Refusal::PoolWithoutDevices { .. } => (StatusCode::CONFLICT, "pool-without-devices", "Pool has no devices"),
            Refusal::Placement { .. } => (StatusCode::CONFLICT, "placement", "Shards cannot be placed"),
            Refusal::ShardCount { .. } => (StatusCode::BAD_REQUEST, "bad-shard-count", "Unusable number of shards"),
            Refusal::Busy { .. } => (StatusCode::CONFLICT, "busy", "Volume is open"),
            Refusal::DeleteOpen { .. } => (StatusCode::CONFLICT, "volume-open", "Volume is open"),
            Refusal::TooMany(_) => (StatusCode::CONFLICT, "too-many", "A bound is reached"),
            Refusal::KeyReused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "Idempotency key used before"),
            Refusal::KeyLength { .. } => (StatusCode::BAD_REQUEST, "bad-key", "Unusable idempotency key"),
            Refusal::NoDevice { .. } => (StatusCode::NOT_FOUND, "no-device", "No such device"),
            Refusal::NoShard { .. } => (StatusCode::NOT_FOUND, "no-shard", "No such shard"),
            Refusal::Force { .. } => (StatusCode::CONFLICT, "not-forced", "Copy cannot be forced"),
            Refusal::OtherSystem { .. }
            | Refusal::Addresses { .. }
            | Refusal::SdsNil { .. }
            | Refusal::DeviceTwice { .. }
            | Refusal::DeviceElsewhere { .. }
            | Refusal::DevicePool { .. }
            | Refusal::NotOwner { .. } => (StatusCode::CONFLICT, "registration", "Registration refused"),
        };
        Self::new(status, kind, title, refusal.to_string())
    }
}
