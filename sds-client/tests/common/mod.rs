//! A cluster made of little: an MDM that grants what is asked, data servers that keep extents in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

mod mdm;
mod sds;

pub use mdm::FakeMdm;
pub use sds::{FakeSds, Store};

use sds_client::{Cluster, ClusterConfig};
use sds_ring::{Address, LoopOptions, LoopThread, PoolOptions, RingError};
use std::sync::Arc;

/// Data servers, an MDM, and the volume "demo".
pub struct FakeCluster {
    pub mdm: FakeMdm,
    pub stores: Vec<Arc<Store>>,
    threads: Vec<Option<(LoopThread, sds::Handle)>>,
    addresses: Vec<Address>,
}

pub const SIZE: u64 = 64 << 20;

fn options(bytes: usize) -> LoopOptions {
    LoopOptions { pool: PoolOptions { bytes, ..PoolOptions::default() }, ..LoopOptions::default() }
}

impl FakeCluster {
    /// Servers on loops of their own, reached over TCP.
    pub async fn remote(servers: usize) -> Self {
        let mut cluster = Self { mdm: FakeMdm::new(servers, SIZE).await, stores: vec![], threads: vec![], addresses: vec![] };
        for index in 0..servers {
            cluster.stores.push(Arc::new(Store::default()));
            cluster.threads.push(None);
            cluster.addresses.push("127.0.0.1:0".parse().expect("an address"));
            cluster.start_server(index);
        }
        cluster.publish();
        cluster
    }

    /// Servers and client on one loop.
    pub async fn local(servers: usize, memory: usize) -> (Self, Cluster) {
        let mut cluster = Self { mdm: FakeMdm::new(servers, SIZE).await, stores: vec![], threads: vec![], addresses: vec![] };
        for _ in 0..servers {
            cluster.stores.push(Arc::new(Store::default()));
        }
        let (stores, mdm) = (cluster.stores.clone(), cluster.mdm.clone());
        let (config, runtime) = (cluster.config(), tokio::runtime::Handle::current());
        let build = move |on: &mut sds_ring::Loop| {
            let mut addresses = Vec::new();
            for store in &stores {
                let (role, listening) = FakeSds::new("127.0.0.1:0".parse().expect("an address"), store.clone(), mdm.clone());
                on.add_role(|_| role)?;
                addresses.push(listening);
            }
            let client = Cluster::start_on(on, &config, &runtime)?;
            Ok::<_, sds_client::Error>((client, addresses))
        };
        let (thread, (client, listening)) = sds_ring::spawn("all", options(memory), build).expect("a loop");
        drop(thread);
        for handle in listening {
            cluster.addresses.push(handle.address());
        }
        cluster.publish();
        client.ready().await.expect("accepted");
        (cluster, client)
    }

    fn start_server(&mut self, index: usize) {
        let (role, handle) = FakeSds::new(self.addresses[index].clone(), self.stores[index].clone(), self.mdm.clone());
        let waker = handle.waker();
        let (thread, ()) = sds_ring::spawn("sds", options(64 << 20), move |on| {
            on.add_role(|made| {
                *waker.lock().expect("not poisoned") = Some(made);
                role
            })?;
            Ok::<_, RingError>(())
        })
        .expect("a loop");
        self.addresses[index] = handle.address();
        self.threads[index] = Some((thread, handle));
    }

    /// Ends a server; its bytes stay.
    pub fn stop_server(&mut self, index: usize) {
        let (thread, handle) = self.threads[index].take().expect("runs");
        handle.stop();
        thread.join().expect("ends in order");
    }

    /// Starts it again where it was.
    pub fn restart_server(&mut self, index: usize) {
        self.start_server(index);
    }

    fn publish(&self) {
        self.mdm.publish(self.addresses.iter().map(ToString::to_string).collect());
    }

    pub fn config(&self) -> ClusterConfig {
        ClusterConfig::new([self.mdm.address()]).memory(16 << 20)
    }

    pub async fn client(&self) -> Cluster {
        Cluster::connect(self.config()).await.expect("connects")
    }
}
