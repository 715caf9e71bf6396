//! A whole data server in this process: how it starts, what it waits for, that it keeps what it acknowledged.

mod common;

use common::{Client, FakeMdm, all_open, config, directory, view};
use sds_core::control::{DeviceState, MdmToSds, SdsToMdm};
use sds_core::error::Status;
use sds_core::id::SystemId;
use sds_server::{Node, NodeError, NodeState};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

fn bytes(len: usize, stamp: u8) -> Vec<u8> {
    (0..len).map(|index| stamp ^ index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect()
}

#[test]
fn a_new_server_formats_once_the_system_is_known_and_keeps_what_it_acknowledged() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let node = Node::start(config(directory.path(), 2, &mdm)).expect("starts");
    let mut control = mdm.accept();
    // Both devices are blank: the server belongs to no system yet and has no device to show.
    let first = control.register(|_| true);
    assert_eq!(first.system, SystemId::default());
    assert!(first.devices.iter().all(|device| device.uuid.is_nil() && matches!(device.state, DeviceState::Opening { .. })));
    control.registered(&first);
    let open = control.register(all_open);
    assert_eq!(open.system, common::SYSTEM);
    assert!(open.devices.iter().all(|device| device.capacity.total.get() > 0));
    control.registered(&open);
    control.send(&MdmToSds::View(view(5, &open)));
    control.confirmed(5);
    let address = node.address().to_string();
    assert_eq!(open.addresses, vec![address.clone()]);
    let mut client = Client::hello(&address, 1, 5);
    for extent in 0..8 {
        assert_eq!(client.write(extent, 8192, &bytes(131_072, extent.to_le_bytes()[0])), Status::Ok);
        assert_eq!(client.write(extent, 4096 * 100, &bytes(4096, 200)), Status::Ok);
    }
    for extent in 0..8 {
        assert_eq!(client.read(extent, 8192, 131_072), Ok(bytes(131_072, extent.to_le_bytes()[0])));
        assert_eq!(client.read(extent, 0, 4096), Ok(vec![0; 4096]));
    }
    node.stop().expect("in order");
    loop {
        // A clean stop says goodbye.
        if matches!(control.receive(), SdsToMdm::Leaving) {
            break;
        }
    }
    drop(control);

    // The same server again: same identity, same devices, another life; the bytes are there.
    let node = Node::start(config(directory.path(), 2, &mdm)).expect("starts");
    let mut control = mdm.accept();
    let again = control.bring_up(6);
    assert_eq!((again.system, again.sds), (common::SYSTEM, open.sds));
    assert_ne!(again.life, open.life);
    let uuids = |registration: &common::Registration| registration.devices.iter().map(|device| device.uuid).collect::<Vec<_>>();
    assert_eq!(uuids(&again), uuids(&open));
    let mut client = Client::hello(&node.address().to_string(), 2, 6);
    for extent in 0..8 {
        assert_eq!(client.read(extent, 8192, 131_072), Ok(bytes(131_072, extent.to_le_bytes()[0])));
        assert_eq!(client.read(extent, 4096 * 100, 4096), Ok(bytes(4096, 200)));
    }
    node.stop().expect("in order");
}

#[test]
fn a_server_waits_for_its_mdm_and_says_so() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let mut wrong = config(directory.path(), 1, &mdm);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").to_string();
    wrong.mdm = vec![nobody.clone(), mdm.address()];
    let node = Node::start(wrong).expect("starts");
    // The second address is tried after the first; then the connection is lost, and made again.
    for _ in 0..2 {
        let mut control = mdm.accept();
        let registration = control.register(|_| true);
        control.registered(&registration);
        if !all_open(&registration) {
            control.register(all_open);
        }
    }
    let mut state = node.state();
    let end = Instant::now() + common::WAIT;
    while !matches!(&*state.borrow_and_update(), NodeState::Waiting { reason } if reason.contains("127.0.0.1")) {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    node.stop().expect("in order");
}

#[test]
fn heartbeats_come_twice_a_second_with_turns_that_go_on() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let node = Node::start(config(directory.path(), 1, &mdm)).expect("starts");
    let mut control = mdm.accept();
    control.bring_up(1);
    let mut beats = Vec::new();
    while beats.len() < 4 {
        if let SdsToMdm::Heartbeat { loop_turns, oldest_disk_request_ms, devices } = control.receive() {
            assert!(oldest_disk_request_ms < 1000);
            assert_eq!(devices.len(), 1);
            beats.push((Instant::now(), loop_turns));
        }
    }
    let (first, last) = (beats[0], beats[3]);
    assert!(last.1 > first.1, "{beats:?}");
    let span = last.0 - first.0;
    assert!(span > Duration::from_millis(1200) && span < Duration::from_millis(3000), "{span:?}");
    node.stop().expect("in order");
}

