//! Sockets: made, bound, connected and tuned. Nothing here waits.

use crate::address::Address;
use crate::role::Protocol;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const BACKLOG: i32 = 1024;

fn family(address: &Address) -> AddressFamily {
    match address {
        Address::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    }
}

fn make(address: &Address, flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family(address), SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

/// A listening socket, and the address it has (a port of 0 has become a real one).
pub(crate) fn listen(address: &Address) -> io::Result<(OwnedFd, Address)> {
    let fd = make(address, SocketFlags::empty())?;
    let bound = match address {
        Address::Tcp(tcp) => {
            sockopt::set_socket_reuseaddr(&fd, true)?;
            rustix::net::bind(&fd, tcp)?;
            rustix::net::listen(&fd, BACKLOG)?;
            Address::Tcp(rustix::net::getsockname(&fd)?.try_into().map_err(io::Error::from)?)
        }
        Address::Unix(path) => {
            let unix = SocketAddrUnix::new(path)?;
            if let Err(error) = rustix::net::bind(&fd, &unix) {
                if error != Errno::ADDRINUSE || !is_stale(path, &unix)? {
                    return Err(error.into());
                }
                std::fs::remove_file(path)?;
                rustix::net::bind(&fd, &unix)?;
            }
            rustix::net::listen(&fd, BACKLOG)?;
            address.clone()
        }
    };
    Ok((fd, bound))
}

/// Whether a socket file is left from a process that is gone. Never true for anything but a socket.
fn is_stale(path: &std::path::Path, address: &SocketAddrUnix) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    Ok(rustix::net::connect(&probe, address) == Err(Errno::CONNREFUSED))
}

/// Begins to connect; writable (or failed) when it has come through.
pub(crate) fn connect(address: &Address) -> io::Result<OwnedFd> {
    let fd = make(address, SocketFlags::NONBLOCK)?;
    let result = match address {
        Address::Tcp(tcp) => rustix::net::connect(&fd, tcp),
        Address::Unix(path) => rustix::net::connect(&fd, &SocketAddrUnix::new(path)?),
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// What became of a `connect`; the socket then waits in the ring instead of saying EAGAIN.
pub(crate) fn connected(fd: BorrowedFd<'_>, protocol: Protocol) -> Result<(), i32> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => return Err(error.raw_os_error()),
    }
    let flags = rustix::fs::fcntl_getfl(fd).map_err(Errno::raw_os_error)?;
    rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK).map_err(Errno::raw_os_error)?;
    tune(fd, protocol);
    Ok(())
}

/// How long a link's other end may take nothing at all: it always reads while it lives, so it does not.
const LINK_TIMEOUT_MS: u32 = 30_000;

/// No waiting for company: the loop gathers by itself. Keep-alive finds hosts that are gone. A link also
/// ends when its other end stops reading; a raw stream may be paused for as long as its user likes.
/// All of it fails on unix sockets, to no harm.
pub(crate) fn tune(fd: impl AsFd, protocol: Protocol) {
    let fd = fd.as_fd();
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepintvl(fd, Duration::from_secs(5));
    let _ = sockopt::set_tcp_keepcnt(fd, 4);
    match protocol {
        Protocol::Frames => {
            let _ = sockopt::set_tcp_user_timeout(fd, LINK_TIMEOUT_MS);
        }
        Protocol::Raw => {}
    }
}
