//! Hosts with wires between them: network namespaces on one bridge, cut by packet filters. Needs root, `ip` and `nft`.
//!
//! What is cut is cut at the host: silently both ways, one way, or with a refusal; bridge and test stay outside, and so do the MDM and the client.
//!
//! Invariant: everything is gone when the value is dropped.

use crate::daemon::run;
use crate::error::BenchError;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

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
    /// Nothing to or from this port outside, the MDM's: all the rest gets through.
    FromPort(u16),
    /// Other hosts' connections to it are reset, and refused: so are its own to them.
    Refusing,
}

/// Hosts, from 0, on one bridge.
#[derive(Debug)]
pub struct Network {
    number: u32,
    hosts: usize,
}

impl Network {
    /// Lays the wires between so many hosts; one network a process.
    ///
    /// # Errors
    /// When this process may not, or `ip` is not installed.
    pub fn new(hosts: usize) -> Result<Self, BenchError> {
        let network = Self { number: std::process::id(), hosts };
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
        }
        Ok(network)
    }

    fn address(&self, last: u8) -> IpAddr {
        let [.., high, low] = self.number.to_be_bytes();
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
        format!("sds{}", self.number)
    }

    fn space(&self, host: usize) -> String {
        format!("sds{}-{host}", self.number)
    }

    fn wire(&self, host: usize) -> String {
        format!("v{}-{host}", self.number)
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
        let peers = peers.join(", ");
        let (incoming, outgoing) = match cut {
            Cut::Off => ("iifname != lo drop".to_owned(), "oifname != lo drop".to_owned()),
            Cut::Deaf => ("iifname != lo drop".to_owned(), String::new()),
            Cut::Mute => (String::new(), "oifname != lo drop".to_owned()),
            Cut::FromPeers => (format!("ip saddr {{ {peers} }} drop"), format!("ip daddr {{ {peers} }} drop")),
            Cut::FromPort(port) => (format!("tcp sport {port} drop"), format!("tcp dport {port} drop")),
            Cut::Refusing => {
                (format!("ip saddr {{ {peers} }} reject with tcp reset"), format!("ip daddr {{ {peers} }} reject with tcp reset"))
            }
        };
        let chain = |hook: &str, rule: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}\n");
        let rule = |rule: String| if rule.contains("reject") { format!("meta l4proto tcp {rule}") } else { rule };
        let mut table = String::from("table inet cut {\n");
        for (hook, text) in [("input", incoming), ("output", outgoing)] {
            if !text.is_empty() {
                table += &chain(hook, &rule(text));
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

fn ip(arguments: &[&str]) -> Result<(), BenchError> {
    run(Command::new("ip").args(arguments)).map(|_| ())
}
