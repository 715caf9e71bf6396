//! The API over real HTTP.

mod support;

use serde_json::json;
use support::{Answer, Client, Sds, call, call_with, start};

fn is_problem(answer: &Answer, status: u16, kind: &str, says: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(answer.body["type"], format!("urn:sds:problem:{kind}"));
    assert_eq!(answer.body["status"], status);
    assert!(answer.body["title"].is_string());
    let detail = answer.body["detail"].as_str().expect("a detail");
    assert!(detail.contains(says), "{detail:?} does not say {says:?}");
}

#[test]
fn a_volume_is_made_shown_listed_and_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let _sds = Sds::register(&mdm, 1, 1);
    let made = call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "one", "size_bytes": 1073741824}"#));
    assert_eq!((made.status, made.location.as_str()), (201, "/api/v1/volumes/one"), "{made:?}");
    assert_eq!(made.body["size_bytes"], 1 << 30);
    assert_eq!((&made.body["stripe_unit"], &made.body["stripe_width"]), (&json!(131_072), &json!(8)));
    assert_eq!(made.body["sessions"], json!([]));
    let shown = call(&mdm, "GET", "/api/v1/volumes/one", None);
    assert_eq!((shown.status, shown.content_type.as_str()), (200, "application/json"));
    assert_eq!(shown.body, made.body);
    assert_eq!(call(&mdm, "GET", "/api/v1/volumes", None).body, json!({"volumes": [made.body]}));
    assert_eq!(call(&mdm, "DELETE", "/api/v1/volumes/one", None).status, 204);
    is_problem(&call(&mdm, "GET", "/api/v1/volumes/one", None), 404, "no-volume", r#"no volume is named "one""#);
    is_problem(&call(&mdm, "DELETE", "/api/v1/volumes/one", None), 404, "no-volume", "one");
    mdm.stop().expect("stops");
}

