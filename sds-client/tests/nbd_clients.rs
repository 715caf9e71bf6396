//! The NBD connection machine behind a plain socket and a volume in memory, used by clients nobody
//! here wrote. Finds what the specification's reader misread, without a cluster.

use sds_client::nbd::{Connection, Effect, ExportError, ExportInfo, Limits, Out, Purpose, Want};
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::machine::Outbox;
use sds_core::stripe::Stripe;
use sds_core::volume::interface::{Outcome, Request};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const SIZE: usize = 64 << 20;

#[derive(Default)]
struct Heap {
    next: u32,
    live: BTreeMap<u32, Vec<u8>>,
}

impl Buffers for Heap {
    fn allocate(&mut self, _class: BufferClass, len: u32) -> Option<BufferId> {
        self.next += 1;
        self.live.insert(self.next, vec![0; len as usize]);
        Some(BufferId::new(self.next))
    }

    fn retain(&mut self, _buffer: BufferId) {
        unreachable!("one use each here");
    }

    fn release(&mut self, buffer: BufferId) {
        assert!(self.live.remove(&buffer.get()).is_some());
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.live[&span.buffer.get()][span.start as usize..(span.start + span.len) as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.live.get_mut(&span.buffer.get()).expect("live")[span.start as usize..(span.start + span.len) as usize]
    }
}

struct Volume {
    bytes: Vec<u8>,
    holds: Vec<bool>,
}

impl Volume {
    fn perform(&mut self, request: Request, heap: &mut Heap) -> Outcome {
        let at = |offset: u64, len: u64| usize::try_from(offset).expect("small")..usize::try_from(offset + len).expect("small");
        let blocks = |offset: u64, len: u64| at(offset / 4096, (offset + len).div_ceil(4096) - offset / 4096);
        match request {
            Request::Read { offset, len } => {
                let (offset, wide) = (offset.get(), u64::from(len));
                if self.holds[blocks(offset, wide)].iter().all(|holds| !holds) {
                    return Outcome::Zeroes;
                }
                let buffer = heap.allocate(BufferClass::Client, len).expect("unbounded");
                heap.bytes_mut(Span::whole(buffer, len)).copy_from_slice(&self.bytes[at(offset, wide)]);
                Outcome::Data(Span::whole(buffer, len))
            }
            Request::Write { offset, span, .. } => {
                let (offset, wide) = (offset.get(), u64::from(span.len));
                self.bytes[at(offset, wide)].copy_from_slice(heap.bytes(span));
                self.holds[blocks(offset, wide)].fill(true);
                heap.release(span.buffer);
                Outcome::Done
            }
            Request::Zero { offset, len, .. } => {
                self.bytes[at(offset.get(), len)].fill(0);
                self.holds[blocks(offset.get(), len)].fill(false);
                Outcome::Done
            }
            Request::Flush => Outcome::Done,
            Request::Status { offset, len } => {
                let mut bits = [0; 4];
                for (index, holds) in self.holds[blocks(offset.get(), u64::from(len))].iter().enumerate() {
                    bits[index / 64] |= u64::from(*holds) << (index % 64);
                }
                Outcome::Status(bits)
            }
        }
    }
}

/// A blocking shell for one connection, as the module's documentation describes one.
fn serve(mut socket: TcpStream, volume: &Mutex<Volume>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut connection, mut heap, mut out) = (Connection::new(1, Limits::default()), Heap::default(), Outbox::new());
    let (mut staging, mut staged, mut batch) = (vec![0; 64 << 10], 0, Vec::new());
    loop {
        // Whatever can move, moves.
        loop {
            let used = connection.receive(&staging[..staged], &mut heap, &mut out);
            staging.copy_within(used..staged, 0);
            staged -= used;
            let effects: Vec<_> = out.drain().collect();
            for effect in &effects {
                match effect {
                    Effect::ListExports => connection.listed(&[("disk".to_owned(), "in memory".to_owned())]),
                    Effect::OpenExport { name, purpose } => {
                        let used = connection.opened(open(name), &mut heap);
                        assert_eq!(used, *purpose == Purpose::Use && matches!(name.as_str(), "disk" | ""));
                    }
                    Effect::Request { token, request } => {
                        let outcome = volume.lock().expect("no panics").perform(*request, &mut heap);
                        connection.complete(*token, Ok(outcome), &mut heap, &mut out);
                    }
                }
            }
            connection.take_output(&mut batch);
            let sent = batch.len();
            for segment in batch.drain(..) {
                match segment {
                    Out::Header(header) => socket.write_all(header.as_slice())?,
                    Out::Data(span) => {
                        socket.write_all(heap.bytes(span))?;
                        heap.release(span.buffer);
                    }
                    Out::Zeroes(count) => socket.write_all(&vec![0; count as usize])?,
                }
            }
            if used == 0 && effects.is_empty() && sent == 0 {
                break;
            }
        }
        let count = match connection.want() {
            Want::Staging => socket.read(&mut staging[staged..])?,
            Want::InPlace(span) => {
                let count = socket.read(heap.bytes_mut(span))?;
                connection.received_in_place(u32::try_from(count).expect("small"), &mut heap, &mut out);
                if count == 0 {
                    return Ok(());
                }
                continue;
            }
            Want::Nothing => unreachable!("everything completes at once here"),
            Want::Close => {
                assert!(connection.is_idle() && heap.live.is_empty(), "nothing is left behind");
                return Ok(());
            }
        };
        if count == 0 {
            connection.disconnect(&mut heap);
            assert!(heap.live.is_empty(), "nothing is left behind");
            return Ok(());
        }
        staged += count;
    }
}

