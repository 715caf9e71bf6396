//! Links of the data protocol: over TCP, over unix sockets, inside one loop.

mod common;

use common::{Node, Seen, Shape, TestLoop, send_write, stamped};
use sds_core::machine::LinkId;
use sds_core::wire::{Frame, Header, Opcode};
use sds_ring::{Closed, Protocol};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Connects the second node to the first; their two ends.
fn join(server: &Node, client: &Node, address: &str) -> (LinkId, LinkId) {
    let address = server.listen(address, Protocol::Frames);
    client.connect(&address, Protocol::Frames, 77);
    let there = server.linked();
    match client.next() {
        Seen::Linked(here, Some(77)) => (there, here),
        other => panic!("{other:?}"),
    }
}

fn frames_of_all_sizes(server: &Node, client: &Node, address: &str) {
    let (there, here) = join(server, client, address);
    for round in 0..20_u64 {
        for (index, len) in [4096_u32, 131_072, 8192, 65_536, 61_440, 4096].into_iter().enumerate() {
            let stamp = round * 10 + index as u64;
            client.run(move |cx| send_write(cx, here, len, stamp));
            let (link, frame, bytes) = server.frame();
            assert_eq!((link, frame.header.opcode, frame.header.request.get()), (there, Opcode::Write, stamp));
            assert!(bytes == stamped(len as usize, stamp), "{len} bytes arrive as sent");
        }
    }
    // Many of one turn arrive in order.
    client.run(move |cx| {
        for stamp in 0..16 {
            send_write(cx, here, if stamp % 3 == 0 { 131_072 } else { 4096 }, stamp);
            cx.send_frame(here, &Frame::bare(Header::new(Opcode::Flush)));
        }
    });
    for stamp in 0..16_u64 {
        let (_, frame, bytes) = server.frame();
        assert_eq!(frame.header.request.get(), stamp);
        assert!(bytes == stamped(bytes.len(), stamp));
        assert_eq!(server.frame().1.header.opcode, Opcode::Flush);
    }
    server.run(move |cx| cx.close_link(there));
    assert_eq!(server.unlinked(), (there, None));
    assert_eq!(client.unlinked(), (here, Some(Closed::Peer)));
    server.wait_for_used_bytes(0);
    client.wait_for_used_bytes(0);
}

#[test]
fn frames_cross_tcp_whole_and_in_order() {
    let (server, client) = (TestLoop::one(), TestLoop::one());
    frames_of_all_sizes(server.node(), client.node(), "127.0.0.1:0");
}

#[test]
fn frames_cross_tcp_without_optional_features() {
    let plain = Shape { optional: false, ..Shape::default() };
    let (server, client) = (TestLoop::new(plain), TestLoop::new(plain));
    frames_of_all_sizes(server.node(), client.node(), "127.0.0.1:0");
}

#[test]
fn frames_cross_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("unix:{}/sds.sock", directory.path().display());
    let (server, client) = (TestLoop::one(), TestLoop::one());
    frames_of_all_sizes(server.node(), client.node(), &address);
    drop((server, client));
    // The socket file of the loop that is gone does not stand in the way of the next.
    let (server, client) = (TestLoop::one(), TestLoop::one());
    frames_of_all_sizes(server.node(), client.node(), &address);
}

#[test]
fn frames_between_roles_of_one_loop_use_no_socket() {
    let test = TestLoop::new(Shape { roles: 2, ..Shape::default() });
    let (server, client) = (&test.nodes[0], &test.nodes[1]);
    frames_of_all_sizes(server, client, "127.0.0.1:0");
}

#[test]
fn an_address_that_was_announced_leads_to_the_role_of_the_same_loop() {
    let test = TestLoop::new(Shape { roles: 2, ..Shape::default() });
    let (server, client) = (&test.nodes[0], &test.nodes[1]);
    let elsewhere: sds_ring::Address = "10.255.255.1:9".parse().expect("an address");
    let told = elsewhere.clone();
    server.run(move |cx| cx.announce(told));
    client.connect(&elsewhere, Protocol::Frames, 1);
    let _ = (server.linked(), client.linked());
}

