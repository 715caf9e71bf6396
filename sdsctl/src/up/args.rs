//! What `sdsctl up` can be told.

use clap::Args;
use sds_server::Size;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Most data servers of an embedded cluster: they share one loop.
const SDS_MAX: u16 = 16;
/// Most devices of each.
const DEVICES_MAX: u16 = 16;

const EXAMPLES: &str = "\
Examples:
  sdsctl up                                             # three servers, volume demo of 1 GiB, data in ./sds-data
  sdsctl up --dir /srv/sds --sds 5 --device-size 16GiB --volume vm1=20GiB --volume vm2=20GiB
  sdsctl up --nbd-socket /run/sds.sock                  # also nbd+unix:///demo?socket=/run/sds.sock

When it prints `ready nbd://…`, the volume can be used. Ctrl-C (or SIGTERM) stops it in order;
the same command finds the data again.";

/// Run a whole cluster in this process: a metadata manager, data servers on files, volumes over NBD.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    /// Directory of everything the cluster keeps; made if it is not there.
    #[arg(long, default_value = "./sds-data")]
    pub(crate) dir: PathBuf,
    /// Data servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(SDS_MAX)))]
    pub(crate) sds: u16,
    /// Devices (files) of each data server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(DEVICES_MAX)))]
    pub(crate) devices_per_sds: u16,
    /// Copies of each block, each at another data server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) copies: u8,
    /// Size of each device; it is written once when it is made.
    #[arg(long, default_value = "1GiB")]
    pub(crate) device_size: Size,
    /// A volume to have, NAME=SIZE; may be repeated. One that exists is kept as it is.
    #[arg(long = "volume", value_parser = parse_volume, default_value = "demo=1GiB")]
    pub(crate) volumes: Vec<VolumeArg>,
    /// Where NBD clients connect.
    #[arg(long, default_value = "127.0.0.1:10809")]
    pub(crate) nbd: SocketAddr,
    /// A unix socket for NBD clients besides.
    #[arg(long)]
    pub(crate) nbd_socket: Option<PathBuf>,
    /// Where the API is.
    #[arg(long, default_value = "127.0.0.1:9780")]
    pub(crate) rest: SocketAddr,
    /// Where further data servers and clients reach the metadata manager; any free port if not said.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) control: SocketAddr,
    /// Memory for payload buffers, shared by all servers and the client.
    #[arg(long, default_value = "192MiB")]
    pub(crate) memory: Size,
}

/// A volume to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeArg {
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) size: Size,
}

fn parse_volume(text: &str) -> Result<VolumeArg, String> {
    let (name, size) = text.split_once('=').ok_or_else(|| format!("{text:?} is no volume: write NAME=SIZE, such as demo=1GiB"))?;
    Ok(VolumeArg { name: name.to_owned(), size: size.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_volume_is_printed_as_it_is_typed(text in "\\PC{0,8}=?[0-9]{0,20} ?[KMGTkmgtib]{0,4}\\PC{0,2}") {
            if let Ok(VolumeArg { name, size }) = parse_volume(&text) {
                let again = parse_volume(&format!("{name}={size}"));
                proptest::prop_assert_eq!(again, Ok(VolumeArg { name, size }));
            }
        }
    }

    #[test]
    fn a_volume_is_a_name_and_a_size() {
        let volume = parse_volume("demo=1GiB").expect("well formed");
        assert_eq!((volume.name.as_str(), volume.size.bytes()), ("demo", 1 << 30));
        assert!(parse_volume("demo").expect_err("no size").contains("NAME=SIZE"));
        assert!(parse_volume("demo=much").is_err());
    }
}
