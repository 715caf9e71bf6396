//! The command line: what can be typed, with help and examples.

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sds_server::Size;

const EXAMPLES: &str = "\
Examples:
  sdsctl status
  sdsctl volume create scratch --size 10GiB
  sdsctl volume create fast --size 512M --stripe-unit 64KiB --stripe-width 16
  sdsctl volume list --output json
  sdsctl --api 10.0.0.1:9780 volume delete scratch
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
    fn global_flags_may_stand_anywhere() {
        for line in [["sdsctl", "--api", "h:1", "volume", "list"], ["sdsctl", "volume", "list", "--api", "h:1"]] {
            assert_eq!(Cli::try_parse_from(line).expect("parses").api, "h:1");
        }
        let cli = Cli::try_parse_from(["sdsctl", "status", "--output", "json"]).expect("parses");
        assert_eq!(cli.output, Output::Json);
    }
}
