//! An MDM that grants what is asked; one pool of 64 shards, a device a server.

use sds_core::codec;
use sds_core::control::{ClientToMdm, MdmToClient, OpenError, Opened, Speaker, VolumeLine};
use sds_core::id::{
    ClientId, DeviceId, Epoch, Incarnation, MapVersion, PoolId, SdsId, SessionGeneration, ShardSequence, SystemId, TreeId, VolumeId,
};
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::stripe::Stripe;
use sds_core::unit::ByteCount;
use sds_core::view::{DeviceView, SdsView, SessionMode, SessionView, ViewUpdate, VolumeView};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const SHARDS: u32 = 64;

struct State {
    version: u64,
    generation: u64,
    servers: Vec<String>,
    sessions: Vec<(SessionView, String)>,
    size: u64,
}

#[derive(Clone)]
pub struct FakeMdm {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    address: String,
}

impl FakeMdm {
    pub async fn new(servers: usize, size: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("bound").to_string();
        let state = State { version: 1, generation: 0, servers: vec![String::new(); servers], sessions: vec![], size };
        let mdm = Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(1), address };
        let serving = mdm.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mdm = serving.clone();
                tokio::spawn(async move {
                    let mut preamble = [0; Speaker::PREAMBLE_BYTES];
                    stream.read_exact(&mut preamble).await.expect("a preamble");
                    assert_eq!(Speaker::from_preamble(preamble), Some(Speaker::Client));
                    mdm.converse(stream).await;
                });
            }
        });
        mdm
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().expect("not poisoned");
        state.version += 1;
        let result = change(&mut state);
        self.changed.send_replace(state.version);
        result
    }

    pub fn publish(&self, servers: Vec<String>) {
        self.change(|state| state.servers = servers);
    }

    pub fn sessions(&self) -> usize {
        self.state.lock().expect("not poisoned").sessions.len()
    }

    /// Whether a session of this generation may still work.
    pub fn allows(&self, generation: SessionGeneration) -> bool {
        self.state.lock().expect("not poisoned").sessions.iter().any(|(session, _)| session.generation == generation)
    }

    fn volume(state: &State, of: ClientId) -> VolumeView {
        VolumeView {
            id: VolumeId::new(1),
            name: "demo".into(),
            tree: TreeId::new(1),
            pool: PoolId::new(1),
            size: ByteCount::new(state.size),
            stripe: Stripe::default(),
            sessions: state.sessions.iter().map(|(session, _)| session.clone()).filter(|session| session.client == of).collect(),
        }
    }

    fn view(&self, of: ClientId) -> ViewUpdate {
        let state = self.state.lock().expect("not poisoned");
        let servers = u32::try_from(state.servers.len()).expect("few");
        let entry = |shard: u32| ShardEntry {
            epoch: Epoch::new(1),
            in_sync: InSync::sole(Member { device: DeviceId::new(shard % servers + 1), incarnation: Incarnation::new(1) }),
            first_sequence: ShardSequence::new(1),
            ..ShardEntry::default()
        };
        let device = |id: u32| DeviceView { id: DeviceId::new(id), sds: SdsId::new(id) };
        let sds =
            |(id, address): (u32, &String)| SdsView { id: SdsId::new(id), name: format!("sds{id}"), addresses: vec![address.clone()] };
        ViewUpdate {
            system: SystemId::new(1),
            version: MapVersion::new(state.version),
            pools: vec![ShardMap { pool: PoolId::new(1), shards: (0..SHARDS).map(entry).collect() }],
            volumes: Some(vec![Self::volume(&state, of)]),
            servers: Some(((1..=servers).map(device).collect(), (1..).zip(&state.servers).map(sds).collect())),
            deleted_trees: None,
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> Option<()> {
        let ClientToMdm::Hello { client, ticket, name, .. } = read(&mut stream).await? else { panic!("the first message is a hello") };
        write(&mut stream, &MdmToClient::Welcome { system: SystemId::new(1) }).await?;
        let mut changed = self.changed.subscribe();
        write(&mut stream, &MdmToClient::View(self.view(client))).await?;
        let (mut reader, mut writer) = stream.into_split();
        let (sender, mut messages) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(message) = read(&mut reader).await {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        loop {
            tokio::select! {
                _ = changed.changed() => write(&mut writer, &MdmToClient::View(self.view(client))).await?,
                message = messages.recv() => {
                    let answer = match message? {
                        ClientToMdm::Open { request, volume, mode, force } => {
                            let result = self.open(client, SessionView { client, ticket, generation: SessionGeneration::new(0), mode }, &name, &volume, force);
                            write(&mut writer, &MdmToClient::View(self.view(client))).await?;
                            MdmToClient::Opened { request, result }
                        }
                        ClientToMdm::Close { request, generation, .. } => {
                            self.change(|state| state.sessions.retain(|(session, _)| session.generation != generation));
                            MdmToClient::Closed { request }
                        }
                        ClientToMdm::List { request } => MdmToClient::Volumes { request, volumes: self.list(client) },
                        ClientToMdm::Pull { .. } => MdmToClient::View(self.view(client)),
                        ClientToMdm::Hello { .. } | ClientToMdm::Heartbeat => continue,
                    };
                    write(&mut writer, &answer).await?;
                }
            }
        }
    }

    fn open(&self, client: ClientId, mut session: SessionView, name: &str, volume: &str, force: bool) -> Result<Opened, OpenError> {
        if volume != "demo" {
            return Err(OpenError::NoVolume { name: volume.into() });
        }
        self.change(|state| {
            let in_the_way =
                |held: &SessionView| held.client != client && (session.mode, held.mode) != (SessionMode::Shared, SessionMode::Shared);
            if let Some((_, holder)) = state.sessions.iter().find(|(held, _)| in_the_way(held) && !force) {
                return Err(OpenError::Busy { name: volume.into(), holder: holder.clone(), since: "now".into() });
            }
            state.sessions.retain(|(held, _)| held.client != client && !in_the_way(held));
            state.generation += 1;
            session.generation = SessionGeneration::new(state.generation);
            let (generation, mode) = (session.generation, session.mode);
            state.sessions.push((session, name.to_owned()));
            Ok(Opened { volume: VolumeId::new(1), generation, mode, version: MapVersion::new(state.version) })
        })
    }

    fn list(&self, client: ClientId) -> Vec<VolumeLine> {
        let state = self.state.lock().expect("not poisoned");
        let busy = state.sessions.iter().find(|(session, _)| session.client != client).map(|(_, holder)| holder.clone());
        vec![VolumeLine { volume: Self::volume(&state, ClientId::new(0)), busy }]
    }
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<ClientToMdm> {
    let mut length = [0; codec::LENGTH_BYTES];
    stream.read_exact(&mut length).await.ok()?;
    let mut bytes = vec![0; codec::framed_length(length).expect("believable")];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(codec::decode(&bytes).expect("decodes"))
}

async fn write(stream: &mut (impl AsyncWriteExt + Unpin), message: &MdmToClient) -> Option<()> {
    stream.write_all(&codec::encode_framed(message).expect("encodes")).await.ok()
}
