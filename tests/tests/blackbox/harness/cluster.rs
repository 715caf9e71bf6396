//! Five processes as an operator starts them: one `mdm`, three `sds`, one `sdc nbd`.

use super::daemon::Daemon;
use super::nbd::Client;
use super::place::{Place, free_port, program};
use sds_benches::network::Network;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Seconds within which a cluster of small devices has started.
const START: u64 = 90;
/// Seconds within which a restarted process serves again.
pub(crate) const RESTART: u64 = 60;

/// One of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    Mdm,
    Sds(usize),
    Sdc,
}

pub(crate) const ALL: [Process; 5] = [Process::Mdm, Process::Sds(0), Process::Sds(1), Process::Sds(2), Process::Sdc];

/// All devices that a status shows.
pub(crate) fn devices(status: &Value) -> Vec<Value> {
    let servers = status["sds"].as_array().cloned().unwrap_or_default();
    servers.iter().flat_map(|server| server["devices"].as_array().cloned().unwrap_or_default()).collect()
}

#[derive(Debug)]
pub(crate) struct Cluster {
    daemons: Vec<Option<Daemon>>,
    control: u16,
    rest: u16,
    data: [u16; 3],
    nbd: u16,
    /// Volumes that `sdc` is told to export; empty: those nobody else has open.
    exports: Vec<String>,
    /// Processes started so far.
    lives: u32,
    pub(crate) place: Place,
    /// Where each data server has a host of its own.
    network: Option<Network>,
    /// More lines of each data server's configuration.
    more: String,
}

impl Cluster {
    /// Configures, but starts nothing. Each data server has one device of this many bytes.
    pub(crate) fn configure(name: &str, device_bytes: u64, exports: &[&str]) -> Self {
        Self::configure_on(None, "", name, device_bytes, exports)
    }

    fn configure_on(network: Option<Network>, more: &str, name: &str, device_bytes: u64, exports: &[&str]) -> Self {
        let place = Place::new(name);
        let cluster = Self {
            daemons: (0..ALL.len()).map(|_| None).collect(),
            control: free_port(),
            rest: free_port(),
            data: [free_port(), free_port(), free_port()],
            nbd: free_port(),
            exports: exports.iter().map(|&name| name.to_owned()).collect(),
            lives: 0,
            place,
            network,
            more: more.to_owned(),
        };
        let mut text = String::new();
        let _ = writeln!(text, "data_dir = {:?}", cluster.place.path("mdm"));
        let _ = writeln!(text, "control = {:?}\napi = {:?}", cluster.control_address(), cluster.rest_address());
        cluster.place.write("mdm.toml", &text);
        for number in 0..3 {
            cluster.place.write(&format!("sds{number}.toml"), &cluster.sds_config(number, device_bytes));
        }
        cluster
    }

    /// The configuration of a data server.
    pub(crate) fn sds_config(&self, number: usize, device_bytes: u64) -> String {
        format!(
            "name = \"sds{number}\"\nstate_dir = {:?}\nlisten = {:?}\nmdm = [{:?}]\n{}\n\
             [[device]]\npath = {:?}\nsize = {device_bytes}\nformat = \"if-blank\"\n",
            self.place.path(&format!("sds{number}")),
            self.data_address(number),
            self.control_address(),
            self.more,
            self.device(number),
        )
    }

    /// The file of a data server's device.
    pub(crate) fn device(&self, number: usize) -> std::path::PathBuf {
        self.place.path(&format!("device{number}.img"))
    }

    /// All five, with one volume, ready for use.
    pub(crate) fn start(name: &str, device_bytes: u64, volume: &str, bytes: u64) -> Self {
        let mut cluster = Self::configure(name, device_bytes, &[volume]);
        cluster.begin(Process::Mdm);
        for number in 0..3 {
            cluster.begin(Process::Sds(number));
        }
        cluster.wait_for_devices(3, START);
        cluster.create(volume, bytes);
        cluster.begin(Process::Sdc);
        cluster.wait_for_export(volume, START);
        cluster
    }

    /// The same, with two copies of everything, each server a fault set of its own.
    pub(crate) fn start_with_two_copies(name: &str, device_bytes: u64, volume: &str, bytes: u64) -> Self {
        Self::configure(name, device_bytes, &[volume]).begin_with_two_copies(device_bytes, volume, bytes)
    }

