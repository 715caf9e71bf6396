//! The corpus and the table of targets fit each other.

use std::path::Path;

/// `ci/fuzz` takes the targets from the directories.
#[test]
fn each_corpus_has_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(corpus).expect("a corpus") {
        let name = entry.expect("an entry").file_name();
        assert!(name.to_str().and_then(sds_fuzz::target).is_some(), "{} is the name of no target", name.display());
    }
}
