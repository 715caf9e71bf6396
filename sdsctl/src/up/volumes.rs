//! Waits until an embedded cluster's devices serve, then makes the volumes asked for.
//!
//! Invariant: the pool's shards are placed (by the first volume) only when every device is there, so a
//! new cluster uses all of them; a volume that exists is left as it is.

use super::args::UpArgs;
use sds_core::cluster::leader::{ApiReply, ApiRequest};
use sds_core::cluster::report::{DeviceStateStatus, SystemStatus};
use sds_core::cluster::{CreateVolume, DEFAULT_POOL, Refusal};
use sds_core::limits::SHARDS_PER_POOL_DEFAULT;
use sds_core::map::Copies;
use sds_core::stripe::Stripe;
use sds_core::unit::ByteCount;
use std::time::{Duration, Instant};

/// Time between two looks at the cluster while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time between two lines on what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// The pool of an embedded cluster with one copy.
const POOL: &str = DEFAULT_POOL;
/// And of one with two.
const POOL_OF_TWO: &str = "two-copies";

/// The pool that an embedded cluster's devices are in.
pub(super) const fn pool(args: &UpArgs) -> &'static str {
    if args.copies == 1 { POOL } else { POOL_OF_TWO }
}

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The metadata manager ended.
    #[error("the metadata manager does not answer; its log says why")]
    NoAnswer,
    /// A device of a new cluster does not serve.
    #[error("device {path} of {sds} does not serve: {reason}")]
    Device {
        /// Whose.
        sds: String,
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// The pool is refused.
    #[error("{0}")]
    Pool(Box<Refusal>),
    /// The directory is of a cluster with another number of copies.
    #[error("the cluster in this directory was made with --copies {had}, and that cannot be changed; say so, or give another --dir")]
    Copies {
        /// What it has.
        had: u8,
    },
    /// The volume is refused.
    #[error("volume {name:?} cannot be made: {refusal}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        refusal: Box<Refusal>,
    },
}

/// Makes the pool, if it is not there: data servers name it when they register.
pub(super) async fn make_pool(args: &UpArgs, mdm: &mdm::Mdm) -> Result<(), VolumeError> {
    let api = mdm.api();
    let status = loop {
        match api.request(ApiRequest::Status).await {
            Ok(ApiReply::Status(status)) if !status.pools.is_empty() => break status,
            Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
            Err(_) => return Err(VolumeError::NoAnswer),
        }
    };
    let other = status.pools.iter().find(|other| other.devices > 0 && u8::from(other.copies) != args.copies);
    if let Some(other) = other {
        return Err(VolumeError::Copies { had: other.copies.into() });
    }
    let name = pool(args).to_owned();
    let Ok(copies) = Copies::try_from(args.copies) else { unreachable!("the command line allows 1 and 2") };
    if copies == Copies::One {
        return Ok(());
    }
    loop {
        let request = ApiRequest::CreatePool { name: name.clone(), shards: SHARDS_PER_POOL_DEFAULT, copies };
        match api.request(request).await {
            Ok(ApiReply::PoolCreated(_) | ApiReply::Refused(Refusal::PoolExists { .. })) => return Ok(()),
            Ok(ApiReply::Refused(refusal)) => return Err(VolumeError::Pool(Box::new(refusal))),
            Ok(ApiReply::Overloaded | ApiReply::Unknown) => tokio::time::sleep(LOOK_EVERY).await,
            Ok(_) | Err(_) => return Err(VolumeError::NoAnswer),
        }
    }
}

/// Makes the volumes once the devices serve.
pub(super) async fn make(args: &UpArgs, mdm: &mdm::Mdm) -> Result<(), VolumeError> {
    let api = mdm.api();
    wait_for_devices(args, &api).await?;
    for volume in &args.volumes {
        let stripe = Stripe::default();
        let create = CreateVolume {
            name: volume.name.clone(),
            size: ByteCount::new(volume.size.bytes()),
            pool: pool(args).to_owned(),
            stripe_unit: stripe.unit(),
            stripe_width: stripe.width(),
            key: None,
        };
        loop {
            match api.request(ApiRequest::CreateVolume(create.clone())).await {
                Ok(ApiReply::VolumeCreated { .. } | ApiReply::Refused(Refusal::VolumeExists { .. })) => break,
                Ok(ApiReply::Refused(refusal)) => {
                    return Err(VolumeError::Refused { name: volume.name.clone(), refusal: Box::new(refusal) });
                }
                Ok(ApiReply::Overloaded | ApiReply::Unknown) => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) | Err(_) => return Err(VolumeError::NoAnswer),
            }
        }
    }
    Ok(())
}

async fn wait_for_devices(args: &UpArgs, api: &mdm::Api) -> Result<(), VolumeError> {
    let mut said = Instant::now();
    loop {
        let Ok(ApiReply::Status(status)) = api.request(ApiRequest::Status).await else { return Err(VolumeError::NoAnswer) };
        match look(args, &status)? {
            Look::Ready => return Ok(()),
            Look::Waiting(what) if said.elapsed() >= SAY_EVERY => {
                eprintln!("waiting for {what}");
                said = Instant::now();
            }
            Look::Waiting(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ready,
    Waiting(String),
}

fn look(args: &UpArgs, status: &SystemStatus) -> Result<Look, VolumeError> {
    let pool_name = pool(args);
    let placed = status.pools.iter().any(|pool| pool.name == pool_name && pool.shards.total > 0);
    let mut serving = 0;
    let mut failed = 0;
    let mut opening = Vec::new();
    for server in &status.sds {
        for device in &server.devices {
            match &device.state {
                DeviceStateStatus::Open if server.up_to_date => serving += 1,
                DeviceStateStatus::Open => opening.push(format!("{} to hear of it", server.name)),
                DeviceStateStatus::Opening { done_per_mille } => {
                    opening.push(format!("{} {} ({} %)", server.name, device.path, done_per_mille / 10));
                }
                DeviceStateStatus::Hung => opening.push(format!("{} {} to answer", server.name, device.path)),
                // Its file is another device by now: what is stored on the others can still be had.
                DeviceStateStatus::Missing if placed && server.up_to_date => failed += 1,
                DeviceStateStatus::Unreachable | DeviceStateStatus::Missing => {
                    opening.push(format!("{} {} to come back", server.name, device.path));
                }
                // What is stored on the others can still be had.
                DeviceStateStatus::Failed { .. } if placed => failed += 1,
                DeviceStateStatus::Failed { reason } => {
                    return Err(VolumeError::Device { sds: server.name.clone(), path: device.path.clone(), reason: reason.clone() });
                }
            }
        }
    }
    let wanted = u32::from(args.sds) * u32::from(args.devices_per_sds);
    Ok(if serving + failed >= wanted && opening.is_empty() {
        Look::Ready
    } else if opening.is_empty() {
        Look::Waiting(format!("{} of {wanted} devices", wanted.saturating_sub(serving + failed)))
    } else {
        Look::Waiting(opening.join(", "))
    })
}
