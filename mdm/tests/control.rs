//! The control server over real sockets: garbage, vanishing parties, parties that do not listen.

mod support;

use sds_core::control::{ClientToMdm, MdmToClient, MdmToSds, SdsToMdm, Speaker};
use sds_core::view::SessionMode;
use std::io::Write;
use std::time::{Duration, Instant};
use support::{Client, Connection, Sds, call, start};

#[test]
fn garbage_closes_its_connection_and_disturbs_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let mut sds = Sds::register(&mdm, 1, 1);
    let (sds_hello, client_hello) = (Speaker::Sds.preamble(), Speaker::Client.preamble());
    let message = |preamble: &[u8], length: u32, body: &[u8]| [preamble, &length.to_le_bytes(), body].concat();
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: mdm\r\n\r\n".to_vec(),
        vec![0xff; 100],
        message(&sds_hello, u32::MAX, b""),
        message(&sds_hello, 60 << 20, b"abc"),
        message(&client_hello, 100_000, b"abc"),
        message(&sds_hello, 3, &[250, 250, 250]),
        message(&client_hello, 3, &[99, 0, 0]),
        message(&sds_hello, 0, b""),
        // Well formed, but not the first thing to say.
        message(&client_hello, 1, &[5]),
    ];
    for bytes in &garbage {
        let mut connection = Connection::raw(&mdm);
        connection.0.write_all(bytes).expect("sends");
        assert!(connection.is_closed(), "{bytes:?}");
    }
    // Half a message, and gone.
    let mut half = Connection::raw(&mdm);
    half.0.write_all(&message(&sds_hello, 1000, b"abc")).expect("sends");
    drop(half);
    assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "one", "size_bytes": 4096}"#)).status, 201);
    assert_eq!(sds.view().volumes.expect("changed")[0].name, "one");
}

#[test]
fn a_refused_party_reads_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let _sds = Sds::register(&mdm, 1, 1);
    let mut other = Connection::new(&mdm, Speaker::Sds);
    other.send(&SdsToMdm::Register {
        version: 77,
        sds: sds_core::id::SdsUuid::new(2),
        system: sds_core::id::SystemId::default(),
        name: "node-2".to_owned(),
        addresses: vec!["127.0.0.1:1".to_owned()],
        fault_set: "node-2".to_owned(),
        life: 1,
        devices: Vec::new(),
    });
    let answer: MdmToSds = other.receive();
    assert!(matches!(&answer, MdmToSds::Refused { reason } if reason.contains("77")), "{answer:?}");
    assert!(other.is_closed());
}

#[test]
fn a_client_that_vanishes_keeps_its_session_and_gets_it_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let mut sds = Sds::register(&mdm, 1, 1);
    assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "one", "size_bytes": 4096}"#)).status, 201);
    sds.view();
    let open = ClientToMdm::Open { request: 1, volume: "one".to_owned(), mode: SessionMode::Exclusive, force: false };
    let mut generations = Vec::new();
    for _ in 0..2 {
        let mut client = Client::hello(&mdm, 9);
        client.0.send(&open);
        sds.view();
        match client.answer() {
            MdmToClient::Opened { result: Ok(opened), .. } => generations.push(opened.generation),
            other => panic!("{other:?}"),
        }
    }
    assert!(generations[1] > generations[0]);
    let mut other = Client::hello(&mdm, 10);
    other.0.send(&open);
    let answer = other.answer();
    assert!(
        matches!(&answer, MdmToClient::Opened { result: Err(error), .. } if error.to_string().contains("is open by host/")),
        "{answer:?}"
    );
    other.0.send(&ClientToMdm::List { request: 2 });
    let MdmToClient::Volumes { volumes, .. } = other.answer() else { panic!("a list") };
    assert!(volumes[0].busy.is_some());
}

#[test]
fn a_party_that_does_not_listen_is_disconnected_and_the_others_are_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let mut deaf = Client::hello(&mdm, 9);
    // It asks and never reads the answers, until its questions are refused.
    let question = sds_core::codec::encode_framed(&ClientToMdm::Pull { at_least: sds_core::id::MapVersion::default() }).expect("encodes");
    let many = question.repeat(1000);
    deaf.0.0.set_write_timeout(Some(Duration::from_millis(500))).expect("sets");
    let start = Instant::now();
    let mut ended = false;
    while start.elapsed() < Duration::from_secs(60) && !ended {
        ended = deaf.0.0.write_all(&many).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
    }
    assert!(ended, "it was never disconnected");
    assert_eq!(call(&mdm, "GET", "/api/v1/status", None).status, 200);
}
