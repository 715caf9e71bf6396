//! Disk requests through a real ring on a real file.
#![allow(clippy::cast_possible_truncation, reason = "test sizes are small")]

mod common;

use common::{Seen, Shape, TestLoop, fill};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::machine::DiskResult;
use sds_core::unit::ByteOffset;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

fn file(bytes: u64, read_only: bool) -> (tempfile::NamedTempFile, std::os::fd::OwnedFd) {
    let temp = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    temp.as_file().set_len(bytes).expect("room");
    let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_DIRECT).open(temp.path()).expect("opens");
    (temp, opened.into())
}

fn round_trip(optional: bool) {
    let test = TestLoop::new(Shape { optional, ..Shape::default() });
    let node = test.node();
    let (_temp, fd) = file(1 << 20, false);
    let disk = node.run(|cx| cx.add_disk(fd)).expect("room");
    for (index, len) in [4096_u32, 32_768, 131_072].into_iter().enumerate() {
        let stamp = index as u64;
        let offset = ByteOffset::new(stamp * 131_072);
        let span = node.run(move |cx| {
            let span = Span::whole(cx.pool().allocate(BufferClass::Internal, len).expect("a buffer"), len);
            fill(cx.pool().bytes_mut(span), stamp);
            cx.disk_write(disk, offset, span, index == 1, 10 + stamp);
            span
        });
        assert_eq!(node.next(), Seen::Disk(10 + stamp, DiskResult::Done));
        node.run(move |cx| cx.disk_flush(disk, 20 + stamp));
        assert_eq!(node.next(), Seen::Disk(20 + stamp, DiskResult::Done));
        node.run(move |cx| {
            cx.pool().bytes_mut(span).fill(0xee);
            cx.disk_read(disk, offset, span, 30 + stamp);
        });
        assert_eq!(node.next(), Seen::Disk(30 + stamp, DiskResult::Done));
        let same = node.run(move |cx| {
            let same = cx.pool().bytes(span) == common::stamped(len as usize, stamp);
            cx.pool().release(span.buffer);
            same
        });
        assert!(same, "{len} bytes come back as written");
    }
    assert_eq!(node.used_bytes(), 0);
    assert_eq!(node.status().oldest_disk_request().get(), 0);
}

#[test]
fn bytes_come_back_as_written() {
    round_trip(true);
}

#[test]
fn bytes_come_back_as_written_without_optional_features() {
    round_trip(false);
}

#[test]
fn a_read_past_the_end_is_short_and_a_write_to_a_read_only_file_an_error() {
    let test = TestLoop::one();
    let node = test.node();
    let (_temp, fd) = file(8192, true);
    let disk = node.run(|cx| cx.add_disk(fd)).expect("room");
    node.run(move |cx| {
        let span = Span::whole(cx.pool().allocate(BufferClass::Internal, 8192).expect("a buffer"), 8192);
        cx.disk_read(disk, ByteOffset::new(4096), span, 1);
    });
    assert_eq!(node.next(), Seen::Disk(1, DiskResult::Short { bytes: 4096 }));
    node.run(move |cx| {
        let span = Span::whole(cx.pool().allocate(BufferClass::Internal, 4096).expect("a buffer"), 4096);
        cx.disk_write(disk, ByteOffset::new(0), span, false, 2);
    });
    assert_eq!(node.next(), Seen::Disk(2, DiskResult::Error { errno: libc::EBADF }));
}

#[test]
fn a_buffer_released_by_its_machine_is_not_reused_before_the_request_has_ended() {
    let test = TestLoop::one();
    let node = test.node();
    let (_temp, fd) = file(1 << 20, false);
    let disk = node.run(|cx| cx.add_disk(fd)).expect("room");
    let reused = node.run(move |cx| {
        let buffer = cx.pool().allocate(BufferClass::Internal, 4096).expect("a buffer");
        cx.disk_write(disk, ByteOffset::new(0), Span::whole(buffer, 4096), false, 1);
        cx.pool().release(buffer);
        let next = cx.pool().allocate(BufferClass::Internal, 4096).expect("a buffer");
        cx.pool().release(next);
        next == buffer
    });
    assert!(!reused);
    assert_eq!(node.next(), Seen::Disk(1, DiskResult::Done));
    assert_eq!(node.used_bytes(), 0);
}

#[test]
fn many_requests_of_one_turn_all_end() {
    let test = TestLoop::one();
    let node = test.node();
    let (_temp, fd) = file(4 << 20, false);
    let disk = node.run(|cx| cx.add_disk(fd)).expect("room");
    node.run(move |cx| {
        let buffer = cx.pool().allocate(BufferClass::Internal, 4096).expect("a buffer");
        for tag in 0..1000 {
            cx.disk_write(disk, ByteOffset::new(tag * 4096), Span::whole(buffer, 4096), false, tag);
        }
        cx.pool().release(buffer);
    });
    let mut tags: Vec<u64> = (0..1000)
        .map(|_| match node.next() {
            Seen::Disk(tag, DiskResult::Done) => tag,
            other => panic!("{other:?}"),
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..1000).collect::<Vec<_>>());
    assert_eq!(node.used_bytes(), 0);
}
