//! The file of the rows that could not be taken: JSON Lines of file, line, reason and text. Created with its first row.

use super::payload::RowError;
use anyhow::Context;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

pub(super) struct ErrorFile {
    /// The imported file, as the rows name it.
    of: String,
    path: PathBuf,
    /// An import that goes on adds to what the one before it wrote.
    append: bool,
    writer: Option<BufWriter<File>>,
}

/// `<FILE>.errors.jsonl` in the current folder.
pub fn default_path(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.errors.jsonl", file.file_name().unwrap_or_default().to_string_lossy()))
}

impl ErrorFile {
    pub(super) fn new(of: &Path, path: &Path, append: bool) -> Self {
        Self { of: of.display().to_string(), path: path.to_owned(), append, writer: None }
    }

    pub(super) fn write(&mut self, error: &RowError) -> anyhow::Result<()> {
        let failed = || format!("cannot write the error file `{}`", self.path.display());
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let file = File::options().create(true).write(true).append(self.append).truncate(!self.append).open(&self.path).with_context(failed)?;
                none.insert(BufWriter::new(file))
            }
        };
        let row = serde_json::json!({"file": self.of, "line": error.line, "reason": error.reason, "text": error.text});
        writeln!(writer, "{row}").with_context(failed)
    }

    /// The file, when there is one.
    pub(super) fn finish(&mut self) -> anyhow::Result<Option<PathBuf>> {
        let Some(mut writer) = self.writer.take() else { return Ok(None) };
        writer.flush().with_context(|| format!("cannot write the error file `{}`", self.path.display()))?;
        Ok(Some(self.path.clone()))
    }
}
