//! Starts this project as its users do: five processes from configuration files, or `sdsctl up`.

use crate::daemon::{Daemon, run};
use crate::error::BenchError;
use crate::network::Network;
use crate::port::free_port;
use crate::system::{Place, answers};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
pub fn one_process(place: &Place, copies: u64) -> Result<(Vec<Daemon>, String), BenchError> {
    let name = if copies == 1 { "ours-one" } else { "ours-one-two" };
    let dir = fresh(&place.dir.join(name))?;
    let (nbd, rest) = (free_port()?, free_port()?);
    let mut command = Command::new(place.bin_dir.join("sdsctl"));
    command
        .args(["up", "--sds", &SDS_COUNT.to_string(), "--devices-per-sds", "1"])
        .args(["--copies", &copies.to_string(), "--device-size", &device_bytes(place.size * copies).to_string()])
        .args(["--volume", &format!("bench={}", place.size)])
        .args(["--nbd", &format!("127.0.0.1:{nbd}"), "--rest", &format!("127.0.0.1:{rest}")])
        .arg("--dir")
        .arg(&dir);
    let mut daemon = Daemon::start(&mut command, &place.log(name))?;
    let line = daemon.wait_for_line("ready nbd://", START_SECONDS)?;
    let uri = line.trim_start_matches("ready ").trim().to_owned();
    daemon.wait_until(60, || answers(&uri))?;
    Ok((vec![daemon], uri))
}

/// A system of separate processes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Directory of its files; part of the names of its logs.
    pub name: &'static str,
    /// Data servers, each with one device.
    pub servers: u64,
    /// Bytes of each device.
    pub device_bytes: u64,
    /// Copies of each block.
    pub copies: u64,
    /// `SDS_LOG` of the data servers.
    pub log: &'static str,
}

impl Shape {
    /// Log of a data server, from 1.
    #[must_use]
    pub fn server_log(&self, place: &Place, number: u64) -> PathBuf {
        place.log(&format!("{}-sds{number}", self.name))
    }
}

/// One `mdm`, three `sds`, one `sdc nbd`, over TCP.
///
/// # Errors
/// When one of them does not become ready.
pub fn five_processes(place: &Place, copies: u64) -> Result<(Vec<Daemon>, String), BenchError> {
    let name = if copies == 1 { "ours-five" } else { "ours-five-two" };
    let device_bytes = device_bytes(place.size * copies);
    processes(place, &Shape { name, servers: SDS_COUNT, device_bytes, copies, log: "info" }, None)
}

/// Starts a data server, from 1, by the configuration that [`processes`] has written; also again. With a network, on its host.
///
/// # Errors
/// When it cannot be started.
pub fn server(place: &Place, shape: &Shape, number: u64, network: Option<&Network>) -> Result<Daemon, BenchError> {
    let mut command = Command::new(place.bin_dir.join("sds"));
    command.arg("--config").arg(place.dir.join(shape.name).join(format!("sds{number}.toml")));
    if let Some(network) = network {
        command = network.on(host_of(number), &command);
    }
    Daemon::start(command.env("SDS_LOG", shape.log), &shape.server_log(place, number))
}

/// How many shards of a system have all their copies, and how many there are.
#[must_use]
pub fn clean_shards(place: &Place, api: &str) -> Option<(u64, u64)> {
    let text = run(Command::new(place.bin_dir.join("sdsctl")).args(["--api", api, "status", "--output", "json"])).ok()?;
    let status = serde_json::from_str::<serde_json::Value>(&text).ok()?;
    let pools = status["pools"].as_array()?;
    let sum = |state: &str| pools.iter().filter_map(|pool| pool["shards"][state].as_u64()).sum::<u64>();
    Some((sum("clean"), sum("total")))
}

