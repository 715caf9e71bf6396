//! The committed corpus, and what the encoders of today make, through every target without an engine: what was found once
//! stays found.

use sds_fuzz::TARGETS;
use std::panic::catch_unwind;
use std::path::Path;

/// Longest committed input.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Most committed inputs of one target.
const INPUTS_MAX: usize = 100;

/// One test for all and alone in its file: memory is counted by the process.
#[test]
fn every_committed_input_keeps_the_decoders_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut broken = Vec::new();
    for target in TARGETS {
        let mut paths: Vec<_> = std::fs::read_dir(corpus.join(target.name))
            .unwrap_or_else(|error| panic!("no corpus of {}: {error}; cargo run -p sds-fuzz --bin seeds", target.name))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        assert!((1..=INPUTS_MAX).contains(&paths.len()), "{} has {} inputs", target.name, paths.len());
        for (number, seed) in (target.seeds)().iter().enumerate() {
            if catch_unwind(|| (target.run)(seed)).is_err() {
                broken.push(format!("seed {number} of {}", target.name).into());
            }
        }
        for path in paths {
            let input = std::fs::read(&path).expect("an input");
            assert!(input.len() <= INPUT_BYTES_MAX, "{} is too long to be kept", path.display());
            if catch_unwind(|| (target.run)(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break a promise: {broken:?}");
}
