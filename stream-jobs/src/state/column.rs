//! A growable column in chunks that are copied on write.

use std::sync::Arc;

/// Values a chunk holds.
pub const CHUNK: usize = 1024;

#[derive(Debug)]
enum Chunk<T> {
    Owned(Vec<T>),
    /// A frozen copy may hold this chunk; it is taken back (or copied) before the next write.
    Shared(Arc<Vec<T>>),
}

impl<T: Clone> Chunk<T> {
    #[inline]
    fn values(&self) -> &[T] {
        match self {
            Self::Owned(v) => v,
            Self::Shared(v) => v,
        }
    }

    #[inline]
    fn values_mut(&mut self) -> &mut Vec<T> {
        if matches!(self, Self::Shared(_)) {
            self.take_back();
        }
        match self {
            Self::Owned(v) => v,
            Self::Shared(v) => Arc::make_mut(v),
        }
    }

    #[cold]
    fn take_back(&mut self) {
        if let Self::Shared(shared) = self {
            let taken = std::mem::take(shared);
            *self = Self::Owned(Arc::try_unwrap(taken).unwrap_or_else(|held| held.as_ref().clone()));
        }
    }

    fn share(&mut self) -> Self {
        if let Self::Owned(values) = self {
            *self = Self::Shared(Arc::new(std::mem::take(values)));
        }
        match self {
            Self::Shared(v) => Self::Shared(Arc::clone(v)),
            Self::Owned(v) => Self::Owned(v.clone()),
        }
    }
}

#[derive(Debug)]
pub struct Column<T> {
    chunks: Vec<Chunk<T>>,
    len: usize,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Clone> Column<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, value: T) {
        if self.len.is_multiple_of(CHUNK) {
            self.add_chunk();
        }
        if let Some(last) = self.chunks.last_mut() {
            last.values_mut().push(value);
            self.len += 1;
        }
    }

    /// The first chunk grows as it is filled: there may be many small columns. The others will be filled.
    fn add_chunk(&mut self) {
        let capacity = if self.chunks.is_empty() { 0 } else { CHUNK };
        self.chunks.push(Chunk::Owned(Vec::with_capacity(capacity)));
    }

    /// Grows to `len` with copies of `value`.
    pub fn grow(&mut self, len: usize, value: T) {
        while self.len < len {
            if self.len.is_multiple_of(CHUNK) {
                self.add_chunk();
            }
            let more = (CHUNK - self.len % CHUNK).min(len - self.len);
            if let Some(last) = self.chunks.last_mut() {
                let values = last.values_mut();
                values.resize(values.len() + more, value.clone());
            }
            self.len += more;
        }
    }

    /// `index` < `len`.
    #[inline]
    pub fn get(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK].values()[index % CHUNK]
    }

    /// `index` < `len`.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK].values_mut()[index % CHUNK]
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|c| c.values().iter())
    }

    /// A copy that shares every chunk.
    pub fn freeze(&mut self) -> Self {
        Self { chunks: self.chunks.iter_mut().map(Chunk::share).collect(), len: self.len }
    }
}

impl<T: Clone> FromIterator<T> for Column<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut column = Self::default();
        for v in values {
            column.push(v);
        }
        column
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_copy_keeps_its_values_while_the_live_column_changes() {
        let mut live: Column<i64> = (0..3000).collect();
        let frozen = live.freeze();
        *live.get_mut(1500) = -1;
        live.push(9);
        live.grow(5000, 7);
        assert_eq!(frozen.len(), 3000);
        assert!(frozen.iter().copied().eq(0..3000));
        assert_eq!((*live.get(1500), *live.get(3000), *live.get(4999), live.len()), (-1, 9, 7, 5000));
    }
}
