//! Starts this project as its users do: five processes from configuration files, or `sdsctl up`.

use crate::daemon::{Daemon, free_port, run};
use crate::error::BenchError;
use crate::system::{Place, answers};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Data servers.
const SDS_COUNT: u64 = 3;
/// Writing the devices once may take this long.
const START_SECONDS: u64 = 900;

/// `sdsctl up`.
///
/// # Errors
/// When it does not become ready.
pub fn one_process(place: &Place) -> Result<(Vec<Daemon>, String), BenchError> {
    let dir = fresh(&place.dir.join("ours-one"))?;
    let (nbd, rest) = (free_port()?, free_port()?);
    let mut command = Command::new(place.bin_dir.join("sdsctl"));
    command
        .args(["up", "--sds", &SDS_COUNT.to_string(), "--devices-per-sds", "1"])
        .args(["--device-size", &device_bytes(place.size).to_string()])
        .args(["--volume", &format!("bench={}", place.size)])
        .args(["--nbd", &format!("127.0.0.1:{nbd}"), "--rest", &format!("127.0.0.1:{rest}")])
        .arg("--dir")
        .arg(&dir);
    let mut daemon = Daemon::start(&mut command, &place.log("ours-one"))?;
    let line = daemon.wait_for_line("ready nbd://", START_SECONDS)?;
    let uri = line.trim_start_matches("ready ").trim().to_owned();
    daemon.wait_until(60, || answers(&uri))?;
    Ok((vec![daemon], uri))
}

/// One `mdm`, three `sds`, one `sdc nbd`, over TCP.
///
/// # Errors
/// When one of them does not become ready.
pub fn five_processes(place: &Place) -> Result<(Vec<Daemon>, String), BenchError> {
    let dir = fresh(&place.dir.join("ours-five"))?;
    let (control, rest, nbd) = (free_port()?, free_port()?, free_port()?);
    let mut daemons = Vec::new();

    let config = write(
        &dir.join("mdm.toml"),
        &format!("data_dir = {:?}\ncontrol = \"127.0.0.1:{control}\"\napi = \"127.0.0.1:{rest}\"\n", dir.join("mdm")),
    )?;
    daemons.push(Daemon::start(Command::new(place.bin_dir.join("mdm")).arg("--config").arg(config), &place.log("ours-mdm"))?);

    for number in 1..=SDS_COUNT {
        let port = free_port()?;
        let config = write(
            &dir.join(format!("sds{number}.toml")),
            &format!(
                "name = \"sds{number}\"\nstate_dir = {:?}\nlisten = \"127.0.0.1:{port}\"\nmdm = [\"127.0.0.1:{control}\"]\n\n\
                 [[device]]\npath = {:?}\nsize = {}\nformat = \"if-blank\"\n",
                dir.join(format!("sds{number}")),
                dir.join(format!("device{number}.img")),
                device_bytes(place.size),
            ),
        )?;
        let log = place.log(&format!("ours-sds{number}"));
        daemons.push(Daemon::start(Command::new(place.bin_dir.join("sds")).arg("--config").arg(config), &log)?);
    }

    let api = format!("127.0.0.1:{rest}");
    let sdsctl = place.bin_dir.join("sdsctl");
    if let Some(last) = daemons.last_mut() {
        last.wait_until(START_SECONDS, || devices_open(&sdsctl, &api))?;
    }
    run(Command::new(&sdsctl).args(["--api", &api, "volume", "create", "bench", "--size", &place.size.to_string()]))?;

    let mut command = Command::new(place.bin_dir.join("sdc"));
    command.args(["nbd", "--mdm", &format!("127.0.0.1:{control}"), "--listen", &format!("127.0.0.1:{nbd}"), "bench"]);
    let uri = format!("nbd://127.0.0.1:{nbd}/bench");
    let mut client = Daemon::start(&mut command, &place.log("ours-sdc"))?;
    client.wait_until(60, || answers(&uri))?;
    daemons.push(client);
    Ok((daemons, uri))
}

/// Whether every data server has its device open.
fn devices_open(sdsctl: &Path, api: &str) -> bool {
    let Ok(text) = run(Command::new(sdsctl).args(["--api", api, "status", "--output", "json"])) else { return false };
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let devices = list(&status, "sds").iter().flat_map(|sds| list(sds, "devices")).collect::<Vec<_>>();
    devices.iter().filter(|device| device["state"]["is"] == "open").count() as u64 == SDS_COUNT
}

/// One copy spread over three devices, with room for uneven spread and for metadata.
const fn device_bytes(size: u64) -> u64 {
    let share = size / SDS_COUNT;
    (share + share / 2 + (512 << 20)) / (1 << 20) * (1 << 20)
}

/// An empty directory: what a run before left is of no use to this one.
fn fresh(dir: &Path) -> Result<PathBuf, BenchError> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(BenchError::file("remove", dir))?;
    }
    std::fs::create_dir_all(dir).map_err(BenchError::file("create", dir))?;
    Ok(dir.to_owned())
}

fn write(path: &Path, text: &str) -> Result<PathBuf, BenchError> {
    std::fs::write(path, text).map_err(BenchError::file("write", path))?;
    Ok(path.to_owned())
}