#[test]
fn a_refused_server_keeps_trying_and_names_the_reason() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let node = Node::start(config(directory.path(), 0, &mdm)).expect("starts");
    let mut control = mdm.accept();
    control.register(|_| true);
    control.send(&MdmToSds::Refused { reason: "not of this system".to_owned() });
    while control.try_receive().is_ok() {}
    assert!(matches!(&*node.state().borrow(), NodeState::Waiting { .. }));
    let mut control = mdm.accept();
    control.register(|_| true);
    node.stop().expect("in order");
}

#[test]
fn a_device_that_cannot_be_used_is_reported_and_the_others_serve() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let mut config = config(directory.path(), 2, &mdm);
    config.devices[1].size = None;
    let node = Node::start(config).expect("starts");
    let mut control = mdm.accept();
    let first = control.register(|_| true);
    control.registered(&first);
    let done = control.register(|registration| registration.devices[0].state == DeviceState::Open);
    match &done.devices[1].state {
        DeviceState::Failed { reason } => assert!(reason.contains("no such device"), "{reason}"),
        other => panic!("{other:?}"),
    }
    node.stop().expect("in order");
}

#[test]
fn garbage_and_half_frames_on_the_data_port_harm_nobody() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let node = Node::start(config(directory.path(), 1, &mdm)).expect("starts");
    let mut control = mdm.accept();
    control.bring_up(1);
    let address = node.address().to_string();
    let mut good = Client::hello(&address, 1, 1);
    assert_eq!(good.write(0, 0, &bytes(4096, 1)), Status::Ok);
    let mut bad = Client::silent(&address, 9, 1);
    bad.stream().write_all(b"POST / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(bad.stream().read(&mut [0; 16]).expect("closed"), 0);
    // A frame before the hello.
    let mut early = Client::silent(&address, 9, 1);
    early.begin_read(0, 0, 4096);
    while early.stream().read(&mut [0; 512]).is_ok_and(|count| count > 0) {}
    // Half a write, and gone.
    let mut half = Client::hello(&address, 2, 1);
    let header = half.header(sds_core::wire::Opcode::Write, 0, 0, 131_072);
    let span = sds_core::buffer::Span::whole(sds_core::buffer::BufferId::new(0), 131_072);
    let data = bytes(131_072, 3);
    let frame = sds_core::wire::Frame::with_payload(header, span, sds_core::checksum::ChecksumList::of_blocks(&data));
    half.send(&frame, &data[..70_000]);
    drop(half);
    std::thread::sleep(Duration::from_millis(100));
    let mut again = Client::hello(&address, 3, 1);
    assert_eq!(again.read(0, 0, 4096), Ok(bytes(4096, 1)));
    node.stop().expect("in order");
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_others_are_served() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let mut config = config(directory.path(), 1, &mdm);
    config.memory = sds_server::Size::new(128 << 20);
    let node = Node::start(config).expect("starts");
    let mut control = mdm.accept();
    control.bring_up(1);
    let address = node.address().to_string();
    let mut deaf = Client::hello(&address, 1, 1);
    assert_eq!(deaf.write(0, 0, &bytes(131_072, 1)), Status::Ok);
    deaf.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("set");
    let mut asked = 0;
    // 10,000 reads of 128 KiB are 1.2 GiB of answers; the server stops taking requests long before.
    while asked < 10_000 {
        let header = deaf.header(sds_core::wire::Opcode::Read, 0, 0, 131_072);
        let mut head = [0; sds_core::wire::HEAD_BYTES_MAX];
        let len = sds_core::wire::encode_head(&sds_core::wire::Frame::bare(header), &mut head);
        if deaf.stream().write_all(&head[..len]).is_err() {
            break;
        }
        asked += 1;
    }
    let resident = std::fs::read_to_string("/proc/self/statm").expect("linux");
    let pages: u64 = resident.split_whitespace().nth(1).expect("a field").parse().expect("a number");
    assert!(pages * 4096 < 700 << 20, "{pages} pages are resident");
    drop(deaf);
    let mut good = Client::hello(&address, 2, 1);
    assert_eq!(good.read(0, 0, 131_072), Ok(bytes(131_072, 1)));
    node.stop().expect("in order");
}

#[test]
fn two_servers_do_not_share_a_state_directory_or_a_port() {
    let (directory, other, mdm) = (directory(), directory(), FakeMdm::new());
    let node = Node::start(config(directory.path(), 0, &mdm)).expect("starts");
    let error = Node::start(config(directory.path(), 0, &mdm)).expect_err("in use");
    assert!(matches!(error, NodeError::Identity(_)), "{error}");
    let mut taken = config(other.path(), 0, &mdm);
    taken.listen = node.address().clone();
    let error = Node::start(taken).expect_err("taken");
    assert!(error.to_string().contains(&node.address().to_string()), "{error}");
    node.stop().expect("in order");
}
