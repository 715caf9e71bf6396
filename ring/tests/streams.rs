//! Raw streams: bytes, payloads straight into buffers, pauses.

mod common;

use common::{Seen, Shape, TestLoop, stamped};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_ring::{Closed, Payload, Protocol};
use std::io::{Read, Write};
use std::net::TcpStream;

fn accept(test: &TestLoop) -> (TcpStream, sds_ring::StreamId) {
    let address = test.node().listen("127.0.0.1:0", Protocol::Raw);
    let socket = TcpStream::connect(address.to_string()).expect("connects");
    match test.node().next() {
        Seen::Accepted(stream) => (socket, stream),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_come_and_go() {
    let test = TestLoop::one();
    let (mut socket, stream) = accept(&test);
    socket.write_all(b"hello").expect("sent");
    assert_eq!(test.node().next(), Seen::Bytes(stream, b"hello".to_vec()));
    test.node().run(move |cx| {
        let buffer = cx.pool().allocate(BufferClass::Client, 4096).expect("a buffer");
        let span = Span::whole(buffer, 4096);
        common::fill(cx.pool().bytes_mut(span), 3);
        cx.send(stream, b"head", Payload::Span(span));
        cx.send(stream, b"zero", Payload::Zeroes(300_000));
        cx.send(stream, b"tail", Payload::None);
    });
    let mut bytes = vec![1; 4 + 4096 + 4 + 300_000 + 4];
    socket.read_exact(&mut bytes).expect("read");
    assert_eq!(&bytes[..4], b"head");
    assert_eq!(&bytes[4..4100], stamped(4096, 3));
    assert_eq!(&bytes[4100..4104], b"zero");
    assert!(bytes[4104..304_104].iter().all(|byte| *byte == 0));
    assert_eq!(&bytes[304_104..], b"tail");
    test.node().wait_for_used_bytes(0);
    test.node().run(move |cx| cx.close(stream));
    assert_eq!(test.node().next(), Seen::StreamClosed(stream, None));
    assert_eq!(socket.read(&mut [0; 4]).expect("closed in order"), 0);
}

#[test]
fn payloads_land_where_they_are_asked_for_in_however_many_pieces_they_come() {
    for len in [1_u32, 4096, 65_535, 65_536, 100_000] {
        let test = TestLoop::new(Shape { payload: Some(len), ..Shape::default() });
        let (mut socket, stream) = accept(&test);
        let bytes = stamped(len as usize, u64::from(len));
        for chunk in bytes.chunks((len as usize / 7).max(1)) {
            socket.write_all(chunk).expect("sent");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        match test.node().next() {
            Seen::Received(from, span, received) => {
                assert_eq!((from, span.start, span.len), (stream, 512, len));
                assert!(received == bytes, "{len} bytes arrive as sent");
            }
            other => panic!("{other:?}"),
        }
        drop(socket);
        assert_eq!(test.node().next(), Seen::StreamClosed(stream, Some(Closed::Peer)));
        test.node().wait_for_used_bytes(0);
    }
}

#[test]
fn a_payload_goes_into_a_span_that_its_owner_chose() {
    let test = TestLoop::one();
    let (mut socket, stream) = accept(&test);
    let (offset, len) = (4096, 100_000);
    let span = test.node().run(move |cx| {
        let buffer = cx.pool().allocate(BufferClass::Client, 128 << 10).expect("a buffer");
        let span = Span { buffer, start: offset, len };
        assert_eq!(cx.receive_into(stream, span), None, "nothing has come");
        span
    });
    let bytes = stamped(len as usize, 5);
    for chunk in bytes.chunks(len as usize / 3) {
        socket.write_all(chunk).expect("sent");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(test.node().next(), Seen::Received(stream, span, bytes));
    // A second one, whose stream ends before its bytes have come, gives its use back.
    test.node().run(move |cx| {
        let buffer = cx.pool().allocate(BufferClass::Client, 128 << 10).expect("a buffer");
        cx.receive_into(stream, Span { buffer, start: 0, len });
    });
    socket.write_all(&[1; 1000]).expect("sent");
    drop(socket);
    assert_eq!(test.node().next(), Seen::StreamClosed(stream, Some(Closed::Peer)));
    test.node().wait_for_used_bytes(0);
}

#[test]
fn a_paused_stream_says_nothing_until_it_goes_on() {
    let test = TestLoop::one();
    let (mut socket, stream) = accept(&test);
    test.node().run(move |cx| cx.pause(stream, true));
    socket.write_all(b"later").expect("sent");
    test.node().assert_quiet();
    test.node().run(move |cx| cx.pause(stream, false));
    assert_eq!(test.node().next(), Seen::Bytes(stream, b"later".to_vec()));
}

#[test]
fn a_stream_whose_owner_ignores_the_pause_is_closed() {
    let test = TestLoop::one();
    let (_socket, stream) = accept(&test);
    test.node().run(move |cx| {
        for _ in 0..600 {
            cx.send(stream, b"", Payload::Zeroes(131_072));
        }
    });
    assert_eq!(test.node().next(), Seen::StreamClosed(stream, Some(Closed::Overrun)));
}

#[test]
fn what_was_queued_before_a_close_still_arrives() {
    let test = TestLoop::one();
    let (mut socket, stream) = accept(&test);
    test.node().run(move |cx| {
        cx.send(stream, b"", Payload::Zeroes(8 << 20));
        cx.send(stream, b"end", Payload::None);
        cx.close(stream);
    });
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len(), (8 << 20) + 3);
    assert!(bytes.ends_with(b"end"));
}

#[test]
fn connections_beyond_the_limit_are_refused_and_come_back_later() {
    let test = TestLoop::one();
    let address = test.node().listen("127.0.0.1:0", Protocol::Raw).to_string();
    let sockets: Vec<TcpStream> = (0..1024).map(|_| TcpStream::connect(&address).expect("connects")).collect();
    for _ in 0..1024 {
        assert!(matches!(test.node().next(), Seen::Accepted(_)));
    }
    let mut refused = TcpStream::connect(&address).expect("the kernel connects");
    assert_eq!(refused.read(&mut [0; 1]).expect("closed in order"), 0);
    drop(sockets);
    for _ in 0..1024 {
        assert!(matches!(test.node().next(), Seen::StreamClosed(..)));
    }
    let _again = TcpStream::connect(&address).expect("connects");
    assert!(matches!(test.node().next(), Seen::Accepted(_)));
}
