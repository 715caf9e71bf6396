//! Devices that cannot be used, each told apart; devices that can, made from nothing.

use super::*;
use crate::config::Size;
use sds_core::id::{BootId, DeviceUuid};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn directory() -> tempfile::TempDir {
    // /tmp may be a tmpfs, which takes no O_DIRECT.
    tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).expect("a directory")
}

fn config(path: &Path, size: Option<u64>) -> DeviceConfig {
    let mut config = DeviceConfig::file(path, Size::new(0));
    config.size = size.map(Size::new);
    config.allow_small_sectors = true;
    config
}

fn look(config: &DeviceConfig) -> Result<(OpenDevice, Content), DeviceError> {
    let device = open(config, &|| false)?;
    let content = judge(&device, config)?;
    Ok((device, content))
}

fn make(config: &DeviceConfig, system: u128) -> DeviceUuid {
    let (mut device, content) = look(config).expect("usable");
    assert_eq!(content, Content::Blank);
    write_once(&mut device, config, &mut |_| true).expect("room");
    format(&device, config, SystemId::new(system), BootId::new(1)).expect("formatted")
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(bytes, offset).expect("written");
    file.sync_all().expect("flushed");
}

#[test]
fn a_file_is_made_written_in_full_and_formatted() {
    let directory = directory();
    let config = config(&directory.path().join("disk"), Some(64 * MIB));
    let (mut device, content) = look(&config).expect("usable");
    assert_eq!(content, Content::Blank);
    let mut seen = Vec::new();
    write_once(&mut device, &config, &mut |done| {
        seen.push(done);
        true
    })
    .expect("room");
    assert_eq!(seen.last(), Some(&1000));
    assert!(seen.len() >= 16 && seen.is_sorted(), "{seen:?}");
    assert_eq!(device.bytes.get(), 64 * MIB);
    let stat = rustix::fs::fstat(&device.file).expect("there");
    assert!(stat.st_blocks.cast_unsigned() * 512 >= 64 * MIB, "every byte is on the medium");
    format(&device, &config, SystemId::new(7), BootId::new(1)).expect("formatted");
    drop(device);
    let (_, content) = look(&config).expect("usable");
    assert_eq!(content, Content::Ours(SystemId::new(7)));
}

#[test]
fn writing_that_was_cut_short_goes_on_where_it_stopped() {
    let directory = directory();
    let config = config(&directory.path().join("disk"), Some(64 * MIB));
    let (mut device, _) = look(&config).expect("usable");
    let cut = write_once(&mut device, &config, &mut |done| done < 500);
    assert!(matches!(cut, Err(DeviceError::Stopped { .. })));
    drop(device);
    let (mut device, content) = look(&config).expect("usable");
    assert_eq!((content, device.bytes.get()), (Content::Blank, 32 * MIB));
    let mut first = None;
    write_once(&mut device, &config, &mut |done| {
        first.get_or_insert(done);
        true
    })
    .expect("room");
    assert!(first.is_some_and(|first| first > 500));
}

#[test]
fn a_sparse_file_is_written_in_full() {
    let directory = directory();
    let path = directory.path().join("disk");
    fs::File::create(&path).expect("made").set_len(16 * MIB).expect("room");
    let config = config(&path, None);
    let (mut device, _) = look(&config).expect("usable");
    assert!(device.is_sparse);
    write_once(&mut device, &config, &mut |_| true).expect("room");
    let stat = rustix::fs::fstat(&device.file).expect("there");
    assert!(stat.st_blocks.cast_unsigned() * 512 >= 16 * MIB);
}

#[test]
fn a_missing_device_is_not_made_without_a_size() {
    let directory = directory();
    let config = config(&directory.path().join("none"), None);
    let error = look(&config).expect_err("nothing there");
    assert!(matches!(error, DeviceError::Missing { .. }));
    assert!(error.to_string().contains("size"), "{error}");
    assert!(!config.path.exists());
}

#[test]
fn a_device_that_is_too_small_is_refused_before_it_is_made() {
    let directory = directory();
    let config = config(&directory.path().join("disk"), Some(64 * 1024));
    let error = look(&config).expect_err("too small");
    assert!(matches!(error, DeviceError::Size { .. }), "{error}");
    assert!(error.to_string().contains("too small"), "{error}");
    assert!(!config.path.exists());
}

#[test]
fn an_existing_file_that_is_too_small_is_refused_unchanged() {
    let directory = directory();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0; 64 * 1024]).expect("made");
    let config = config(&path, None);
    let (mut device, _) = look(&config).expect("blank");
    let error = write_once(&mut device, &config, &mut |_| true).expect_err("too small");
    assert!(matches!(error, DeviceError::Size { .. }), "{error}");
    assert_eq!(fs::metadata(&path).expect("there").len(), 64 * 1024);
}

#[test]
fn directories_and_character_devices_are_refused() {
    let directory = directory();
    for path in [directory.path(), Path::new("/dev/null")] {
        let error = look(&config(path, None)).expect_err("no device");
        assert!(matches!(error, DeviceError::Kind { .. }), "{error}");
    }
}

