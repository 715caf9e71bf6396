//! Greeting and options.

use super::rig::{Rig, be32, export, info_payload, meta_payload, option_bytes};
use crate::nbd::{CloseReason, Effect, ExportError, Limits, Purpose, Want};

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const SHUTDOWN: u32 = 0x8000_0007;
const TOO_BIG: u32 = 0x8000_0009;

fn greeted() -> Rig {
    let mut rig = Rig::new(Limits::default());
    rig.greet(3);
    rig
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn go_with_structured_replies_gives_the_golden_transcript() {
    let mut rig = greeted();
    rig.send(&option_bytes(8, &[]));
    assert_eq!(hex(&rig.incoming), "0003e889045565a9000000080000000100000000");
    rig.incoming.clear();
    rig.send(&option_bytes(7, &info_payload("disk", &[3, 1, 2])));
    rig.open(export(1 << 20));
    let golden = [
        // NBD_INFO_EXPORT: 1 MiB; multi-conn, fast-zero, DF, write-zeroes, trim, FUA, flush, has-flags.
        "0003e889045565a900000007000000030000000c0000000000000010000009ed",
        // NBD_INFO_NAME.
        "0003e889045565a900000007000000030000000600016469736b",
        // NBD_INFO_DESCRIPTION.
        "0003e889045565a900000007000000030000000a00026120766f6c756d65",
        // NBD_INFO_BLOCK_SIZE: 1, 4096, 32 MiB.
        "0003e889045565a900000007000000030000000e0003000000010000100002000000",
        "0003e889045565a9000000070000000100000000",
    ];
    assert_eq!(hex(&rig.incoming), golden.concat());
    assert!(!rig.connection.is_in_handshake());
    assert_eq!(rig.connection.export().map(|export| export.name.as_str()), Some("disk"));
}

#[test]
fn export_name_gives_size_flags_and_zeroes_unless_declined() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let mut rig = Rig::new(Limits::default());
        rig.greet(flags);
        rig.send(&option_bytes(1, b"disk"));
        rig.open(export(1 << 20));
        assert_eq!(hex(&rig.incoming[..10]), "000000000010".to_owned() + "0000096d");
        assert_eq!(rig.incoming[10..], vec![0; zeroes]);
    }
}

#[test]
fn export_name_of_an_unusable_export_ends_the_connection() {
    let mut rig = greeted();
    rig.send(&option_bytes(1, b"nothing"));
    assert_eq!(rig.asked.pop_front(), Some(Effect::OpenExport { name: "nothing".to_owned(), purpose: Purpose::Use }));
    assert!(!rig.connection.opened(Err(ExportError::Unknown("no".to_owned())), &mut rig.pool));
    assert_eq!(rig.connection.want(), Want::Close);
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::ExportRefused));
}

#[test]
fn a_read_only_export_says_so() {
    let mut rig = greeted();
    rig.option(7, &info_payload("disk", &[]));
    rig.open(crate::nbd::ExportInfo { read_only: true, ..export(1 << 20) });
    let replies = rig.option_replies();
    assert_eq!(replies[0].body[10..], [0x09, 0x6f]);
}

#[test]
fn refused_exports_are_named_and_the_client_may_go_on() {
    let mut rig = greeted();
    for (error, kind) in [
        (ExportError::Unknown("no volume is named \"x\"".to_owned()), UNKNOWN),
        (ExportError::Refused("volume \"x\" is open by host-7 since noon".to_owned()), POLICY),
        (ExportError::Stopping("bye".to_owned()), SHUTDOWN),
    ] {
        for option in [6, 7] {
            assert!(rig.option(option, &info_payload("x", &[])).is_empty());
            assert_eq!(rig.connection.want(), Want::Nothing);
            assert!(rig.asked.pop_front().is_some());
            rig.connection.opened(Err(error.clone()), &mut rig.pool);
            rig.take_output();
            let replies = rig.option_replies();
            assert_eq!((replies[0].option, replies[0].kind), (option, kind));
            assert_eq!(replies[0].body, error.to_string().into_bytes());
            assert_eq!(rig.connection.want(), Want::Staging);
        }
    }
}

