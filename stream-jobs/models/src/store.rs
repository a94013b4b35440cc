//! Model files: `churn-<version>.json`, where the version is the hash of the contents, so that a name says which
//! model it is and a damaged file is found before it scores anybody.

use crate::ChurnModel;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_128;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read model file `{}`: {source}", .file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot write model file `{}`: {source}", .file.display())]
    Write { file: PathBuf, source: io::Error },
    #[error("model file `{}` is damaged: {reason}", .file.display())]
    Damaged { file: PathBuf, reason: String },
}

impl ChurnModel {
    /// Writes the model into the folder `path` as `churn-<version>.json` and returns the file. A file that is there
    /// already holds the same bytes, or is named as damaged.
    pub fn save(&self, path: &Path) -> Result<PathBuf, ModelError> {
        let file = path.join(format!("churn-{}.json", self.version));
        let failed = |source| ModelError::Write { file: file.clone(), source };
        fs::create_dir_all(path).map_err(failed)?;
        if file.exists() {
            return Self::load(&file).map(|_| file);
        }
        // Written beside and linked into place: a crash leaves no half file under the versioned name, and whoever
        // comes second finds a whole one.
        let unfinished = path.join(format!(".churn-{}.{}", self.version, std::process::id()));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished).map_err(failed)?;
        out.write_all(text(self).as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
        let linked = fs::hard_link(&unfinished, &file);
        fs::remove_file(&unfinished).map_err(failed)?;
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed(e)),
            _ => Ok(file),
        }
    }

    /// Reads a model file and verifies that its contents are those that its version stands for.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let damaged = |reason: String| ModelError::Damaged { file: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(|source| ModelError::Read { file: path.to_owned(), source })?;
        let model: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let expected = version_of(&model);
        if model.version != expected {
            return Err(damaged(format!("its contents have the hash `{expected}`, its version is `{}`", model.version)));
        }
        if text(&model).as_bytes() != bytes {
            return Err(damaged("its text is not the one that was written".to_owned()));
        }
        let features = model.features.len();
        if [model.weights.len(), model.means.len(), model.stds.len()] != [features; 3] {
            return Err(damaged(format!(
                "it has {features} features, {} weights, {} means and {} deviations",
                model.weights.len(),
                model.means.len(),
                model.stds.len()
            )));
        }
        Ok(model)
    }
}

/// Hash of the model with an empty version.
pub(crate) fn version_of(model: &ChurnModel) -> String {
    let unversioned = ChurnModel { version: String::new(), ..model.clone() };
    format!("{:032x}", xxh3_128(text(&unversioned).as_bytes()))
}

fn text(model: &ChurnModel) -> String {
    // Names and finite numbers: there is nothing in a model that JSON cannot say.
    serde_json::to_string_pretty(model).unwrap_or_default() + "\n"
}
