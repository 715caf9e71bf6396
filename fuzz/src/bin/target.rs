//! The engine around a target: libFuzzer's program, which `ci/fuzz` builds and runs. `FUZZ_TARGET` names the target.
//!
//! Must not know: any decoder.
#![no_main]

use sds_fuzz::{TARGETS, Target, target};
use std::sync::OnceLock;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() -> &'static Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("FUZZ_TARGET={name:?} is no target; the targets are {}", names.join(" "));
        std::process::exit(2)
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (CHOSEN.get_or_init(choose).run)(data));