    /// The same, with each data server on a host of its own, and one more host; `more` is added to the configuration of each.
    /// `None`: that cannot be done here, and who runs this has said that tests may be skipped.
    pub(crate) fn start_on_hosts(more: &str, name: &str, device_bytes: u64, volume: &str, bytes: u64) -> Option<Self> {
        let network = match Network::new(4) {
            Ok(network) => network,
            Err(error) => {
                let thread = std::thread::current();
                let told = format!("SKIPPED, NOT PASSED: {}: it needs root, `ip` and `nft`: {error}", thread.name().unwrap_or(name));
                assert!(std::env::var("SDS_CI_ALLOW_SKIPS").is_ok_and(|value| value == "1"), "{told}");
                eprintln!("{told}");
                return None;
            }
        };
        let cluster = Self::configure_on(Some(network), more, name, device_bytes, &[volume]);
        Some(cluster.begin_with_two_copies(device_bytes, volume, bytes))
    }

    fn begin_with_two_copies(self, device_bytes: u64, volume: &str, bytes: u64) -> Self {
        let mut cluster = self;
        cluster.begin(Process::Mdm);
        cluster.wait_for_status("answer", START, |_| true);
        let (code, answer) = cluster.api("POST", "pools", r#"{"name": "two", "shards": 64, "copies": 2}"#).expect("the API answers");
        assert_eq!(code, 201, "{answer:#}");
        for number in 0..3 {
            let text = cluster.sds_config(number, device_bytes) + "pool = \"two\"\n";
            cluster.place.write(&format!("sds{number}.toml"), &text);
            cluster.begin(Process::Sds(number));
        }
        cluster.wait_for_devices(3, START);
        let body = format!("{{\"name\": {volume:?}, \"size_bytes\": {bytes}, \"pool\": \"two\"}}");
        let (code, answer) = cluster.api("POST", "volumes", &body).expect("the API answers");
        assert_eq!(code, 201, "{answer:#}");
        cluster.begin(Process::Sdc);
        cluster.wait_for_export(volume, START);
        cluster
    }

    const fn index(process: Process) -> usize {
        match process {
            Process::Mdm => 0,
            Process::Sds(number) => 1 + number,
            Process::Sdc => 4,
        }
    }

    fn name(process: Process) -> String {
        match process {
            Process::Mdm => "mdm".to_owned(),
            Process::Sds(number) => format!("sds{number}"),
            Process::Sdc => "sdc".to_owned(),
        }
    }

    fn command(&self, process: Process) -> Command {
        let mut command;
        match process {
            Process::Mdm => {
                command = Command::new(program("mdm"));
                command.arg("--config").arg(self.place.path("mdm.toml"));
            }
            Process::Sds(number) => {
                command = Command::new(program("sds"));
                command.arg("--config").arg(self.place.path(&format!("sds{number}.toml")));
                if let Some(network) = &self.network {
                    command = network.on(number, &command);
                }
            }
            Process::Sdc => {
                command = Command::new(program("sdc"));
                command.args(["nbd", "--mdm", &self.control_address()]);
                command.args(["--listen", &self.nbd_address(), "--state-dir"]).arg(self.place.path("sdc"));
                command.args(&self.exports);
            }
        }
        // What a daemon keeps beside its devices belongs to this test.
        command.current_dir(self.place.path("")).env("NO_COLOR", "1");
        command
    }

    /// Starts a process.
    pub(crate) fn begin(&mut self, process: Process) {
        let name = Self::name(process);
        // Each life has a log of its own: what is waited for is said in this one.
        self.lives += 1;
        let log = self.place.path(&format!("{name}.{}.log", self.lives));
        let daemon = Daemon::start(&name, &mut self.command(process), &log);
        let before = self.daemons[Self::index(process)].replace(daemon);
        assert!(before.is_none(), "{name} runs already");
    }

    pub(crate) fn daemon(&mut self, process: Process) -> &mut Daemon {
        self.daemons[Self::index(process)].as_mut().unwrap_or_else(|| panic!("{process:?} does not run"))
    }

    fn take(&mut self, process: Process) -> Daemon {
        self.daemons[Self::index(process)].take().unwrap_or_else(|| panic!("{process:?} does not run"))
    }

    /// Another client of this cluster, with an identity of its own.
    pub(crate) fn second_client(&self, listen: &str, volumes: &[&str]) -> Daemon {
        let mut command = Command::new(program("sdc"));
        command.args(["nbd", "--mdm", &self.control_address(), "--listen", listen, "--state-dir"]).arg(self.place.path("sdc-2"));
        Daemon::start("sdc-2", command.args(volumes).current_dir(self.place.path("")), &self.place.path("sdc-2.log"))
    }

    /// A client on a host that only reads, and the address at which it serves there.
    pub(crate) fn reader_on(&self, host: usize, volume: &str) -> (Daemon, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program("sdc"));
        command.args(["nbd", "--mdm", &self.control_address(), "--listen", &listen, "--read-only", "--state-dir"]);
        command.arg(self.place.path("reader")).arg(volume);
        let mut command = self.network().on(host, &command);
        let daemon = Daemon::start("reader", command.current_dir(self.place.path("")), &self.place.path("reader.log"));
        (daemon, listen)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, process: Process) {
        self.take(process).kill();
    }

