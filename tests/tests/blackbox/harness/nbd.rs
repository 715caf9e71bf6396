//! A small NBD client of this test's own: it says exactly what it is told, right or wrong, and
//! tells exactly what it hears. Blocking, with a limit on every wait.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const FUA: u16 = 1;

/// How long anything may take to be answered, daemons restarting included.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a handshake came to.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The socket failed or ended.
    Lost(#[expect(dead_code, reason = "for failure messages")] io::Error),
    /// An error reply: type and text.
    Refused(u32, String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) size: u64,
    pub(crate) flags: u16,
}

impl Client {
    /// Up to the option phase.
    pub(crate) fn greet(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, size: 0, flags: 0 };
        let mut greeting = [0; 18];
        client.stream.read_exact(&mut greeting)?;
        assert_eq!(greeting[..16], *b"NBDMAGICIHAVEOPT");
        client.send(&3_u32.to_be_bytes())?;
        Ok(client)
    }

    /// Uses an export, with simple replies.
    pub(crate) fn open(address: &str, export: &str) -> Result<Self, Refusal> {
        let mut client = Self::greet(address)?;
        let name = u32::try_from(export.len()).expect("short").to_be_bytes();
        client.option(7, &[&name, export.as_bytes(), &[0, 0]].concat())?;
        loop {
            let (kind, body) = client.option_reply()?;
            match kind {
                1 => return Ok(client),
                3 if body[..2] == [0, 0] => {
                    client.size = u64::from_be_bytes(*body[2..].first_chunk().expect("a size"));
                    client.flags = u16::from_be_bytes([body[10], body[11]]);
                }
                3 => {}
                error => return Err(Refusal::Refused(error, String::from_utf8_lossy(&body).into_owned())),
            }
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn option(&mut self, option: u32, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.send(&[b"IHAVEOPT", &option.to_be_bytes()[..], &len, payload].concat())
    }

    /// Type and body of one option reply.
    pub(crate) fn option_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 20];
        self.stream.read_exact(&mut header)?;
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let mut body = vec![0; u32::from_be_bytes(*header[16..].first_chunk().expect("four")) as usize];
        self.stream.read_exact(&mut body)?;
        Ok((u32::from_be_bytes(*header[12..].first_chunk().expect("four")), body))
    }

    pub(crate) fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(28 + payload.len());
        bytes.extend(0x2560_9513_u32.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(payload);
        self.send(&bytes)
    }

    /// Cookie and error of the next simple reply; what follows it is read with [`Self::data`].
    pub(crate) fn reply(&mut self) -> io::Result<(u64, u32)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes(), "a simple reply");
        let error = u32::from_be_bytes(*header[4..].first_chunk().expect("four"));
        Ok((u64::from_be_bytes(*header[8..].first_chunk().expect("eight")), error))
    }

    pub(crate) fn data(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// One request, answered; its error.
    pub(crate) fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> io::Result<u32> {
        self.request(command, flags, 7, offset, len, payload)?;
        let (cookie, error) = self.reply()?;
        assert_eq!(cookie, 7);
        Ok(error)
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("short");
        assert_eq!(self.call(WRITE, 0, offset, len, bytes).expect("answered"), 0, "write at {offset}");
    }

    pub(crate) fn flush(&mut self) {
        assert_eq!(self.call(FLUSH, 0, 0, 0, &[]).expect("answered"), 0, "flush");
    }

    /// Bytes, or the error.
    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        match self.call(READ, 0, offset, len, &[]).expect("answered") {
            0 => Ok(self.data(len as usize).expect("data follows")),
            error => Err(error),
        }
    }

    /// From now on a write that takes longer fails.
    pub(crate) fn limit_writes(&mut self, time: Duration) {
        self.stream.set_write_timeout(Some(time)).expect("settable");
    }

    /// The same connection, for another thread.
    pub(crate) fn second_handle(&self) -> Self {
        Self { stream: self.stream.try_clone().expect("a second handle"), size: self.size, flags: self.flags }
    }

    /// Whether the server ends this connection within some seconds, whatever it says before.
    pub(crate) fn is_closed(&mut self, seconds: u64) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_secs(seconds))).expect("settable");
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}
