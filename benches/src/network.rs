//! Hosts with wires between them: network namespaces on one bridge, cut by packet filters. Needs root, `ip` and `nft`.
//!
//! What is cut is cut at the host: silently both ways, one way, or with a refusal; bridge and test stay outside, and so do the MDM and the client.
//!
//! Invariant: everything is gone when the value is dropped. What a process that was killed has left is taken away by the next.

use crate::daemon::run;
use crate::error::BenchError;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Networks this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// What a host does not get through any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing, either way, without a word.
    Off,
    /// Nothing comes to it.
    Deaf,
    /// Nothing comes from it.
    Mute,
    /// Nothing to or from the other hosts: clients and the MDM reach it.
    FromPeers,
    /// Nothing to or from outside: only the other hosts reach it.
    FromOutside,
    /// Nothing to or from this port outside, the MDM's: all the rest gets through.
    FromPort(u16),
    /// Other hosts' connections to it are reset, and refused: so are its own to them.
    Refusing,
    /// The same, and nothing to or from outside.
    RefusingAlone,
}

/// Hosts, from 0, on one bridge.
#[derive(Debug)]
pub struct Network {
    /// This process, and the number of its network.
    name: String,
    subnet: [u8; 2],
    hosts: usize,
}

impl Network {
    /// Lays the wires between so many hosts.
    ///
    /// # Errors
    /// When this process may not, or `ip` or `nft` is not installed.
    pub fn new(hosts: usize) -> Result<Self, BenchError> {
        clear_away();
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let [.., high, low] = process.wrapping_add(made.wrapping_mul(4099)).to_be_bytes();
        let network = Self { name: format!("{process}n{made}"), subnet: [high, low], hosts };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", network.outside()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for host in 0..hosts {
            let (space, wire, end) = (network.space(host), network.wire(host), format!("e{}", network.wire(host)));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &wire, "type", "veth", "peer", "name", &end, "netns", &space])?;
            ip(&["link", "set", &wire, "master", &bridge, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{}/24", network.host(host)), "dev", &end])?;
            ip(&["-n", &space, "link", "set", &end, "up"])?;
            // What will be wanted later is tried now.
            network.cut(host, Cut::Off)?;
            network.mend(host)?;
        }
        Ok(network)
    }

    fn address(&self, last: u8) -> IpAddr {
        let [high, low] = self.subnet;
        IpAddr::V4(Ipv4Addr::new(10, high, low, last))
    }

    /// Where the MDM and the client are.
    #[must_use]
    pub fn outside(&self) -> IpAddr {
        self.address(254)
    }

    /// Address of a host, from 0.
    #[must_use]
    pub fn host(&self, host: usize) -> IpAddr {
        self.address(u8::try_from(host + 1).unwrap_or(253))
    }

    fn bridge(&self) -> String {
        format!("sds{}", self.name)
    }

    fn space(&self, host: usize) -> String {
        format!("sds{}-{host}", self.name)
    }

    /// The name space of a host, for a thread that goes there.
    #[must_use]
    pub fn space_file(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(self.space(host))
    }

    fn wire(&self, host: usize) -> String {
        format!("v{}-{host}", self.name)
    }

    /// Runs a program on a host: in place of this command's own.
    #[must_use]
    pub fn on(&self, host: usize, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.space(host)]).arg(command.get_program()).args(command.get_args());
        there
    }

    /// Cuts a host's wires.
    ///
    /// # Errors
    /// When the filter is not taken, or `nft` is not installed.
    pub fn cut(&self, host: usize, cut: Cut) -> Result<(), BenchError> {
        let peers: Vec<String> = (0..self.hosts).filter(|other| *other != host).map(|other| self.host(other).to_string()).collect();
        let (peers, outside) = (peers.join(", "), self.outside());
        // A refusal for what comes in has to get out.
        let refuse = |way: &str| format!("ip {way} {{ {peers} }} tcp flags & rst == 0 reject with tcp reset");
        let (incoming, outgoing) = match cut {
            Cut::Off => ("iifname != lo drop".to_owned(), "oifname != lo drop".to_owned()),
            Cut::Deaf => ("iifname != lo drop".to_owned(), String::new()),
            Cut::Mute => (String::new(), "oifname != lo drop".to_owned()),
            Cut::FromPeers => (format!("ip saddr {{ {peers} }} drop"), format!("ip daddr {{ {peers} }} drop")),
            Cut::FromOutside => (format!("ip saddr {outside} drop"), format!("ip daddr {outside} drop")),
            Cut::FromPort(port) => (format!("tcp sport {port} drop"), format!("tcp dport {port} drop")),
            Cut::Refusing => (refuse("saddr"), refuse("daddr")),
            Cut::RefusingAlone => {
                (format!("ip saddr {outside} drop; {}", refuse("saddr")), format!("ip daddr {outside} drop; {}", refuse("daddr")))
            }
        };
        let mut table = String::from("table inet cut {\n");
        for (hook, rules) in [("input", incoming), ("output", outgoing)] {
            if !rules.is_empty() {
                table += &format!("chain {hook} {{ type filter hook {hook} priority 0; {rules}; }}\n");
            }
        }
        self.nft(host, &(table + "}\n"))
    }

    /// Mends them.
    ///
    /// # Errors
    /// When they were not cut.
    pub fn mend(&self, host: usize) -> Result<(), BenchError> {
        self.nft(host, "delete table inet cut\n")
    }

    fn nft(&self, host: usize, rules: &str) -> Result<(), BenchError> {
        ip(&["netns", "exec", &self.space(host), "nft", rules])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // A space lives on as long as anything in it; its wire goes at once.
            let _gone = ip(&["link", "del", &self.wire(host)]);
            let _gone = ip(&["netns", "del", &self.space(host)]);
        }
        let _gone = ip(&["link", "del", &self.bridge()]);
    }
}

/// Takes away what processes have left that were killed.
fn clear_away() {
    let mut left = std::collections::BTreeSet::new();
    for space in run(Command::new("ip").args(["netns", "list"])).unwrap_or_default().lines() {
        let space = space.split(' ').next().unwrap_or_default();
        let Some((name, _host)) = space.strip_prefix("sds").and_then(|rest| rest.split_once('-')) else { continue };
        let Some((process, _made)) = name.split_once('n') else { continue };
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            let _gone = ip(&["netns", "del", space]);
            left.insert(format!("sds{name}"));
        }
    }
    for bridge in left {
        let _gone = ip(&["link", "del", &bridge]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), BenchError> {
    run(Command::new("ip").args(arguments)).map(|_| ())
}