/// Address of the API of a system that [`processes`] has started.
///
/// # Errors
/// When its configuration cannot be read.
pub fn api(place: &Place, shape: &Shape) -> Result<String, BenchError> {
    let path = place.dir.join(shape.name).join("mdm.toml");
    let text = std::fs::read_to_string(&path).map_err(BenchError::file("read", &path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("api = ")).unwrap_or_default();
    Ok(line.trim_matches('"').to_owned())
}

/// The host of a data server, from 0.
#[must_use]
pub fn host_of(number: u64) -> usize {
    usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX)
}

/// One `mdm`, as many `sds` as asked for, one `sdc nbd`, over TCP: in this order. With a network, each `sds` is on a host of its own.
///
/// # Errors
/// When one of them does not become ready.
pub fn processes(place: &Place, shape: &Shape, network: Option<&Network>) -> Result<(Vec<Daemon>, String), BenchError> {
    let Shape { name, servers, device_bytes, copies, log: _ } = *shape;
    let dir = fresh(&place.dir.join(name))?;
    let (control, rest, nbd) = (free_port()?, free_port()?, free_port()?);
    let mut daemons = Vec::new();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let control = SocketAddr::new(network.map_or(loopback, Network::outside), control);

    let config =
        write(&dir.join("mdm.toml"), &format!("data_dir = {:?}\ncontrol = \"{control}\"\napi = \"127.0.0.1:{rest}\"\n", dir.join("mdm")))?;
    let mdm_log = place.log(&format!("{name}-mdm"));
    daemons.push(Daemon::start(Command::new(place.bin_dir.join("mdm")).arg("--config").arg(config), &mdm_log)?);
    let api = format!("127.0.0.1:{rest}");
    let sdsctl = place.bin_dir.join("sdsctl");
    let pool = if copies == 1 { "default" } else { "pairs" };
    if let (Some(mdm), true) = (daemons.last_mut(), copies > 1) {
        let create = || run(Command::new(&sdsctl).args(["--api", &api, "pool", "create", pool, "--copies", &copies.to_string()])).is_ok();
        mdm.wait_until(60, create)?;
    }

    for number in 1..=servers {
        let listen = SocketAddr::new(network.map_or(loopback, |network| network.host(host_of(number))), free_port()?);
        write(
            &dir.join(format!("sds{number}.toml")),
            &format!(
                "name = \"sds{number}\"\nstate_dir = {:?}\nlisten = \"{listen}\"\nmdm = [\"{control}\"]\n\n\
                 [[device]]\npath = {:?}\nsize = {device_bytes}\nformat = \"if-blank\"\npool = {pool:?}\n",
                dir.join(format!("sds{number}")),
                dir.join(format!("device{number}.img")),
            ),
        )?;
        daemons.push(server(place, shape, number, network)?);
    }

    if let Some(last) = daemons.last_mut() {
        last.wait_until(START_SECONDS, || devices_open(&sdsctl, &api, servers))?;
    }
    run(Command::new(&sdsctl).args(["--api", &api, "volume", "create", "bench", "--pool", pool, "--size", &place.size.to_string()]))?;

    let mut command = Command::new(place.bin_dir.join("sdc"));
    command.args(["nbd", "--mdm", &control.to_string(), "--listen", &format!("127.0.0.1:{nbd}"), "bench"]);
    let uri = format!("nbd://127.0.0.1:{nbd}/bench");
    let mut client = Daemon::start(&mut command, &place.log(&format!("{name}-sdc")))?;
    client.wait_until(60, || answers(&uri))?;
    daemons.push(client);
    Ok((daemons, uri))
}

/// Whether every data server has its device open.
fn devices_open(sdsctl: &Path, api: &str, count: u64) -> bool {
    let Ok(text) = run(Command::new(sdsctl).args(["--api", api, "status", "--output", "json"])) else { return false };
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let devices = list(&status, "sds").iter().flat_map(|sds| list(sds, "devices")).collect::<Vec<_>>();
    devices.iter().filter(|device| device["state"]["is"] == "open").count() as u64 == count
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
