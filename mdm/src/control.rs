//! The control server: connections of data servers and clients, framed messages both ways.
//!
//! Invariants: nothing is reserved for a length before it is believed; what is not a control connection
//! is closed with a line in the log, and disturbs nobody; a silent connection is closed; the number of
//! connections is bounded.
//! Must not know: what messages mean.

use crate::member::{Message, OUTGOING_MAX, Outgoing};
use sds_core::codec::{LENGTH_BYTES, decode, encode_framed, framed_length};
use sds_core::control::Speaker;
use sds_core::machine::LinkId;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Most connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// How long a connection may take to say what it is.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a party may be silent; it should send a heartbeat every 500 ms.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a party may take to accept a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closed connection waits for the other side to close as well, so that it reads what it was told last.
const LINGER: Duration = Duration::from_secs(1);
/// Largest message from a data server: the reports of all its devices.
const SDS_BYTES_MAX: usize = 4 << 20;
/// Largest message from a client.
const CLIENT_BYTES_MAX: usize = 64 << 10;
/// Memory kept for the next message.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the other side closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("its first bytes are not those of a data server or client; this is the MDM's control port, operators use the API's")]
    NotControl,
    #[error("{0}")]
    Codec(#[from] sds_core::codec::CodecError),
    #[error("it announced a message of {0} bytes, and {1} are allowed")]
    TooLarge(usize, usize),
    #[error("it said nothing for {0:?}")]
    Silent(Duration),
    #[error("it took no message for {0:?}")]
    Stuck(Duration),
    #[error("the MDM is stopping")]
    Stopping,
}

/// Accepts connections until its task is dropped.
pub(crate) async fn serve(listener: TcpListener, inputs: mpsc::Sender<Message>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    let mut links = 0;
    loop {
        if room.available_permits() == 0 {
            tracing::warn!(CONNECTIONS_MAX, "no more control connections are accepted until some end");
        }
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                links += 1;
                let (link, inputs) = (LinkId::new(links), inputs.clone());
                tasks.spawn(async move {
                    connection(link, stream, peer, inputs).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: waiting is all that helps.
                tracing::warn!(%error, "a control connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(link: LinkId, mut stream: TcpStream, peer: SocketAddr, inputs: mpsc::Sender<Message>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let speaker = match timeout(FIRST_TIMEOUT, first(&mut stream)).await {
        Ok(Ok(speaker)) => speaker,
        Ok(Err(reason)) => return tracing::warn!(%peer, %reason, "control connection closed"),
        Err(_) => return tracing::warn!(%peer, reason = %Ended::Silent(FIRST_TIMEOUT), "control connection closed"),
    };
    let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
    if inputs.send(Message::Linked { link, sender }).await.is_err() {
        return;
    }
    tracing::debug!(link = link.get(), %peer, ?speaker, "control connection");
    let (mut read, mut write) = stream.split();
    let ended = tokio::select! {
        ended = receive(link, speaker, &mut read, &inputs) => ended,
        ended = send(&mut write, outgoing) => ended,
    };
    match ended {
        Err(reason @ Ended::Closed) => tracing::debug!(link = link.get(), %peer, %reason, "control connection closed"),
        Err(reason) => tracing::warn!(link = link.get(), %peer, %reason, "control connection closed"),
        // We close it: the other side shall still read the reason, and a reset would take that from it.
        Ok(()) => {
            let _ = timeout(LINGER, async {
                let _ = write.shutdown().await;
                let mut rest = [0; 4096];
                while matches!(read.read(&mut rest).await, Ok(count) if count > 0) {}
            })
            .await;
        }
    }
    let _ = inputs.send(Message::Unlinked { link }).await;
}

async fn first(stream: &mut TcpStream) -> Result<Speaker, Ended> {
    let mut preamble = [0; Speaker::PREAMBLE_BYTES];
    match stream.read_exact(&mut preamble).await {
        Ok(_) => Speaker::from_preamble(preamble).ok_or(Ended::NotControl),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Ended::Closed),
        Err(error) => Err(error.into()),
    }
}

async fn receive(link: LinkId, speaker: Speaker, read: &mut (impl AsyncRead + Unpin), inputs: &mpsc::Sender<Message>) -> Result<(), Ended> {
    let mut body = Vec::new();
    loop {
        let message = match speaker {
            Speaker::Sds => Message::Sds { link, message: read_message(read, &mut body, SDS_BYTES_MAX).await? },
            Speaker::Client => Message::Client { link, message: read_message(read, &mut body, CLIENT_BYTES_MAX).await? },
        };
        inputs.send(message).await.map_err(|_| Ended::Stopping)?;
    }
}

async fn read_message<T: DeserializeOwned>(read: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>, max: usize) -> Result<T, Ended> {
    let whole = async {
        let mut length = [0; LENGTH_BYTES];
        match read.read_exact(&mut length).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(Ended::Closed),
            Err(error) => return Err(error.into()),
        }
        let length = framed_length(length)?;
        if length > max {
            return Err(Ended::TooLarge(length, max));
        }
        body.clear();
        body.shrink_to(BUFFER_BYTES_KEPT);
        // Grows with what arrives, not with what was announced.
        let got = (&mut *read).take(length as u64).read_to_end(body).await?;
        if got < length {
            return Err(Ended::Closed);
        }
        Ok(decode(body)?)
    };
    timeout(SILENCE_MAX, whole).await.map_err(|_| Ended::Silent(SILENCE_MAX))?
}

/// Sends until the queue's other end is dropped and all of it is out.
async fn send(write: &mut (impl AsyncWrite + Unpin), mut outgoing: mpsc::Receiver<Outgoing>) -> Result<(), Ended> {
    while let Some(message) = outgoing.recv().await {
        let bytes = match &message {
            Outgoing::Sds(message) => encode_framed(message)?,
            Outgoing::Client(message) => encode_framed(message)?,
        };
        timeout(SEND_TIMEOUT, write.write_all(&bytes)).await.map_err(|_| Ended::Stuck(SEND_TIMEOUT))??;
    }
    Ok(())
}
