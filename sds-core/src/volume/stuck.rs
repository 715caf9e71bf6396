//! What the oldest request of a volume waits for, for status pages. Looks at everything, decides nothing.

use super::exchange::{Exchange, State};
use super::server::LinkStatus;
use super::{Client, ServerStatus};
use crate::id::{DeviceId, MapVersion, SdsId, ShardId, VolumeId};
use crate::unit::Nanos;

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A data server: it cannot be reached, or, with its link `Ready`, has not answered.
    Server {
        /// Which.
        sds: SdsId,
        /// How it stands with it.
        link: LinkStatus,
    },
    /// A device that its server does not serve now: it is being opened, or the copy on it is taking over.
    Device {
        /// Which.
        device: DeviceId,
        /// Its server.
        sds: SdsId,
    },
    /// The MDM's view of at least this version, which a data server has named.
    View {
        /// Which.
        at_least: MapVersion,
    },
    /// The shard has no copy on a server that is known.
    Copy,
    /// An earlier change of the same blocks.
    EarlierChange,
}

/// The oldest request of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Of which volume.
    pub volume: VolumeId,
    /// In which shard; `None` for a flush or where the volume is not placed.
    pub shard: Option<ShardId>,
    /// How long it has waited.
    pub age: Nanos,
    /// For what.
    pub waits_for: WaitsFor,
}

impl Client {
    /// For each volume with requests, its oldest one if it has waited for at least `age`.
    #[must_use]
    pub fn stuck(&self, now: Nanos, age: Nanos) -> Vec<Stuck> {
        let mut oldest: Vec<(Nanos, &Exchange)> = Vec::new();
        for (_, exchange) in self.exchanges.iter() {
            let Some(since) = self.requests.get(exchange.request).map(|request| request.since) else { continue };
            match oldest.iter_mut().find(|(_, known)| known.volume == exchange.volume) {
                // What only waits for another request's blocks says least.
                Some(known) if (exchange.state == State::Blocked, since) < (known.1.state == State::Blocked, known.0) => {
                    *known = (since, exchange);
                }
                Some(_) => {}
                None => oldest.push((since, exchange)),
            }
        }
        let waited = |(since, exchange): (Nanos, &Exchange)| (now.since(since) >= age).then(|| self.why(exchange, now.since(since)));
        oldest.into_iter().filter_map(waited).collect()
    }

    fn why(&self, exchange: &Exchange, age: Nanos) -> Stuck {
        let route = self.route_of(exchange);
        let version = self.topology.version();
        let waits_for = match (exchange.state, route) {
            (State::Blocked, _) => WaitsFor::EarlierChange,
            (State::Paused { at_least, .. }, _) if at_least > version => WaitsFor::View { at_least },
            (State::Paused { .. }, Some(route)) => {
                WaitsFor::Device { device: self.topology.device_id(route.device), sds: self.servers.get(route.server).id }
            }
            (State::Paused { .. } | State::Routing, None) => WaitsFor::Copy,
            (State::Queued(server) | State::Sent(server), _) => server_of(self.servers.get(server).status()),
            (State::Routing, Some(route)) => server_of(self.servers.get(route.server).status()),
        };
        let shard = route.filter(|_| exchange.len > 0).map(|route| route.shard);
        Stuck { volume: exchange.volume, shard, age, waits_for }
    }
}

const fn server_of(ServerStatus { sds, link, .. }: ServerStatus) -> WaitsFor {
    WaitsFor::Server { sds, link }
}