#[test]
fn info_describes_without_using_the_export() {
    let mut rig = greeted();
    rig.option(6, &info_payload("", &[]));
    assert_eq!(rig.asked.pop_front(), Some(Effect::OpenExport { name: String::new(), purpose: Purpose::Describe }));
    assert!(!rig.connection.opened(Ok(export(4096)), &mut rig.pool));
    rig.take_output();
    let replies = rig.option_replies();
    // The canonical name comes unasked, since it is not the one asked for.
    assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [3, 3, ACK]);
    assert_eq!(replies[1].body, b"\0\x01disk");
    assert!(rig.connection.is_in_handshake());
}

#[test]
fn list_names_every_export() {
    let mut rig = greeted();
    assert!(rig.option(3, &[]).is_empty());
    assert_eq!(rig.asked.pop_front(), Some(Effect::ListExports));
    rig.connection.listed(&[("a".to_owned(), "first".to_owned()), ("bb".to_owned(), String::new())]);
    rig.take_output();
    let replies = rig.option_replies();
    assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [2, 2, ACK]);
    assert_eq!(replies[0].body, b"\0\0\0\x01afirst");
    assert_eq!(replies[1].body, b"\0\0\0\x02bb");
    assert_eq!(rig.option(3, b"x")[0].kind, INVALID);
}

#[test]
fn abort_is_acknowledged_and_ends_the_connection() {
    for payload in [&b""[..], b"why not"] {
        let mut rig = greeted();
        assert_eq!(rig.option(2, payload)[0].kind, ACK);
        assert_eq!(rig.connection.want(), Want::Close);
        assert_eq!(rig.connection.close_reason(), Some(CloseReason::Finished));
    }
}

#[test]
fn unknown_options_and_tls_are_declined_with_their_payload_skipped() {
    let mut rig = greeted();
    for option in [4, 5, 11, 0, 0xffff_ffff] {
        let replies = rig.option(option, &[7; 100]);
        assert_eq!((replies.len(), replies[0].option, replies[0].kind), (1, option, UNSUP));
    }
    assert_eq!(rig.option(8, &[])[0].kind, ACK);
}

#[test]
fn too_long_and_malformed_options_are_refused_and_skipped() {
    let mut rig = greeted();
    assert_eq!(rig.option(7, &vec![0; 65_537])[0].kind, TOO_BIG);
    assert_eq!(rig.option(7, &info_payload(&"n".repeat(4097), &[]))[0].kind, TOO_BIG);
    assert_eq!(rig.option(8, b"x")[0].kind, INVALID);
    for payload in
        [&b""[..], b"\0\0\0\x05disk\0\0", b"\0\0\0\x04disk\0\x01", b"\0\0\0\x04disk\0\0\0", b"\xff\xff\xff\xff\0\0", b"\0\0\0\x01\xff\0\0"]
    {
        assert_eq!(rig.option(7, payload)[0].kind, INVALID, "{payload:?}");
    }
    assert_eq!(rig.option(7, &info_payload("a\0b", &[]))[0].kind, INVALID);
    assert!(rig.asked.is_empty());
}

#[test]
fn a_huge_option_is_skipped_without_being_kept() {
    let mut rig = greeted();
    let mut bytes = option_bytes(7, &[]);
    bytes[12..].copy_from_slice(&(100_u32 << 20).to_be_bytes());
    rig.send(&bytes);
    for _ in 0..100 {
        rig.send(&vec![0; 1 << 20]);
    }
    assert_eq!(rig.option_replies()[0].kind, TOO_BIG);
}

