//! The command line: what can be typed, with help and examples.

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sds_server::Size;
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  sdsctl status
  sdsctl volume create scratch --size 10GiB
  sdsctl volume create fast --size 512M --stripe-unit 64KiB --stripe-width 16
  sdsctl volume list --output json
  sdsctl --api 10.0.0.1:9780 volume delete scratch
  sdsctl shard list --state degraded
  sdsctl shard show default/17
  sdsctl completion bash > /etc/bash_completion.d/sdsctl

Sizes are bytes or a number with KiB, MiB, GiB, TiB (also K, M, G, T); all are powers of 1024.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the API cannot be reached.";

/// Operates the block store: volumes, pools, status.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Address of the MDM's API.
    #[arg(long, global = true, env = "SDSCTL_API", value_name = "ADDR:PORT", default_value = "127.0.0.1:9780")]
    pub(crate) api: String,
    /// Tables for people or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, list, show and delete volumes.
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
    /// Make and list storage pools.
    Pool {
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// List and show shards, and force a copy of one.
    Shard {
        #[command(subcommand)]
        command: ShardCommand,
    },
    /// Show what was done that may have lost data: lone starts and forced copies, oldest first.
    Audit,
    /// Show the system: MDM, data servers, devices, capacity, shards, volumes, and what needs attention.
    Status,
    Up(crate::up::UpArgs),
    /// Print a script that completes command lines in a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume. Space is taken when it is written first.
    Create {
        /// Its name: 1 to 63 letters, digits, '.', '_', '-', a letter or digit first.
        name: String,
        /// Its size, a multiple of 4 KiB.
        #[arg(long)]
        size: Size,
        /// Its pool.
        #[arg(long, default_value = "default")]
        pool: String,
        /// Consecutive bytes that lie in one extent: a power of two from 4 KiB to 1 MiB. Default: 128 KiB.
        #[arg(long, value_name = "SIZE")]
        stripe_unit: Option<Size>,
        /// Extents that a stripe goes over. Default: 8.
        #[arg(long, value_name = "N")]
        stripe_width: Option<u32>,
        /// Repeating the command with the same key makes one volume.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List all volumes.
    List,
    /// Show one volume and who has it open.
    Show {
        /// Its name.
        name: String,
    },
    /// Delete a volume and everything on it. One that is open is refused.
    Delete {
        /// Its name.
        name: String,
    },
}

/// A shard as it is typed: POOL/NUMBER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardName {
    pub(crate) pool: String,
    pub(crate) number: u32,
}

impl FromStr for ShardName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no shard: write POOL/NUMBER, such as default/17");
        let (pool, number) = text.rsplit_once('/').filter(|(pool, _)| !pool.is_empty()).ok_or_else(wrong)?;
        Ok(Self { pool: pool.to_owned(), number: number.parse().map_err(|_| wrong())? })
    }
}

/// How a shard is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShardStateArg {
    /// With all its copies in sync.
    Clean,
    /// With a copy less.
    Degraded,
    /// With a copy less, while another joins.
    Rebuilding,
    /// Not at all.
    Unavailable,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShardCommand {
    /// List shards: who holds them and what they wait for.
    List {
        /// Of this pool only.
        #[arg(long)]
        pool: Option<String>,
        /// In this state only.
        #[arg(long, value_enum)]
        state: Option<ShardStateArg>,
        /// With this device only (its number).
        #[arg(long, value_name = "NUMBER")]
        device: Option<u32>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=sds_core::limits::SHARDS_LISTED_MAX as i64))]
        limit: u32,
    },
    /// Show one shard: its epoch, its copies and their lives, what it waits for and why.
    Show {
        /// POOL/NUMBER.
        shard: ShardName,
    },
    /// Make a copy the shard's only one, when no copy in sync can come: what it lacks is LOST.
    ///
    /// Refused while a copy in sync is there. Counted in the status, and written to the audit log.
    Force {
        /// POOL/NUMBER.
        shard: ShardName,
        /// The device that has the copy (its number).
        #[arg(long, value_name = "NUMBER")]
        device: u32,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool; data servers name it in the configuration of their devices.
    Create {
        /// Its name.
        name: String,
        /// How many shards it is divided into.
        #[arg(long, default_value_t = sds_core::limits::SHARDS_PER_POOL_DEFAULT)]
        shards: u32,
        /// How many copies of each shard it keeps, each in another fault set.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        copies: u8,
    },
    /// List all pools.
    List,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let size = |text: &str| match Cli::try_parse_from(["sdsctl", "volume", "create", "a", "--size", text]) {
            Ok(Cli { command: Command::Volume { command: VolumeCommand::Create { size, .. } }, .. }) => Some(size.bytes()),
            _ => None,
        };
        let good = [("4096", 4096), ("10GiB", 10 << 30), ("512M", 512 << 20), ("1t", 1 << 40), ("64 KiB", 64 << 10), ("0", 0)];
        for (text, bytes) in good {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "1Q", "99999999999999999999", "9000000T", "0x10"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_shard_is_a_pool_and_a_number() {
        let shard = |text: &str| text.parse::<ShardName>().map(|shard| (shard.pool, shard.number)).ok();
        assert_eq!(shard("default/17"), Some(("default".to_owned(), 17)));
        for text in ["", "17", "/17", "default/", "default/-1", "default/x", "default/4294967296"] {
            assert_eq!(shard(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_shard_is_printed_as_it_is_typed(text in "(\\PC{0,8}/)?\\PC{0,8}(/[0-9+-]{0,12})?") {
            if let Ok(ShardName { pool, number }) = text.parse::<ShardName>() {
                let again = format!("{pool}/{number}").parse();
                proptest::prop_assert_eq!(again, Ok(ShardName { pool, number }));
            }
        }
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        for line in [["sdsctl", "--api", "h:1", "volume", "list"], ["sdsctl", "volume", "list", "--api", "h:1"]] {
            assert_eq!(Cli::try_parse_from(line).expect("parses").api, "h:1");
        }
        let cli = Cli::try_parse_from(["sdsctl", "status", "--output", "json"]).expect("parses");
        assert_eq!(cli.output, Output::Json);
    }
}
