//! What the MDM reads back from its disk: commands of its log and snapshots of its state.

use crate::memory::{CODEC, bounded};
use sds_core::cluster::{Change, Cluster, Command};
use sds_core::id::SystemId;

/// A command, and what applying it to a new system does.
pub fn command(data: &[u8]) {
    let Ok(command) = bounded(data, CODEC, || Command::decode(data)) else { return };
    match command.encode().map(|bytes| (bytes.len(), Command::decode(&bytes))) {
        Ok((length, Ok(again))) => assert!(length <= data.len() && again == command, "a command comes back"),
        Ok((_, Err(error))) => panic!("what was encoded does not decode: {error}"),
        Err(error) => panic!("what was decoded does not encode: {error}"),
    }
    let mut cluster = Cluster::default();
    let (made, _) = cluster.apply(&Command { unix_ms: 1, change: Change::Initialise { system: SystemId::new(1) } });
    assert!(made.is_ok());
    let before = cluster.clone();
    let (result, _) = cluster.apply(&command);
    assert!(result.is_ok() || cluster == before, "a refused command changes nothing");
    assert_eq!(cluster.fault(), None, "no command makes the state contradict itself");
}

/// A snapshot.
pub fn snapshot(data: &[u8]) {
    let Ok(cluster) = bounded(data, CODEC, || Cluster::decode(data)) else { return };
    assert_eq!(cluster.fault(), None);
    match cluster.encode().map(|bytes| (bytes.len(), Cluster::decode(&bytes))) {
        Ok((length, Ok(again))) => assert!(length <= data.len() && again == cluster, "a snapshot comes back"),
        Ok((_, Err(error))) => panic!("what was encoded does not decode: {error}"),
        Err(error) => panic!("what was decoded does not encode: {error}"),
    }
}
