//! A failing run on paper: what `vopr --replay` needs to tell it again.
//!
//! Must not know: what a run is.

use crate::canary::Canary;
use crate::retell::Kept;
use crate::run::Case;
use sds_core::map::Copies;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The commit that this was built from; `unknown` outside of a repository.
pub const COMMIT: &str = env!("VOPR_COMMIT");

/// Of the form of the file.
const VERSION: u32 = 1;
/// Larger files are none of ours.
const BYTES_MAX: u64 = 16 << 20;

/// A seed file's contents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    version: u32,
    /// The commit that the run was found with.
    pub commit: String,
    seed: u64,
    copies: Option<u8>,
    canary: Option<String>,
    /// What was wrong.
    pub violation: String,
    faults: Vec<usize>,
    wishes: Vec<(usize, u64)>,
}

/// Why a seed file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeedFileError {
    /// It cannot be read or written.
    #[error("cannot {attempt} seed file {}: {cause}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// It is no seed file.
    #[error("{} is not a seed file of this vopr: {reason}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl SeedFile {
    /// The file of a run.
    #[must_use]
    pub fn new(case: &Case, kept: &Kept, violation: &str) -> Self {
        let copies = case.copies.map(|copies| u8::try_from(copies.count()).unwrap_or(u8::MAX));
        Self {
            version: VERSION,
            commit: COMMIT.to_owned(),
            seed: case.seed,
            copies,
            canary: case.canary.map(|canary| canary.to_string()),
            violation: violation.lines().next().unwrap_or_default().to_owned(),
            faults: kept.faults.iter().copied().collect(),
            wishes: kept.wishes.iter().copied().collect(),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), SeedFileError> {
        let failed = |cause| SeedFileError::File { attempt: "write", path: path.to_owned(), cause };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        std::fs::write(path, text + "\n").map_err(failed)
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, SeedFileError> {
        let failed = |cause| SeedFileError::File { attempt: "read", path: path.to_owned(), cause };
        let form = |reason: String| SeedFileError::Form { path: path.to_owned(), reason };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > BYTES_MAX {
            return Err(form(format!("it has {length} bytes, and none has more than {BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let file: Self = serde_json::from_str(&text).map_err(|error| form(error.to_string()))?;
        if file.version != VERSION {
            return Err(form(format!("its form has version {}, this vopr knows {VERSION}", file.version)));
        }
        file.case().map_err(form)?;
        Ok(file)
    }

    /// The run that it is of.
    ///
    /// # Errors
    /// What about it is unknown here.
    pub fn case(&self) -> Result<Case, String> {
        let copies = self.copies.map(|copies| Copies::try_from(copies).map_err(|error| error.to_string())).transpose()?;
        let canary = self.canary.as_deref().map(|name| name.parse::<Canary>().map_err(|error| error.to_string())).transpose()?;
        Ok(Case { seed: self.seed, copies, canary })
    }

    /// What is kept.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept { faults: self.faults.iter().copied().collect(), wishes: self.wishes.iter().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_seed_file_is_refused_and_says_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("seed.json");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("writes");
            SeedFile::read(&path).map_err(|error| error.to_string())
        };
        let case = Case { seed: 7, copies: Some(Copies::Two), canary: Some(Canary::FlushIgnored) };
        let file = SeedFile::new(&case, &Kept { faults: [3].into(), wishes: [(0, 9)].into() }, "wrong\nand more");
        file.write(&path).expect("writes");
        let good = std::fs::read_to_string(&path).expect("reads");
        let again = read(&good).expect("is one");
        assert_eq!((again.case(), again.kept(), again.violation.as_str()), (Ok(case), file.kept(), "wrong"));
        for (from, to, why) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"copies\":2", "\"copies\":3", "not a seed file"),
            ("flush-ignored", "no-such-bug", "no-such-bug"),
            ("{", "", "not a seed file"),
            ("\"seed\"", "\"sead\"", "sead"),
        ] {
            let error = read(&good.replacen(from, to, 1)).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        let error = SeedFile::read(&directory.path().join("absent")).expect_err("is absent").to_string();
        assert!(error.starts_with("cannot read seed file"), "{error}");
    }
}