#[test]
fn bad_requests_are_answered_and_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let post = |body: &str| call(&mdm, "POST", "/api/v1/volumes", Some(body));
    is_problem(&post(r#"{"name": "a", "size_bytes": 4096}"#), 409, "pool-without-devices", "start a data server");
    let _sds = Sds::register(&mdm, 1, 1);
    let cases = [
        ("", 400, "bad-body", "EOF"),
        ("{", 400, "bad-body", "line 1"),
        ("[]", 400, "bad-body", "expected"),
        (r#"{"name": "a"}"#, 400, "bad-body", "missing field `size_bytes`"),
        (r#"{"name": "a", "size_bytes": 4096, "colour": 1}"#, 400, "bad-body", "unknown field `colour`"),
        (r#"{"name": 7, "size_bytes": 4096}"#, 400, "bad-body", "expected a string"),
        (r#"{"name": "a", "size_bytes": "1G"}"#, 400, "bad-body", "expected u64"),
        (r#"{"name": "a", "size_bytes": -4096}"#, 400, "bad-body", "expected u64"),
        (r#"{"name": "a", "size_bytes": 1e30}"#, 400, "bad-body", "expected u64"),
        (r#"{"name": "a", "size_bytes": 99999999999999999999999}"#, 400, "bad-body", "u64"),
        (r#"{"name": "a", "size_bytes": 0}"#, 400, "bad-size", "0 bytes"),
        (r#"{"name": "a", "size_bytes": 5000}"#, 400, "bad-size", "4096 and 8192"),
        (r#"{"name": "a", "size_bytes": 18446744073709551615}"#, 400, "bad-size", "largest"),
        (r#"{"name": "a", "size_bytes": 1099511627776}"#, 409, "over-provisioned", "10737418240"),
        (r#"{"name": "", "size_bytes": 4096}"#, 400, "bad-name", "is empty"),
        (r#"{"name": "a/b", "size_bytes": 4096}"#, 400, "bad-name", "'/'"),
        (r#"{"name": "a", "size_bytes": 4096, "pool": "x"}"#, 400, "no-pool", r#"["default"]"#),
        (r#"{"name": "a", "size_bytes": 4096, "stripe_unit": 5}"#, 400, "bad-stripe", "power of two"),
        (r#"{"name": "a", "size_bytes": 4096, "stripe_width": 0}"#, 400, "bad-stripe", "from 1 to"),
    ];
    for (body, status, kind, says) in cases {
        is_problem(&post(body), status, kind, says);
    }
    let long = format!(r#"{{"name": "{}", "size_bytes": 4096}}"#, "a".repeat(70_000));
    is_problem(&post(&long), 413, "bad-body", "");
    is_problem(&call(&mdm, "GET", "/api/v2/status", None), 404, "no-such-path", "/api/v2/status");
    is_problem(&call(&mdm, "DELETE", "/api/v1/status", None), 405, "no-such-method", "DELETE");
    assert_eq!(call(&mdm, "GET", "/api/v1/volumes", None).body, json!({"volumes": []}));
    assert_eq!(post(r#"{"name": "a", "size_bytes": 4096}"#).status, 201);
    is_problem(&post(r#"{"name": "a", "size_bytes": 4096}"#), 409, "volume-exists", "exists already");
}

#[test]
fn web_pages_cannot_ask_for_anything() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let pool = r#"{"name": "p", "copies": 2}"#;
    let page = [("origin", "http://evil.example")];
    is_problem(&call_with(&mdm, "POST", "/api/v1/pools", Some(pool), &page), 403, "foreign-origin", "sdsctl");
    is_problem(&call_with(&mdm, "GET", "/api/v1/status", None, &page), 403, "foreign-origin", "sdsctl");
    is_problem(&call(&mdm, "POST", "/api/v1/pools", None), 415, "not-json", "application/json");
    let own = format!("http://{}", mdm.api_address());
    assert_eq!(call_with(&mdm, "POST", "/api/v1/pools", Some(pool), &[("origin", &own)]).status, 201);
}

#[test]
fn all_pools_together_have_so_many_shards() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let create = |number: u32| call(&mdm, "POST", "/api/v1/pools", Some(&format!(r#"{{"name": "p{number}", "shards": 65536}}"#)));
    (0..7).for_each(|number| assert_eq!(create(number).status, 201));
    is_problem(&create(7), 409, "too-many", "524288 shards");
}

#[test]
fn shards_are_listed_and_shown_and_bad_questions_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let _sds = Sds::register(&mdm, 1, 1);
    assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "a", "size_bytes": 4096}"#)).status, 201);
    let listed = call(&mdm, "GET", "/api/v1/shards?limit=2&state=clean&pool=default&device=1", None);
    assert_eq!((listed.status, listed.body["shards"].as_array().map(Vec::len)), (200, Some(2)), "{listed:?}");
    assert_eq!(listed.body["more"], 4094);
    let shown = call(&mdm, "GET", "/api/v1/pools/default/shards/0", None);
    assert_eq!(shown.body, listed.body["shards"][0]);
    assert_eq!((&shown.body["state"], &shown.body["in_sync"][0]["state"]), (&json!("clean"), &json!("serves")));
    let force = "/api/v1/pools/default/shards/0/force";
    let cases = [
        ("GET", "/api/v1/shards?state=broken", None, 400, "bad-query", "broken"),
        ("GET", "/api/v1/shards?colour=1", None, 400, "bad-query", "colour"),
        ("GET", "/api/v1/shards?limit=0", None, 400, "bad-query", "1 to"),
        ("GET", "/api/v1/shards?device=-1", None, 400, "bad-query", ""),
        ("GET", "/api/v1/shards?pool=x", None, 400, "no-pool", "default"),
        ("GET", "/api/v1/shards?device=7", None, 404, "no-device", "7"),
        ("GET", "/api/v1/pools/default/shards/4096", None, 404, "no-shard", "4096"),
        ("GET", "/api/v1/pools/default/shards/x", None, 400, "invalid-name", ""),
        ("POST", force, Some("{}"), 400, "bad-body", "missing field `device`"),
        ("POST", force, Some(r#"{"device": 1, "colour": 1}"#), 400, "bad-body", "colour"),
        ("POST", force, Some(r#"{"device": 1}"#), 409, "not-forced", "serves already"),
        ("POST", force, Some(r#"{"device": 7}"#), 409, "not-forced", "does not serve"),
    ];
    for (method, path, body, status, kind, says) in cases {
        is_problem(&call(&mdm, method, path, body), status, kind, says);
    }
    assert_eq!(call(&mdm, "GET", "/api/v1/pools/default/shards/0", None).body, shown.body);
    assert_eq!(call(&mdm, "GET", "/api/v1/audit", None).body, json!({"audit": []}));
}

#[test]
fn a_pool_keeps_one_copy_or_two() {
    let directory = tempfile::tempdir().expect("a directory");
    let body = Some(r#"{"name": "pairs", "shards": 8, "copies": 2}"#);
    let mdm = start(directory.path());
    for copies in ["0", "3", "-1", "\"2\""] {
        let body = format!(r#"{{"name": "pairs", "copies": {copies}}}"#);
        is_problem(&call(&mdm, "POST", "/api/v1/pools", Some(&body)), 400, "bad-body", "");
    }
    assert_eq!(call(&mdm, "GET", "/api/v1/pools", None).body["pools"].as_array().map(Vec::len), Some(1));
    let made = call(&mdm, "POST", "/api/v1/pools", body);
    assert_eq!((made.status, &made.body["copies"]), (201, &json!(2)), "{made:?}");
    assert_eq!(made.body["losses"], json!({"alone": 0, "unflushed": 0, "forced": 0}));
}

#[test]
fn a_repeated_request_with_its_key_is_done_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let _sds = Sds::register(&mdm, 1, 1);
    let post = |body: &str| call_with(&mdm, "POST", "/api/v1/volumes", Some(body), &[("Idempotency-Key", "k-1")]);
    let first = post(r#"{"name": "a", "size_bytes": 4096}"#);
    let second = post(r#"{"name": "a", "size_bytes": 4096}"#);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.body, second.body);
    is_problem(&post(r#"{"name": "b", "size_bytes": 4096}"#), 422, "key-reused", r#""a""#);
}

#[test]
fn pools_are_made_and_listed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let made = call(&mdm, "POST", "/api/v1/pools", Some(r#"{"name": "fast", "shards": 16}"#));
    assert_eq!((made.status, &made.body["name"]), (201, &json!("fast")));
    is_problem(&call(&mdm, "POST", "/api/v1/pools", Some(r#"{"name": "fast"}"#)), 409, "pool-exists", "fast");
    is_problem(&call(&mdm, "POST", "/api/v1/pools", Some(r#"{"name": "x", "shards": 0}"#)), 400, "bad-shard-count", "65536");
    is_problem(&call(&mdm, "POST", "/api/v1/pools", Some(r#"{"name": "x", "copies": 3}"#)), 400, "bad-body", "1 or 2 copies");
    assert_eq!(made.body["copies"], 1);
    let pools = call(&mdm, "GET", "/api/v1/pools", None).body;
    let names: Vec<_> = pools["pools"].as_array().expect("a list").iter().map(|pool| pool["name"].clone()).collect();
    assert_eq!(names, ["default", "fast"]);
}

#[test]
fn the_status_shows_servers_devices_shards_and_sessions() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let mut first = Sds::register(&mdm, 1, 1);
    let mut second = Sds::register(&mdm, 2, 1);
    first.view();
    assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "one", "size_bytes": 4096}"#)).status, 201);
    first.view();
    second.view();
    let mut client = Client::hello(&mdm, 9);
    client.0.send(&sds_core::control::ClientToMdm::Open {
        request: 1,
        volume: "one".to_owned(),
        mode: sds_core::view::SessionMode::Exclusive,
        force: false,
    });
    let view = first.view();
    assert_eq!(view.volumes.expect("changed")[0].sessions.len(), 1);
    second.view();
    let opened = client.answer();
    assert!(matches!(opened, sds_core::control::MdmToClient::Opened { request: 1, result: Ok(_) }), "{opened:?}");
    let status = call(&mdm, "GET", "/api/v1/status", None).body;
    assert_eq!(status["alerts"], json!([]), "{status:#}");
    assert_eq!(status["mdm"][0]["role"], "primary");
    assert_eq!(status["mdm"][0]["api_address"], mdm.api_address().to_string());
    assert_eq!(status["sds"][0]["name"], "node-1");
    assert_eq!((&status["sds"][1]["state"], &status["sds"][1]["up_to_date"]), (&json!("up"), &json!(true)));
    assert_eq!(status["sds"][0]["devices"][0]["state"], json!({"is": "open"}));
    assert_eq!(status["pools"][0]["shards"], json!({"total": 4096, "clean": 4096, "degraded": 0, "rebuilding": 0, "unavailable": 0}));
    assert_eq!(status["pools"][0]["raw_bytes"], 2_u64 << 30);
    assert_eq!(status["volumes"][0]["sessions"][0]["mode"], "exclusive");
    assert_eq!(status["volumes"][0]["sessions"][0]["orphaned"], false);
    assert!(!status.to_string().contains("ticket"), "tickets are secret");
    let busy = call(&mdm, "DELETE", "/api/v1/volumes/one", None);
    is_problem(&busy, 409, "volume-open", "it is open by host/");
}
