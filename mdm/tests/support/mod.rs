//! A running MDM, and parties that speak to it over real sockets.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use mdm::{Mdm, MdmConfig};
use sds_core::codec::{LENGTH_BYTES, decode, encode_framed, framed_length};
use sds_core::control::{
    CONTROL_VERSION, Capacity, ClientToMdm, DeviceReport, DeviceState, FaultCounts, MdmToClient, MdmToSds, SdsToMdm, Speaker,
};
use sds_core::id::{ClientId, DeviceUuid, MapVersion, SdsUuid, ShardSequence, SystemId, Ticket};
use sds_core::unit::ByteCount;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// An MDM on free ports with its data in this directory.
pub fn start(directory: &Path) -> Mdm {
    Mdm::start(config(directory)).expect("starts")
}

pub fn config(directory: &Path) -> MdmConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    MdmConfig { control: any, api: any, snapshot_entries: 8, ..MdmConfig::new(directory.join("mdm")) }
}

/// A control connection.
pub struct Connection(pub TcpStream);

impl Connection {
    pub fn raw(mdm: &Mdm) -> Self {
        let stream = TcpStream::connect(mdm.control_address()).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
        Self(stream)
    }

    pub fn new(mdm: &Mdm, speaker: Speaker) -> Self {
        let mut connection = Self::raw(mdm);
        connection.0.write_all(&speaker.preamble()).expect("sends");
        connection
    }

    pub fn send(&mut self, message: &impl Serialize) {
        self.0.write_all(&encode_framed(message).expect("encodes")).expect("sends");
    }

    pub fn receive<T: DeserializeOwned>(&mut self) -> T {
        let mut length = [0; LENGTH_BYTES];
        self.0.read_exact(&mut length).expect("a length");
        let mut body = vec![0; framed_length(length).expect("believable")];
        self.0.read_exact(&mut body).expect("a body");
        decode(&body).expect("decodes")
    }

    /// Waits until the other side has closed.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn device(uuid: u128, state: DeviceState) -> DeviceReport {
    DeviceReport {
        uuid: DeviceUuid::new(uuid),
        path: format!("/data/{uuid}"),
        pool: "default".to_owned(),
        state,
        capacity: Capacity { total: ByteCount::new(1 << 30), ..Capacity::default() },
        sequence_ceiling: ShardSequence::default(),
        flushed: sds_core::id::LogSequence::default(),
        log_end: sds_core::id::LogSequence::default(),
        cache: sds_core::id::BootId::default(),
        faults: FaultCounts::default(),
        recent_faults: Vec::new(),
    }
}

/// A registered data server.
pub struct Sds {
    pub connection: Connection,
    pub version: MapVersion,
}

impl Sds {
    pub fn register(mdm: &Mdm, sds: u128, life: u128) -> Self {
        let mut connection = Connection::new(mdm, Speaker::Sds);
        connection.send(&SdsToMdm::Register {
            version: CONTROL_VERSION,
            sds: SdsUuid::new(sds),
            system: SystemId::default(),
            name: format!("node-{sds}"),
            addresses: vec![format!("127.0.0.1:{}", 20_000 + sds)],
            fault_set: format!("node-{sds}"),
            life,
            devices: vec![device(sds, DeviceState::Open)],
        });
        let answer: MdmToSds = connection.receive();
        assert!(matches!(answer, MdmToSds::Registered { .. }), "{answer:?}");
        let mut this = Self { connection, version: MapVersion::default() };
        this.view();
        this
    }

    /// Takes the next view and confirms it.
    pub fn view(&mut self) -> sds_core::view::ViewUpdate {
        let message = self.connection.receive();
        let MdmToSds::View(view) = message else { panic!("{message:?}") };
        assert!(view.version > self.version);
        self.version = view.version;
        self.connection.send(&SdsToMdm::Confirm { version: view.version });
        view
    }
}

/// A client that said hello and has the first view.
pub struct Client(pub Connection);

impl Client {
    pub fn hello(mdm: &Mdm, client: u128) -> Self {
        let mut connection = Connection::new(mdm, Speaker::Client);
        let (client, ticket) = (ClientId::new(client), Ticket::new(client));
        connection.send(&ClientToMdm::Hello { version: CONTROL_VERSION, client, ticket, name: format!("host/{client}") });
        let welcome: MdmToClient = connection.receive();
        assert!(matches!(welcome, MdmToClient::Welcome { .. }), "{welcome:?}");
        let view: MdmToClient = connection.receive();
        assert!(matches!(view, MdmToClient::View(_)), "{view:?}");
        Self(connection)
    }

    /// The next message that is no view.
    pub fn answer(&mut self) -> MdmToClient {
        loop {
            match self.0.receive() {
                MdmToClient::View(_) => {}
                other => return other,
            }
        }
    }
}

/// What the API said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub location: String,
    pub body: serde_json::Value,
}

pub fn call(mdm: &Mdm, method: &str, path: &str, body: Option<&str>) -> Answer {
    call_with(mdm, method, path, body, &[])
}

pub fn call_with(mdm: &Mdm, method: &str, path: &str, body: Option<&str>, headers: &[(&str, &str)]) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", mdm.api_address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = match body {
        Some(body) => agent.run(request.header("content-type", "application/json").body(body.to_owned()).expect("a request")),
        None => agent.run(request.body(()).expect("a request")),
    };
    let mut response = response.expect("an answer");
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (status, content_type, location) = (response.status().as_u16(), header("content-type"), header("location"));
    let text = response.body_mut().read_to_string().expect("a body");
    let body = if text.is_empty() { serde_json::Value::Null } else { serde_json::from_str(&text).expect("JSON") };
    Answer { status, content_type, location, body }
}
