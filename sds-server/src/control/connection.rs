//! The connection to the MDM: made again whenever it is lost, with growing pauses, and saying what it waits for.
//!
//! Invariant: one connection at a time; its messages arrive in order or not at all.

use sds_core::codec::{LENGTH_BYTES, decode, encode_framed, framed_length};
use sds_core::control::{MdmToSds, SdsToMdm, Speaker};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// Pause after the MDM has refused this server: only an operator changes that.
const PAUSE_REFUSED: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The same complaint is not logged more often.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);
/// How long what was sent may stay unacknowledged, in milliseconds (`TCP_USER_TIMEOUT`).
const SILENCE_MAX_MS: u32 = 10_000;

/// What the control task hears.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A connection is up.
    Up(Connection),
    /// It is gone, or could not be made.
    Down { reason: String },
    /// The MDM said something.
    Message(MdmToSds),
}

/// The sending half of a connection. Dropping it ends the connection.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    write: OwnedWriteHalf,
    ending: Arc<Ending>,
}

#[derive(Debug, Default)]
struct Ending {
    notify: Notify,
    refused: std::sync::atomic::AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ending.notify.notify_one();
    }
}

impl Connection {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The MDM does not want us: wait longer before the next try.
    pub(super) fn refuse(self) {
        self.ending.refused.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Sends a message; after an error the connection is of no more use.
    pub(super) async fn send(&mut self, message: &SdsToMdm) -> Result<(), String> {
        let bytes = encode_framed(message).map_err(|error| error.to_string())?;
        match timeout(SEND_TIMEOUT, self.write.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the MDM at {} takes no message within {SEND_TIMEOUT:?}", self.address)),
        }
    }
}

/// Keeps a connection to one of the addresses until the receiver is gone.
pub(super) fn keep(addresses: Vec<String>, out: Sender<Incoming>) {
    tokio::spawn(async move {
        let mut pause = PAUSE_FIRST;
        let mut complained: Option<(String, Instant)> = None;
        loop {
            for address in &addresses {
                let reason = match connect(address).await {
                    Ok((read, write)) => {
                        complained = None;
                        let ending = Arc::new(Ending::default());
                        let connection = Connection { address: address.clone(), write, ending: ending.clone() };
                        if out.send(Incoming::Up(connection)).await.is_err() {
                            return;
                        }
                        let heard = tokio::select! {
                            heard = receive(read, &out) => heard,
                            () = ending.notify.notified() => Heard { any: true, reason: "connection given up".to_owned() },
                        };
                        pause = if ending.refused.load(std::sync::atomic::Ordering::Relaxed) {
                            PAUSE_REFUSED
                        } else if heard.any {
                            PAUSE_FIRST
                        } else {
                            pause
                        };
                        heard.reason
                    }
                    Err(reason) => reason,
                };
                let repeated = complained.as_ref().is_some_and(|(last, when)| *last == reason && when.elapsed() < COMPLAIN_AGAIN);
                if !repeated {
                    tracing::warn!(mdm = address, reason, "waiting for the MDM");
                    complained = Some((reason.clone(), Instant::now()));
                }
                if out.send(Incoming::Down { reason: format!("{address}: {reason}") }).await.is_err() {
                    return;
                }
            }
            sleep(pause).await;
            pause = if pause >= PAUSE_LONGEST { PAUSE_LONGEST } else { (pause * 2).min(PAUSE_LONGEST) };
        }
    });
}

async fn connect(address: &str) -> Result<(OwnedReadHalf, OwnedWriteHalf), String> {
    let mut stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
    };
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    // Heartbeats go out twice a second: when nobody has acknowledged one for this long, the other side is gone.
    rustix::net::sockopt::set_tcp_user_timeout(&stream, SILENCE_MAX_MS).map_err(|error| error.to_string())?;
    stream.write_all(&Speaker::Sds.preamble()).await.map_err(|error| error.to_string())?;
    Ok(stream.into_split())
}

/// Why receiving ended, and whether anything was heard before.
struct Heard {
    any: bool,
    reason: String,
}

async fn receive(mut read: OwnedReadHalf, out: &Sender<Incoming>) -> Heard {
    let mut any = false;
    let mut body = Vec::new();
    loop {
        let message = match read_message(&mut read, &mut body).await {
            Ok(message) => message,
            Err(reason) => return Heard { any, reason },
        };
        any = true;
        if out.send(Incoming::Message(message)).await.is_err() {
            return Heard { any, reason: "stopping".to_owned() };
        }
    }
}

async fn read_message(read: &mut OwnedReadHalf, body: &mut Vec<u8>) -> Result<MdmToSds, String> {
    let mut length = [0; LENGTH_BYTES];
    read.read_exact(&mut length).await.map_err(|error| format!("connection lost: {error}"))?;
    let length = framed_length(length).map_err(|error| error.to_string())?;
    body.clear();
    // Grows with what arrives, not with what was announced.
    let got = read.take(length as u64).read_to_end(body).await.map_err(|error| format!("connection lost: {error}"))?;
    if got < length {
        return Err("connection lost: it ended inside a message".to_owned());
    }
    let message = decode(body).map_err(|error| error.to_string())?;
    // A large view's memory is not kept for the small ones that follow.
    body.shrink_to(64 << 10);
    Ok(message)
}
