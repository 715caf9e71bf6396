//! The MDM's API over HTTP, and its errors as people need them.

use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long one request may take: the MDM answers from memory or after one commit.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nobody answers.
    #[error(
        "cannot reach the MDM's API at {address}: {reason}; is `mdm` (or `sdsctl up`) running there? \
         give its address with --api ADDR:PORT or in SDSCTL_API"
    )]
    Unreachable { address: String, reason: String },
    /// The MDM says no, and why.
    #[error("{detail}")]
    Refused { detail: String, problem: Value },
    /// Something else answers, or a version that does not fit.
    #[error("the answer is not what this sdsctl understands: {reason}; is --api the MDM's API, and of the same version?")]
    Answer { reason: String },
    /// It need not be asked.
    #[error("{0}")]
    Usage(String),
}

impl ApiError {
    /// What the process ends with.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Answer { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }

    /// As a program reads it: the problem as the API gave it, or one of ours.
    pub(crate) fn as_json(&self) -> Value {
        let ours = |kind: &str| json!({"type": format!("urn:sds:problem:{kind}"), "title": kind, "detail": self.to_string()});
        match self {
            Self::Refused { problem, .. } => problem.clone(),
            Self::Unreachable { .. } => ours("unreachable"),
            Self::Answer { .. } => ours("unexpected-answer"),
            Self::Usage(_) => ours("usage"),
        }
    }
}

/// An API at an address.
#[derive(Debug)]
pub(crate) struct Api {
    address: String,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: String,
}

impl Api {
    pub(crate) fn new(address: &str) -> Self {
        let address = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).proxy(None).build();
        Self { address, agent: config.into() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.answer(self.agent.get(self.url(path)).call())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.answer(self.agent.delete(self.url(path)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, ApiError> {
        let mut request = self.agent.post(self.url(path));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request.send_json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.address)
    }

    fn answer(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, ApiError> {
        let unreachable = |error: ureq::Error| ApiError::Unreachable { address: self.address.clone(), reason: reason(&error) };
        let mut response = response.map_err(unreachable)?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().map_err(unreachable)?;
        if status.is_success() && text.is_empty() {
            return Ok(Value::Null);
        }
        let body: Value = serde_json::from_str(&text).map_err(|error| ApiError::Answer { reason: format!("{status}, {error}") })?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Problem =
            serde_json::from_value(body.clone()).map_err(|error| ApiError::Answer { reason: format!("{status}, {error}") })?;
        let detail = if problem.detail.is_empty() { problem.title } else { problem.detail };
        Err(ApiError::Refused { detail, problem: body })
    }
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => format!("no answer within {TIMEOUT:?}"),
        other => other.to_string(),
    }
}

/// A name as part of a path (RFC 3986, section 2.1).
pub(crate) fn segment(name: &str) -> Result<String, ApiError> {
    if name.is_empty() {
        return Err(ApiError::Usage("the name is empty; see `sdsctl volume list` and `sdsctl pool list`".to_owned()));
    }
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        // A segment of dots alone would be taken for a step in the path.
        b'.' if name.bytes().any(|other| other != b'.') => ".".to_owned(),
        other => format!("%{other:02X}"),
    };
    Ok(name.bytes().map(encode).collect())
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn names_stay_one_segment_of_the_path() {
        let cases = [("a.b_c-9", "a.b_c-9"), ("a/b", "a%2Fb"), ("ä?", "%C3%A4%3F"), ("a b", "a%20b"), ("..", "%2E%2E"), ("%", "%25")];
        for (name, expected) in cases {
            assert_eq!(segment(name).expect("a segment"), expected);
        }
        assert!(segment("").is_err());
    }
}
