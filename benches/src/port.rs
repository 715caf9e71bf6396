//! Ports on loopback for daemons that are told theirs before they start.
//!
//! What it keeps true: a port that was handed out is handed out by nobody else on this machine, in this process or
//! another, until the process that asked has ended; and the kernel does not give it to an outgoing connection.
//! Asking the kernel for a free port and letting go of it promises neither: under load it came back as another
//! daemon's port, or as one end of a connection.

use std::fs::read_to_string;
use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use parking_lot::Mutex;

use crate::error::BenchError;

/// How many ports below the kernel's own range are tried.
const SPAN: u16 = 20_000;
/// Below this only system services listen.
const LOWEST: u16 = 1024;
/// Where they are taken from when the kernel's own range leaves no room below it.
const ANYWHERE: Range<u16> = 10_000..30_000;
/// The kernel's own range: two numbers. Source: ip(7).
const OWN_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What says that a port is taken: names of the network namespace, gone with the process.
static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port on loopback that nobody listens on and that is this process's until it ends.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16, BenchError> {
    let range = range(&read_to_string(OWN_RANGE).unwrap_or_default());
    let (first, ports) = (range.start, u32::from(range.end - range.start));
    // Processes begin at places of their own: fewer tries, and a port is not soon used again.
    let begin = std::process::id().wrapping_mul(61);
    let candidates = (0..ports).map(|offset| begin.wrapping_add(offset) % ports);
    let mut candidates = candidates.filter_map(|offset| Some(first + u16::try_from(offset).ok()?));
    candidates.find(|&port| take(port)).ok_or_else(|| {
        let cause = std::io::Error::new(std::io::ErrorKind::AddrInUse, format!("none of {ports} is free"));
        BenchError::file("find a port in", format!("127.0.0.1:{}-{}", range.start, range.end))(cause)
    })
}

/// The ports to choose from, given the kernel's own range.
fn range(own: &str) -> Range<u16> {
    let lowest: Option<u16> = own.split_whitespace().next().and_then(|number| number.parse().ok());
    match lowest {
        Some(lowest) if lowest > 2 * LOWEST => LOWEST.max(lowest.saturating_sub(SPAN))..lowest,
        _ => ANYWHERE,
    }
}

/// Whether `port` is free; then it is taken.
fn take(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("sds-port-{port}")).and_then(|name| UnixListener::bind_addr(&name));
    let Ok(name) = name else { return false };
    let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
    if free {
        TAKEN.lock().push(name);
    }
    free
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_port_is_handed_out_once() {
        let ports: BTreeSet<u16> = (0..200).map(|_| free_port().expect("a port")).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|&port| !take(port)), "what was handed out is taken");
    }

    #[test]
    fn what_is_listened_on_is_not_free() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listens");
        assert!(!take(listener.local_addr().expect("bound").port()));
    }

    #[test]
    fn ports_are_not_the_kernels_own() {
        assert_eq!(range("32768\t60999\n"), 12_768..32_768);
        assert_eq!(range("15000 60999"), 1024..15_000);
        assert_eq!(range("1024 65535"), ANYWHERE);
        assert_eq!(range(""), ANYWHERE);
    }
}