#[test]
fn metadata_contexts_need_structured_replies() {
    let mut rig = greeted();
    for option in [9, 10] {
        assert_eq!(rig.option(option, &meta_payload("disk", &["base:allocation"]))[0].kind, INVALID);
    }
    rig.option(8, &[]);
    let replies = rig.option(10, &meta_payload("disk", &["qemu:allocation-depth", "base:allocation"]));
    assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), [4, ACK]);
    assert_eq!(replies[0].body, b"\0\0\0\x01base:allocation");
    // `base:` is a wildcard for listing only; no query lists all and selects none.
    for (option, queries, found) in [
        (9, &["base:"][..], true),
        (9, &[], true),
        (9, &["base:nonsense"], false),
        (10, &["base:"], false),
        (10, &[], false),
        (10, &["x-other:thing"], false),
    ] {
        assert_eq!(rig.option(option, &meta_payload("disk", queries)).len(), usize::from(found) + 1, "{option} {queries:?}");
    }
    assert_eq!(rig.option(10, b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x7fbase")[0].kind, INVALID);
}

#[test]
fn block_status_is_negotiated_for_one_export_only() {
    for (asked, allowed) in [("disk", true), ("other", false)] {
        let mut rig = greeted();
        rig.option(8, &[]);
        rig.option(10, &meta_payload(asked, &["base:allocation"]));
        rig.option(7, &info_payload("disk", &[]));
        rig.open(export(1 << 20));
        rig.incoming.clear();
        rig.request(7, 0, 1, 0, 4096, &[]);
        rig.run();
        let crate::nbd::tests::rig::Reply::Chunk { kind, payload, .. } = rig.replies().remove(0) else { panic!("a chunk") };
        assert_eq!(kind == 5, allowed);
        assert!(allowed || be32(&payload) == 22);
    }
}

#[test]
fn a_failed_selection_of_contexts_replaces_the_one_before() {
    let mut rig = greeted();
    rig.option(8, &[]);
    rig.option(10, &meta_payload("disk", &["base:allocation"]));
    assert_eq!(rig.option(10, b"junk")[0].kind, INVALID);
    rig.option(7, &info_payload("disk", &[]));
    rig.open(export(1 << 20));
    rig.incoming.clear();
    rig.request(7, 0, 1, 0, 4096, &[]);
    assert_eq!(rig.error(), 22);
}

#[test]
fn what_is_not_the_protocol_ends_the_connection() {
    let mut rig = Rig::new(Limits::default());
    rig.greet(4);
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::UnknownClientFlags { flags: 4 }));
    let mut rig = greeted();
    rig.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::BadOptionMagic));
    assert_eq!(rig.connection.want(), Want::Close);
    // Old style clients never speak first; a name that is too long cannot be answered.
    let mut rig = greeted();
    rig.send(&option_bytes(1, &vec![b'n'; 65_537]));
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::ExportRefused));
}

#[test]
fn a_handshake_byte_by_byte_is_the_same_handshake() {
    let mut rig = Rig::new(Limits::default());
    rig.greet(3);
    let mut bytes = option_bytes(8, &[]);
    bytes.extend(option_bytes(7, &info_payload("disk", &[])));
    for byte in bytes {
        rig.send(&[byte]);
    }
    rig.open(export(1 << 20));
    assert_eq!(rig.option_replies().iter().map(|reply| reply.kind).collect::<Vec<_>>(), [ACK, 3, ACK]);
}

#[test]
fn a_stopping_server_declines_options_and_closes() {
    let mut rig = greeted();
    rig.send(&option_bytes(8, &[])[..10]);
    rig.connection.shut_down();
    rig.send(&option_bytes(8, &[])[10..]);
    assert_eq!(rig.option_replies()[0].kind, SHUTDOWN);
    assert_eq!(rig.connection.want(), Want::Close);
}

#[test]
fn requests_may_follow_go_in_the_same_segment() {
    let mut rig = greeted();
    let mut bytes = option_bytes(7, &info_payload("disk", &[]));
    bytes.extend(super::rig::request_bytes(3, 0, 9, 0, 0, &[]));
    rig.send(&bytes);
    assert_eq!(rig.backlog(), 28, "nothing is looked at while the answer is awaited");
    rig.open(export(1 << 20));
    rig.push();
    assert_eq!(rig.requests.len(), 1);
}