#[test]
fn foreign_content_is_kept_and_named() {
    let directory = directory();
    let path = directory.path().join("disk");
    let config = config(&path, None);
    let ext4 = |path: &Path| {
        fs::write(path, vec![0; usize::try_from(16 * MIB).expect("small")]).expect("made");
        overwrite(path, 0x438, &[0x53, 0xef]);
    };
    ext4(&path);
    let error = look(&config).expect_err("foreign");
    assert!(matches!(error, DeviceError::Foreign { .. }) && error.to_string().contains("ext4"), "{error}");
    // Something at the very end is something, too.
    fs::write(&path, vec![0; usize::try_from(16 * MIB).expect("small")]).expect("made");
    overwrite(&path, 16 * MIB - 1, &[1]);
    let error = look(&config).expect_err("foreign");
    assert!(error.to_string().contains("end"), "{error}");
    let mut forced = config.clone();
    forced.format = FormatPolicy::Force;
    ext4(&path);
    assert_eq!(look(&forced).expect("told to").1, Content::Condemned(None));
}

#[test]
fn a_blank_device_is_not_formatted_where_that_is_forbidden() {
    let directory = directory();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0; usize::try_from(16 * MIB).expect("small")]).expect("made");
    let mut config = config(&path, None);
    config.format = FormatPolicy::Never;
    assert!(matches!(look(&config), Err(DeviceError::Blank { .. })));
}

#[test]
fn force_tells_a_store_of_this_system_from_others() {
    let directory = directory();
    let mut config = config(&directory.path().join("disk"), Some(16 * MIB));
    make(&config, 9);
    config.format = FormatPolicy::Force;
    assert_eq!(look(&config).expect("told to").1, Content::Condemned(Some(SystemId::new(9))));
}

#[test]
fn a_truncated_device_is_told_from_a_damaged_one() {
    let directory = directory();
    let path = directory.path().join("disk");
    let config = config(&path, Some(16 * MIB));
    make(&config, 9);
    OpenOptions::new().write(true).open(&path).expect("opens").set_len(8 * MIB).expect("cut");
    let error = look(&config).expect_err("truncated");
    assert!(matches!(error, DeviceError::Store { fault: OpenFault::Truncated { .. }, .. }), "{error}");
}

#[test]
fn superblocks_that_do_not_agree_are_an_error_and_one_that_is_lost_is_not() {
    let directory = directory();
    let path = directory.path().join("disk");
    let config = config(&path, Some(16 * MIB));
    make(&config, 9);
    overwrite(&path, 0, &[0; 8192]);
    assert_eq!(look(&config).expect("the tail has two").1, Content::Ours(SystemId::new(9)));
    overwrite(&path, 16 * MIB - 4096 + 100, b"damage");
    let error = look(&config).expect_err("one is left");
    assert!(matches!(error, DeviceError::Store { fault: OpenFault::Superblock, .. }), "{error}");
}

#[test]
fn a_newer_format_is_named_as_such() {
    let directory = directory();
    let path = directory.path().join("disk");
    let config = config(&path, Some(16 * MIB));
    let uuid = make(&config, 9);
    // A superblock with an unknown incompatible feature bit, correctly sealed.
    let mut block = fs::read(&path).expect("read")[..4096].to_vec();
    block[88] = 0x80;
    sds_core::format::block::seal(&mut block, sds_core::format::block::Kind::Superblock, uuid, sds_core::unit::ByteOffset::ZERO);
    overwrite(&path, 0, &block);
    let error = look(&config).expect_err("newer");
    assert!(matches!(error, DeviceError::Store { fault: OpenFault::Newer { features: 0x80 }, .. }), "{error}");
}

#[test]
fn a_device_is_opened_by_one_at_a_time() {
    let directory = directory();
    let config = config(&directory.path().join("disk"), Some(16 * MIB));
    let (held, _) = look(&config).expect("usable");
    // Told to give up while it waits for the lock.
    let error = open(&config, &|| true).expect_err("held");
    assert!(matches!(error, DeviceError::Stopped { .. }), "{error}");
    let waiting = std::thread::spawn({
        let config = config.clone();
        move || open(&config, &|| false).map(|_| ())
    });
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert!(!waiting.is_finished());
    drop(held);
    assert!(waiting.join().expect("no panic").is_ok());
}

#[test]
fn sectors_are_checked() {
    let directory = directory();
    let config = config(&directory.path().join("disk"), Some(16 * MIB));
    let medium = |logical, physical| Medium { logical_sector: Some(logical), physical_sector: Some(physical), ..Medium::default() };
    let strict = DeviceConfig { allow_small_sectors: false, ..config.clone() };
    assert!(matches!(open::check_sectors(&strict, &medium(512, 512)), Err(DeviceError::SmallSectors { bytes: 512, .. })));
    assert!(open::check_sectors(&config, &medium(512, 512)).is_ok());
    assert!(open::check_sectors(&strict, &medium(512, 4096)).is_ok());
    assert!(open::check_sectors(&strict, &Medium::default()).is_ok());
    assert!(matches!(open::check_sectors(&config, &medium(512, 16_384)), Err(DeviceError::LargeSectors { .. })));
    let refuses = Medium { read_only: true, ..Medium::default() };
    assert!(matches!(open::check_sectors(&config, &refuses), Err(DeviceError::RefusesWrites { .. })));
}

#[test]
fn tmpfs_is_named_as_the_cause() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let result = look(&config(&directory.path().join("disk"), Some(16 * MIB)));
    // Newer kernels take O_DIRECT on tmpfs.
    if let Err(error) = result {
        assert!(matches!(error, DeviceError::NoDirect { .. }), "{error}");
    }
}