#[test]
fn garbage_closes_the_link_and_says_why() {
    let test = TestLoop::one();
    let node = test.node();
    let address = node.listen("127.0.0.1:0", Protocol::Frames);
    let mut socket = TcpStream::connect(address.to_string()).expect("connects");
    let link = node.linked();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    match node.unlinked() {
        (gone, Some(Closed::Frame(error))) => {
            assert_eq!(gone, link);
            assert!(error.to_string().contains("not a frame"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(socket.read(&mut [0; 16]).ok().unwrap_or(0), 0, "the socket is closed");
}

#[test]
fn a_half_sent_frame_holds_nothing_once_its_sender_is_gone() {
    let (server, client) = (TestLoop::one(), TestLoop::one());
    let address = server.node().listen("127.0.0.1:0", Protocol::Frames);
    // Learn the bytes of a large frame by sending one to a plain socket.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let plain = sds_ring::Address::Tcp(listener.local_addr().expect("bound"));
    client.node().connect(&plain, Protocol::Frames, 1);
    let (mut recorder, _) = listener.accept().expect("accepts");
    let here = client.node().linked();
    client.node().run(move |cx| send_write(cx, here, 131_072, 5));
    let mut bytes = vec![0; 131_072];
    recorder.read_exact(&mut bytes).expect("read");
    // Half of it, and only its head, and less than that.
    for part in [70_000, 300, 50, 4] {
        let mut socket = TcpStream::connect(address.to_string()).expect("connects");
        let link = server.node().linked();
        socket.write_all(&bytes[..part]).expect("sent");
        server.node().assert_quiet();
        drop(socket);
        assert_eq!(server.node().unlinked(), (link, Some(Closed::Peer)));
        server.node().wait_for_used_bytes(0);
    }
}

#[test]
fn nobody_listening_is_told_soon() {
    let test = TestLoop::one();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = sds_ring::Address::Tcp(listener.local_addr().expect("bound"));
    drop(listener);
    test.node().connect(&address, Protocol::Frames, 9);
    assert_eq!(test.node().next(), Seen::ConnectFailed(9, Closed::Error { errno: libc::ECONNREFUSED }));
    test.node().run(|cx| cx.connect(Protocol::Frames, 10, Vec::new()));
    assert_eq!(test.node().next(), Seen::ConnectFailed(10, Closed::NoAnswer));
}

#[test]
fn the_next_address_is_tried() {
    let (server, client) = (TestLoop::one(), TestLoop::one());
    let good = server.node().listen("127.0.0.1:0", Protocol::Frames);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let bad = sds_ring::Address::Tcp(listener.local_addr().expect("bound"));
    drop(listener);
    client.node().run(move |cx| cx.connect(Protocol::Frames, 3, vec![bad, good]));
    let _ = server.node().linked();
    assert!(matches!(client.node().next(), Seen::Linked(_, Some(3))));
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_and_costs_bounded_memory() {
    let test = TestLoop::new(Shape { pool_bytes: 64 << 20, ..Shape::default() });
    let node = test.node();
    let address = node.listen("127.0.0.1:0", Protocol::Frames);
    let mut socket = TcpStream::connect(address.to_string()).expect("connects");
    let link = node.linked();
    // Until the role is told to pause and nothing moves any more: what the kernel takes and what is queued.
    let mut sent = 0_u64;
    loop {
        let pause = node.run(move |cx| {
            send_write(cx, link, 131_072, sent);
            cx.wants_pause(link)
        });
        sent += 1;
        assert!(sent < 400, "a pause is asked for before the memory is gone");
        if pause && node.try_next().is_err() {
            break;
        }
    }
    // It reads again: the role may go on.
    let mut sink = vec![0; 1 << 20];
    let mut left = usize::try_from(sent).expect("small") * 131_072;
    while left > 0 {
        let count = socket.read(&mut sink).expect("reads");
        left = left.saturating_sub(count);
    }
    assert_eq!(node.next(), Seen::LinkWritable(link));
}

#[test]
fn frames_wait_for_buffers_and_go_on_when_some_are_freed() {
    let server = TestLoop::new(Shape { hoard: true, pool_bytes: 4 << 20, ..Shape::default() });
    let client = TestLoop::new(Shape { pool_bytes: 32 << 20, ..Shape::default() });
    let (_, here) = join(server.node(), client.node(), "127.0.0.1:0");
    client.node().run(move |cx| {
        for stamp in 0..40 {
            send_write(cx, here, 131_072, stamp);
        }
    });
    let mut held = Vec::new();
    // The server keeps every buffer: it stops at its budget for clients.
    while let Ok(Seen::Frame(_, frame, _)) = server.node().try_next() {
        held.push(frame);
    }
    assert!(!held.is_empty() && held.len() < 16, "{} of 16 large buffers are for clients", held.len());
    // Each one given back lets another in, until all have come.
    while held.len() < 40 {
        let give = held[held.len() - 1];
        server.node().run(move |cx| {
            use sds_core::buffer::Buffers;
            if let sds_core::wire::Body::Payload { span, .. } = give.body {
                cx.pool().release(span.buffer);
            }
        });
        loop {
            match server.node().next() {
                Seen::Buffers => {}
                Seen::Frame(_, frame, bytes) => {
                    assert!(bytes == stamped(131_072, frame.header.request.get()));
                    held.push(frame);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let order: Vec<u64> = held.iter().map(|frame| frame.header.request.get()).collect();
    assert_eq!(order, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_loop_that_ends_with_requests_in_flight_leaves_no_thread_behind() {
    let (server, client) = (TestLoop::one(), TestLoop::one());
    let (_, here) = join(server.node(), client.node(), "127.0.0.1:0");
    client.node().run(move |cx| {
        for stamp in 0..10 {
            send_write(cx, here, 131_072, stamp);
        }
    });
    client.stop();
    server.stop();
}

#[test]
fn a_role_that_ends_takes_its_listener_and_links_with_it() {
    let test = TestLoop::new(Shape { roles: 2, ..Shape::default() });
    let (server, client) = (&test.nodes[0], &test.nodes[1]);
    let address = server.listen("127.0.0.1:0", Protocol::Frames);
    client.connect(&address, Protocol::Frames, 1);
    let (_, here) = (server.linked(), client.linked());
    let mut socket = TcpStream::connect(address.to_string()).expect("connects");
    let _ = server.linked();
    server.end();
    assert_eq!(client.unlinked(), (here, Some(Closed::Peer)));
    assert_eq!(socket.read(&mut [0; 1]).expect("closed in order"), 0);
    // Refused, also by the way that needs no socket; the other role lives on.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(TcpStream::connect(address.to_string()).is_err());
    client.connect(&address, Protocol::Frames, 2);
    assert_eq!(client.next(), Seen::ConnectFailed(2, Closed::Error { errno: libc::ECONNREFUSED }));
}
