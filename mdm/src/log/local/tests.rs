//! The log on a real file: order, durability over restarts, cutting, and every way it can be unusable.

use super::*;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn next(log: &mut LocalLog) -> LogEvent {
    tokio::time::timeout(Duration::from_secs(20), log.next()).await.expect("in time")
}

/// Proposes entries `first..first + count` and waits for all of them.
async fn write(log: &mut LocalLog, first: u64, count: u64) -> Vec<LogIndex> {
    for number in first..first + count {
        log.propose(ProposalId::new(number), number.to_le_bytes().to_vec()).expect("there is room");
    }
    let mut indices = Vec::new();
    while indices.len() < usize::try_from(count).expect("small") {
        match next(log).await {
            LogEvent::Committed { index, proposal, entry } => {
                let number = first + indices.len() as u64;
                assert_eq!((proposal, entry), (Some(ProposalId::new(number)), number.to_le_bytes().to_vec()));
                indices.push(index);
            }
            LogEvent::Leadership(Leadership::Leader) => {}
            other => panic!("{other:?}"),
        }
    }
    indices
}

#[test]
fn nobody_else_can_read_what_proves_who_clients_are() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("new").join("data");
    let _opened = LocalLog::open(&data).expect("opens");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in std::fs::read_dir(&data).expect("lists") {
        assert_eq!(mode(&file.expect("a file").path()), 0o600);
    }
}

#[test]
fn entries_come_back_in_order_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("not/yet/there");
    runtime().block_on(async {
        let (mut log, recovered) = LocalLog::open(&data).expect("opens");
        assert_eq!(recovered, Recovered::default());
        assert_eq!(next(&mut log).await, LogEvent::Leadership(Leadership::Leader));
        assert_eq!(write(&mut log, 1, 50).await.last(), Some(&LogIndex(50)));
        log.barrier().wait().await.expect("leads");
        log.close().await;
        let (mut log, recovered) = LocalLog::open(&data).expect("opens again");
        let numbers: Vec<u64> = recovered.entries.iter().map(|(index, _)| index.0).collect();
        assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
        assert_eq!(recovered.entries[9].1, 10_u64.to_le_bytes());
        assert_eq!(write(&mut log, 51, 1).await, [LogIndex(51)]);
        log.close().await;
    });
}

#[test]
fn what_was_told_survives_the_end_of_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut log, _) = LocalLog::open(directory.path()).expect("opens");
        write(&mut log, 1, 7).await;
        // As the file is at this moment, without any orderly end.
        std::fs::copy(directory.path().join(FILE_NAME), copy.path().join(FILE_NAME)).expect("copies");
        log.close().await;
        let (log, recovered) = LocalLog::open(copy.path()).expect("opens");
        assert_eq!(recovered.entries.len(), 7);
        log.close().await;
    });
}

#[test]
fn a_snapshot_takes_the_place_of_entries() {
    let directory = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut log, _) = LocalLog::open(directory.path()).expect("opens");
        write(&mut log, 1, 10).await;
        log.cut(LogIndex(8), b"state at 8".to_vec());
        write(&mut log, 11, 1).await;
        log.close().await;
        let (mut log, recovered) = LocalLog::open(directory.path()).expect("opens again");
        assert_eq!(recovered.snapshot, Some((LogIndex(8), b"state at 8".to_vec())));
        let numbers: Vec<u64> = recovered.entries.iter().map(|(index, _)| index.0).collect();
        assert_eq!(numbers, [9, 10, 11]);
        log.cut(LogIndex(11), b"state at 11".to_vec());
        log.close().await;
        let (mut log, recovered) = LocalLog::open(directory.path()).expect("opens again");
        assert_eq!((recovered.snapshot, recovered.entries.len()), (Some((LogIndex(11), b"state at 11".to_vec())), 0));
        assert_eq!(write(&mut log, 1, 1).await, [LogIndex(12)], "places go on after the snapshot");
        log.close().await;
    });
}

#[test]
fn the_file_stays_small_when_snapshots_are_made() {
    let directory = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut log, _) = LocalLog::open(directory.path()).expect("opens");
        let mut sizes = Vec::new();
        for round in 0..40_u64 {
            for number in 0..64 {
                log.propose(ProposalId::new(number), vec![7; 8192]).expect("there is room");
            }
            let mut told = 0;
            while told < 64 {
                told += u64::from(matches!(next(&mut log).await, LogEvent::Committed { .. }));
            }
            log.cut(LogIndex((round + 1) * 64), vec![1; 1000]);
            sizes.push(std::fs::metadata(directory.path().join(FILE_NAME)).expect("there").len());
        }
        // 20 MiB of entries went through it.
        assert!(sizes[39] <= sizes[5].max(4 << 20), "{sizes:?}");
        log.close().await;
    });
}

#[test]
fn more_proposals_than_allowed_are_not_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut log, _) = LocalLog::open(directory.path()).expect("opens");
        for number in 0..PROPOSALS_MAX as u64 {
            log.propose(ProposalId::new(number), vec![1]).expect("there is room");
        }
        assert_eq!(log.propose(ProposalId::new(0), vec![1]), Err(ProposeError::Full));
        log.close().await;
    });
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _) = LocalLog::open(directory.path()).expect("opens");
    let error = LocalLog::open(directory.path()).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    runtime().block_on(log.close());
    LocalLog::open(directory.path()).expect("free again");
}

/// Opens the database of a log that is not running and changes it.
fn tamper(directory: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(directory.join(FILE_NAME)).expect("opens");
    let transaction = database.begin_write().expect("begins");
    change(&transaction);
    transaction.commit().expect("commits");
}

fn with_three_entries() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut log, _) = LocalLog::open(directory.path()).expect("opens");
        write(&mut log, 1, 3).await;
        log.close().await;
    });
    directory
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let directory = with_three_entries();
    tamper(directory.path(), |transaction| {
        let mut meta = transaction.open_table(META).expect("opens");
        meta.insert("format", 7_u32.to_le_bytes().as_slice()).expect("inserts");
    });
    let error = LocalLog::open(directory.path()).expect_err("newer");
    assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
    tamper(directory.path(), |transaction| {
        let mut meta = transaction.open_table(META).expect("opens");
        meta.insert("format", FORMAT_VERSION.to_le_bytes().as_slice()).expect("inserts");
    });
    assert_eq!(LocalLog::open(directory.path()).expect("opens").1.entries.len(), 3);
}

#[test]
fn damage_is_noticed_and_named() {
    let directory = with_three_entries();
    tamper(directory.path(), |transaction| {
        let mut log = transaction.open_table(LOG).expect("opens");
        let mut entry = log.get(2).expect("reads").expect("there").value().to_vec();
        entry[5] ^= 1;
        log.insert(2, entry.as_slice()).expect("inserts");
    });
    let error = LocalLog::open(directory.path()).expect_err("damaged").to_string();
    assert!(error.contains("entry 2 of its log does not match its checksum"), "{error}");
    tamper(directory.path(), |transaction| {
        transaction.open_table(LOG).expect("opens").remove(2).expect("removes");
    });
    let error = LocalLog::open(directory.path()).expect_err("damaged").to_string();
    assert!(error.contains("entry 2 is missing"), "{error}");
}

#[test]
fn another_file_is_not_overwritten() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE_NAME);
    let text = "somebody's notes\n".repeat(100);
    std::fs::write(&path, &text).expect("writes");
    LocalLog::open(directory.path()).expect_err("not a log");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), text);
}
