//! The library against a cluster made of little, over sockets and within one loop.

mod common;

use bytes::Bytes;
use common::{FakeCluster, SIZE};
use sds_client::{Cluster, Error, OpenOptions, Stuck, Volume, WaitsFor};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn pattern(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| u8::try_from((at * 7 + seed * 13 + at / 251) % 251).expect("small") | 1).collect::<Vec<_>>().into()
}

/// Reads and writes of many shapes do what they do on a flat array.
async fn behaves_as_an_array(volume: &Volume) {
    let mut model = vec![0_u8; 4 << 20];
    let shapes = [(0, 4096), (100, 50), (4000, 200), (8192, 131_072), (65_000, 300_000), (1 << 20, 2 << 20), (3, 1), (131_071, 2)];
    for (seed, (offset, len)) in shapes.into_iter().enumerate() {
        let bytes = pattern(len, seed);
        model[offset..offset + len].copy_from_slice(&bytes);
        volume.write_at(offset as u64, bytes).await.expect("written");
    }
    for (offset, len) in [(50_000_usize, 30_000_usize), (4096, 4096), (1_500_000, 1), (2_000_000, 500_000)] {
        model[offset..offset + len].fill(0);
        volume.write_zeroes(offset as u64, len as u64).await.expect("zeroed");
    }
    let (first, end) = (2_600_000_usize.next_multiple_of(4096), 2_700_000 / 4096 * 4096);
    model[first..end].fill(0);
    volume.discard(2_600_000, 100_000).await.expect("discarded");
    for (offset, len) in [(0, 4 << 20), (1, 1), (4095, 2), (60_000, 400_000), (3 << 20, 1 << 20)] {
        let read = volume.read_at(offset as u64, len).await.expect("read");
        assert!(read == model[offset..offset + len], "{offset}+{len}");
    }
    assert!(volume.read_at(0, 0).await.expect("nothing is read").is_empty());
    volume.write_durably_at(SIZE - 1, Bytes::from_static(b"x")).await.expect("the last byte");
    volume.flush().await.expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_alignment_over_sockets() {
    let cluster = FakeCluster::remote(3).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    assert_eq!((volume.name(), volume.size()), ("demo", SIZE));
    timeout(PATIENCE, behaves_as_an_array(&volume)).await.expect("in time");
    assert!(cluster.stores.iter().all(|store| store.requests.load(Ordering::Relaxed) > 0), "every server has a share");
    volume.close().await.expect("closed");
    assert_eq!(cluster.mdm.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_alignment_within_one_loop() {
    let (_cluster, client) = FakeCluster::local(3, 16 << 20).await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    timeout(PATIENCE, behaves_as_an_array(&volume)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ranges_and_names_get_errors_that_say_so() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    assert!(matches!(client.open("nobody", OpenOptions::new()).await, Err(Error::NoVolume { name }) if name == "nobody"));
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1)] {
        assert!(matches!(volume.read_at(offset, len).await, Err(Error::PastEnd { size: SIZE, .. })));
        assert!(matches!(volume.write_at(offset, pattern(len, 1)).await, Err(Error::PastEnd { .. })));
        assert!(matches!(volume.discard(offset, len as u64).await, Err(Error::PastEnd { .. })));
    }
    let volumes = client.volumes().await.expect("listed");
    assert_eq!((volumes[0].name.as_str(), volumes[0].size, &volumes[0].busy), ("demo", SIZE, &None));
    drop(volume);
    let reader = async {
        // The close of the dropped handle is on its way.
        client.open("demo", OpenOptions::new().read_only()).await
    };
    let reader = reader.await.expect("opens for reading");
    assert!(matches!(reader.write_at(0, pattern(10, 1)).await, Err(Error::ReadOnly)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_client_is_told_who_has_it_and_can_take_it_over() {
    let cluster = FakeCluster::remote(1).await;
    let (first, second) = (cluster.client().await, cluster.client().await);
    let volume = first.open("demo", OpenOptions::new()).await.expect("opens");
    volume.write_at(0, pattern(5000, 1)).await.expect("written");
    match second.open("demo", OpenOptions::new()).await {
        Err(Error::Busy { name, holder, .. }) => {
            assert_eq!((name.as_str(), holder), ("demo", format!("{}:{}", hostname(), std::process::id())));
        }
        other => panic!("{other:?}"),
    }
    assert!(second.volumes().await.expect("listed")[0].busy.is_some());
    let taken = second.open("demo", OpenOptions::new().force()).await.expect("taken over");
    assert!(matches!(volume.write_at(0, pattern(10, 2)).await, Err(Error::Fenced)));
    assert_eq!(taken.read_at(0, 5000).await.expect("read"), pattern(5000, 1));
    assert!(matches!(volume.close().await, Err(Error::Fenced)));
}

/// Each has a session of its own: neither is fenced by the other, nor by its leaving.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_share_a_volume_and_an_exclusive_third_is_refused() {
    let cluster = FakeCluster::remote(1).await;
    let (first, second, third) = (cluster.client().await, cluster.client().await, cluster.client().await);
    let one = first.open("demo", OpenOptions::new().shared()).await.expect("opens");
    let two = second.open("demo", OpenOptions::new().shared()).await.expect("opens beside it");
    assert_eq!(cluster.mdm.sessions(), 2);
    one.write_at(0, pattern(4096, 1)).await.expect("written");
    two.write_at(4096, pattern(4096, 2)).await.expect("written");
    assert_eq!(two.read_at(0, 4096).await.expect("read"), pattern(4096, 1));
    assert_eq!(one.read_at(4096, 4096).await.expect("read"), pattern(4096, 2));
    assert!(matches!(third.open("demo", OpenOptions::new()).await, Err(Error::Busy { .. })));
    one.close().await.expect("closed");
    two.write_at(0, pattern(4096, 3)).await.expect("the other's leaving changes nothing");
    let taken = third.open("demo", OpenOptions::new().force()).await.expect("taken over");
    assert!(matches!(two.write_at(0, pattern(10, 4)).await, Err(Error::Fenced)));
    assert_eq!(taken.read_at(0, 4096).await.expect("read"), pattern(4096, 3));
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_server_that_is_away() {
    let mut cluster = FakeCluster::remote(2).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    volume.write_at(0, pattern(1 << 20, 1)).await.expect("written");
    cluster.stop_server(0);
    let waiting = tokio::spawn({
        let volume = volume.clone();
        async move {
            volume.write_at(1 << 20, pattern(1 << 20, 2)).await?;
            volume.flush().await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "half of the extents are on the server that is away");
    cluster.restart_server(0);
    timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect("written");
    assert_eq!(volume.read_at(1 << 20, 1 << 20).await.expect("read"), pattern(1 << 20, 2));
    assert_eq!(volume.read_at(0, 1 << 20).await.expect("read"), pattern(1 << 20, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_io_timeout_a_server_that_is_away_is_an_error_and_then_works_again() {
    let mut cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new().io_timeout(Duration::from_millis(1500))).await.expect("opens");
    volume.write_at(0, pattern(4096, 1)).await.expect("written");
    cluster.stop_server(0);
    let reading = tokio::spawn({
        let volume = volume.clone();
        async move { volume.read_at(0, 4096).await }
    });
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let status = client.status().await.expect("status");
    assert!(matches!(status.stuck[..], [Stuck { waits_for: WaitsFor::Server { .. }, .. }]), "{status:?}");
    let read = timeout(PATIENCE, reading).await.expect("in time").expect("no panic");
    assert!(matches!(read, Err(Error::TimedOut { offset: 0, len: 4096 })), "{read:?}");
    cluster.restart_server(0);
    let again = async {
        loop {
            match volume.read_at(0, 4096).await {
                Err(Error::TimedOut { .. }) => {}
                read => return read,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, again).await.expect("in time").expect("read"), pattern(4096, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_fit_a_small_memory() {
    let cluster = FakeCluster::remote(2).await;
    let client = Cluster::connect(cluster.config().memory(4 << 20)).await.expect("connects");
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..10_000_usize {
        let volume = volume.clone();
        tasks.spawn(async move { volume.write_at((index % 5000) as u64 * 8192, pattern(6000, index % 5000)).await });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic").expect("written");
        }
    };
    timeout(Duration::from_secs(60), all).await.expect("in time");
    let status = client.status().await.expect("runs");
    assert_eq!((status.requests, status.buffer_bytes.0), (0, 0), "{status:?}");
    assert!(status.buffer_bytes.1 <= 5 << 20);
    for index in [0, 17, 4999] {
        assert_eq!(volume.read_at(index as u64 * 8192, 6000).await.expect("read"), pattern(6000, index));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_future_leaves_nothing_behind() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    for _ in 0..2000 {
        // More often than there are permits.
        let _ = timeout(Duration::from_micros(1), volume.write_at(0, pattern(200_000, 1))).await;
        let _ = timeout(Duration::from_micros(1), volume.read_at(0, 200_000)).await;
    }
    timeout(PATIENCE, volume.write_at(0, pattern(200_000, 2))).await.expect("in time").expect("written");
    assert_eq!(volume.read_at(0, 200_000).await.expect("read"), pattern(200_000, 2));
    volume.flush().await.expect("flushed");
    let status = client.status().await.expect("runs");
    assert_eq!(status.buffer_bytes.0, 0, "{status:?}");
}

/// Whatever moment the caller gives up at, no session is left that nobody can close.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_is_given_up_holds_no_session() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    for micros in 0..400 {
        let _ = timeout(Duration::from_micros(micros * 10), client.open("demo", OpenOptions::new())).await;
    }
    let closed = async {
        while cluster.mdm.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("every session was given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_no_memory_holds_is_an_error() {
    let cluster = FakeCluster::remote(1).await;
    let volume = cluster.client().await.open("demo", OpenOptions::new()).await.expect("opens");
    let result = volume.read_at(0, usize::MAX >> 1).await;
    assert!(matches!(result, Err(Error::PastEnd { .. } | Error::NoMemory { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_flushes_and_gives_volumes_back() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    volume.flush().await.expect("flushed");
    let before = cluster.stores[0].flushes.load(Ordering::Relaxed);
    let write = tokio::spawn({
        let volume = volume.clone();
        async move { volume.write_at(0, pattern(4 << 20, 1)).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    timeout(PATIENCE, client.stop(Duration::from_secs(10))).await.expect("in time");
    assert!(matches!(write.await.expect("no panic"), Ok(()) | Err(Error::Stopped)));
    assert_eq!(cluster.mdm.sessions(), 0);
    assert!(cluster.stores[0].flushes.load(Ordering::Relaxed) >= before);
    assert!(matches!(volume.read_at(0, 1).await, Err(Error::Stopped)));
    assert!(matches!(client.volumes().await, Err(Error::Stopped)));
    client.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let mut cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let volume = client.open("demo", OpenOptions::new()).await.expect("opens");
    volume.write_at(0, pattern(10, 1)).await.expect("written");
    cluster.stop_server(0);
    let hanging = tokio::spawn(async move { volume.flush().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    timeout(PATIENCE, client.stop(Duration::from_millis(200))).await.expect("gives up");
    assert!(matches!(hanging.await.expect("no panic"), Err(Error::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_as_itself() {
    let cluster = FakeCluster::remote(1).await;
    let directory = tempfile::tempdir().expect("a directory");
    let config = cluster.config().state_dir(directory.path());
    let first = Cluster::connect(config.clone()).await.expect("connects");
    let volume = first.open("demo", OpenOptions::new()).await.expect("opens");
    volume.write_at(0, pattern(5000, 1)).await.expect("written");
    assert!(matches!(Cluster::connect(config.clone()).await, Err(Error::Identity(_))), "one process at a time");
    first.stop(PATIENCE).await;
    // The loop's thread lets go of the directory at its end.
    let mut second = Cluster::connect(config.clone()).await;
    for _ in 0..100 {
        if second.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        second = Cluster::connect(config.clone()).await;
    }
    let volume = second.expect("connects").open("demo", OpenOptions::new()).await.expect("opens");
    assert_eq!(volume.read_at(0, 5000).await.expect("read"), pattern(5000, 1));
}
