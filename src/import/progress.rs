//! The progress bar: bytes of the file, on a terminal only.

use super::Summary;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(super) struct Progress {
    bar: ProgressBar,
    bytes_read: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn new(file: &Path, bytes_read: Arc<AtomicU64>) -> Self {
        let bar = ProgressBar::new(std::fs::metadata(file).map_or(0, |m| m.len()));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {elapsed}") {
            bar.set_style(style);
        }
        Self { bar, bytes_read }
    }

    pub(super) fn show(&self, so_far: &Summary) {
        self.bar.set_position(self.bytes_read.load(Ordering::Relaxed));
        self.bar.set_message(format!("line {}, {} errors", so_far.last_line, so_far.errors));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