fn open(name: &str) -> Result<ExportInfo, ExportError> {
    match name {
        "disk" | "" => Ok(ExportInfo {
            name: "disk".to_owned(),
            description: "in memory".to_owned(),
            size: SIZE as u64,
            read_only: false,
            stripe: Stripe::default(),
        }),
        other => Err(ExportError::Unknown(format!("no volume is named {other:?}"))),
    }
}

/// Serves a fresh volume until the test process ends; its address.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let volume = Arc::new(Mutex::new(Volume { bytes: vec![0; SIZE], holds: vec![false; SIZE / 4096] }));
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let volume = Arc::clone(&volume);
            std::thread::spawn(move || serve(socket, &volume));
        }
    });
    address
}

fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("this test cannot run: {shown}: {error}; ci/install installs what is missing"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {text}");
    text
}

#[test]
fn nbdinfo_reads_every_kind_of_answer() {
    let address = server();
    let text = run(Command::new("nbdinfo").arg(format!("nbd://{address}/disk")));
    for expected in [
        "export-size: 67108864",
        "structured packets",
        "base:allocation",
        "can_multi_conn: true",
        "can_fast_zero: true",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let text = run(Command::new("nbdinfo").args(["--list", &format!("nbd://{address}")]));
    assert!(text.contains("export=\"disk\"") && text.contains("in memory"), "{text}");
    let text = run(Command::new("nbdinfo").args(["--map", &format!("nbd://{address}/")]));
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "67108864", "3", "hole,zero"]);
    // qemu is the client that shows the server's words.
    let unknown = Command::new("qemu-img").arg("info").arg(format!("nbd://{address}/other")).output().expect("runs");
    let text = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && text.contains("no volume is named \"other\""), "{text}");
}

#[test]
fn qemu_io_reads_what_it_wrote_at_any_alignment() {
    let uri = format!("nbd://{}/disk", server());
    let io = |commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-t", "none"]);
        for text in commands {
            command.args(["-c", text]);
        }
        let text = run(command.arg(&uri));
        assert!(!text.contains("fail") && !text.contains("error"), "{text}");
    };
    io(&["write -P 1 0 3M", "write -P 2 130000 3000", "write -z 8192 8192", "write -z -u 200001 77", "discard 512k 512k", "flush"]);
    io(&[
        "read -P 1 0 8k",
        "read -P 0 8k 8k",
        "read -P 1 16k 113616",
        "read -P 2 130000 3000",
        "read -P 0 200001 77",
        "read -P 0 512k 512k",
    ]);
    io(&["aio_write -P 3 4M 2M", "aio_write -f -P 4 8M 4k", "aio_flush", "read -P 3 4M 2M", "read -P 4 8M 4k", "read -P 0 60M 4M"]);
}

#[test]
fn nbdcopy_copies_in_and_out() {
    let uri = format!("nbd://{}/disk", server());
    let dir = tempfile::tempdir().expect("a directory");
    let (image, back) = (dir.path().join("in"), dir.path().join("out"));
    let bytes: Vec<u8> =
        (0..SIZE as u64).map(|at| if at >> 20 & 1 == 0 { 0 } else { ((at * 2_654_435_761) >> 13).to_le_bytes()[0] }).collect();
    std::fs::write(&image, &bytes).expect("written");
    run(Command::new("nbdcopy").args(["--connections=4", "--flush"]).arg(&image).arg(&uri));
    for more in [&["--connections=4"][..], &["--synchronous", "--no-extents"], &["--request-size=8388608", "--no-extents"]] {
        run(Command::new("nbdcopy").args(more).arg(&uri).arg(&back));
        assert!(std::fs::read(&back).expect("copied") == bytes, "{more:?}");
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let uri = format!("nbd://{}/disk", server());
    for load in [
        &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=4", "--size=8m", "--offset_increment=16m"][..],
        &["--rw=write", "--bs=1m", "--iodepth=32", "--size=64m", "--fsync=8"],
        &["--rw=randwrite", "--bsrange=512-300k", "--bs_unaligned=1", "--iodepth=8", "--size=32m"],
    ] {
        let mut command = Command::new("fio");
        command
            .args([
                "--name=v",
                "--ioengine=nbd",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--verify_state_save=0",
                &format!("--uri={uri}"),
            ])
            .args(load);
        let text = run(&mut command);
        assert!(text.contains("err= 0"), "{text}");
    }
}