    /// kill -9 of all, as near to at once as one gets.
    pub(crate) fn kill_all(&mut self) {
        for daemon in self.daemons.iter().flatten() {
            daemon.signal(rustix::process::Signal::KILL);
        }
        for daemon in &mut self.daemons {
            if let Some(daemon) = daemon.take() {
                daemon.kill();
            }
        }
    }

    /// SIGTERM; must end cleanly.
    pub(crate) fn stop(&mut self, process: Process) {
        self.take(process).stop();
    }

    /// No process may have ended by itself.
    pub(crate) fn check(&mut self) {
        for daemon in self.daemons.iter_mut().flatten() {
            if let Some(status) = daemon.exited() {
                panic!("a daemon ended by itself with {status}: {daemon:?}");
            }
        }
    }

    /// Its hosts.
    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("it was started on hosts")
    }

    pub(crate) const fn control_port(&self) -> u16 {
        self.control
    }

    pub(crate) fn control_address(&self) -> String {
        let address = self.network.as_ref().map_or(LOOPBACK, Network::outside);
        format!("{address}:{}", self.control)
    }

    pub(crate) fn rest_address(&self) -> String {
        format!("127.0.0.1:{}", self.rest)
    }

    pub(crate) fn data_address(&self, number: usize) -> String {
        let address = self.network.as_ref().map_or(LOOPBACK, |network| network.host(number));
        format!("{address}:{}", self.data[number])
    }

    pub(crate) fn nbd_address(&self) -> String {
        format!("127.0.0.1:{}", self.nbd)
    }

    pub(crate) fn uri(&self, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.nbd_address())
    }

    /// `sdsctl --api …` with these arguments.
    pub(crate) fn sdsctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("sdsctl"));
        command.args(["--api", &self.rest_address()]).args(arguments);
        command
    }

    /// A request to the API: status code and body.
    pub(crate) fn api(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(self.rest_address())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let head = "Host: mdm\r\nConnection: close\r\nContent-Type: application/json";
        stream
            .write_all(format!("{method} /api/v1/{path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((code, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    pub(crate) fn create(&self, volume: &str, bytes: u64) {
        let body = format!("{{\"name\": {volume:?}, \"size_bytes\": {bytes}}}");
        let (code, answer) = self.api("POST", "volumes", &body).expect("the API answers");
        assert_eq!(code, 201, "{answer:#}");
    }

    /// The status, if the MDM answers.
    pub(crate) fn status(&self) -> Option<Value> {
        self.api("GET", "status", "").ok().filter(|(code, _)| *code == 200).map(|(_, status)| status)
    }

    /// Waits until so many devices are open.
    pub(crate) fn wait_for_devices(&mut self, count: usize, seconds: u64) {
        self.wait_for_status(&format!("{count} open devices"), seconds, |status| {
            devices(status).iter().filter(|device| device["state"]["is"] == "open").count() == count
        });
    }

    pub(crate) fn wait_for_status(&mut self, what: &str, seconds: u64, mut reached: impl FnMut(&Value) -> bool) {
        let start = Instant::now();
        loop {
            self.check();
            let status = self.status();
            if status.as_ref().is_some_and(&mut reached) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(seconds), "no {what} in {seconds} s; status: {status:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until an export can be used and read.
    pub(crate) fn wait_for_export(&mut self, volume: &str, seconds: u64) {
        let start = Instant::now();
        loop {
            self.check();
            let read = Client::open(&self.nbd_address(), volume).map(|mut client| client.read(0, 4096).map(|_| ()));
            if let Ok(Ok(())) = read {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(seconds), "export {volume} not ready in {seconds} s: {read:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
