//! The dictionary of an operator's keys: key bytes to a small integer and back.

use super::column::Column;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, UInt32Array};
use arrow_row::{RowConverter, RowParser, SortField};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::take::take;
use hashbrown::HashTable;
use std::{cell::RefCell, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

const ARENA_CHUNK: usize = 64 * 1024;
/// Keys that are hashed, and then guessed by their hashes, before the first of them is compared: so what waits for memory overlaps.
const HASHED_AHEAD: usize = 256;

/// Fewer ids, or a smaller share of all of them, are sorted by themselves.
const KEPT_ORDER_MIN: usize = 1024;
const KEPT_ORDER_SHARE: usize = 4;

/// A key of up to 23 bytes, or where a longer one stands in the arena: chunk, start and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot([u8; 24]);

/// The last byte is the length of a key that stands in its slot, or this.
const ELSEWHERE: u8 = u8::MAX;

impl Slot {
    fn of(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; 24];
        bytes.get_mut(..key.len()).filter(|_| key.len() < 24)?.copy_from_slice(key);
        bytes[23] = key.len() as u8;
        Some(Self(bytes))
    }

    fn elsewhere(chunk: usize, start: usize, len: usize) -> Self {
        let mut bytes = [0; 24];
        for (i, number) in [chunk, start, len].into_iter().enumerate() {
            bytes[i * 4..][..4].copy_from_slice(&(number as u32).to_le_bytes());
        }
        bytes[23] = ELSEWHERE;
        Self(bytes)
    }

    fn key<'a>(&'a self, chunk: impl FnOnce(usize) -> &'a [u8]) -> &'a [u8] {
        if self.0[23] != ELSEWHERE {
            return &self.0[..usize::from(self.0[23])];
        }
        let number = |i: usize| u32::from_le_bytes([self.0[i], self.0[i + 1], self.0[i + 2], self.0[i + 3]]) as usize;
        &chunk(number(0))[number(4)..][..number(8)]
    }
}

/// Interns key bytes. Ids count from 0 in the order of first sight, so they are a function of the log alone.
#[derive(Debug, Default)]
pub struct KeyDictionary {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    slots: Column<Slot>,
    /// Keys that are too long for a slot.
    arena: Vec<Arc<Vec<u8>>>,
    /// The chunk that still grows; moved into `arena` when it is full.
    open: Vec<u8>,
    /// The first ids, as many as there were when most of them were sorted last, by their keys.
    order: RefCell<Vec<u32>>,
}

impl KeyDictionary {
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub fn key(&self, id: u32) -> &[u8] {
        self.slots.get(id as usize).key(|chunk| self.arena.get(chunk).map_or(self.open.as_slice(), |c| c.as_slice()))
    }

    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.find_hashed(key, xxh3_64(key))
    }

    fn find_hashed(&self, key: &[u8], hash: u64) -> Option<u32> {
        // The table compares seven bits of the hash itself; looking the rest up would cost a cache miss more than it saves.
        match Slot::of(key) {
            Some(slot) => self.table.find(hash, |&id| *self.slots.get(id as usize) == slot),
            None => self.table.find(hash, |&id| self.key(id) == key),
        }
        .copied()
    }

    /// The id of `key`, new or known.
    pub fn intern(&mut self, key: &[u8]) -> u32 {
        self.intern_hashed(key, xxh3_64(key))
    }

    fn intern_hashed(&mut self, key: &[u8], hash: u64) -> u32 {
        if let Some(id) = self.find_hashed(key, hash) {
            return id;
        }
        let id = self.hashes.len() as u32;
        let slot = Slot::of(key).unwrap_or_else(|| {
            if self.open.len() + key.len() > ARENA_CHUNK && !self.open.is_empty() {
                self.arena.push(Arc::new(std::mem::take(&mut self.open)));
            }
            self.open.extend_from_slice(key);
            Slot::elsewhere(self.arena.len(), self.open.len() - key.len(), key.len())
        });
        self.slots.push(slot);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(hash, id, |&i| hashes[i as usize]);
        id
    }

    /// Ids of `keys`, row by row.
    pub fn intern_all<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, ids: &mut Vec<u32>) {
        let mut keys = keys.fuse();
        let mut ahead: Vec<(&[u8], u64, Option<u32>)> = Vec::with_capacity(HASHED_AHEAD);
        loop {
            ahead.extend(keys.by_ref().take(HASHED_AHEAD).map(|key| (key, xxh3_64(key), None)));
            if ahead.is_empty() {
                return;
            }
            for (_, hash, guess) in &mut ahead {
                *guess = self.table.find(*hash, |_| true).copied();
            }
            ids.extend(ahead.drain(..).map(|(key, hash, guess)| match guess {
                Some(id) if Slot::of(key).is_some_and(|slot| *self.slots.get(id as usize) == slot) => id,
                _ => self.intern_hashed(key, hash),
            }));
        }
    }

    /// Sorts `ids`, of which none stands twice, by their keys' bytes. Windows close with much the same keys one after the other: the order of
    /// all of them is kept, and where most are asked for they are picked out of it.
    pub fn sort(&self, ids: &mut [u32]) {
        if ids.len() < KEPT_ORDER_MIN || ids.len() * KEPT_ORDER_SHARE < self.len() {
            return self.sort_by_heads(ids);
        }
        let mut order = self.order.borrow_mut();
        if order.len() < self.len() {
            let mut new: Vec<u32> = (order.len() as u32..self.len() as u32).collect();
            self.sort_by_heads(&mut new);
            *order = self.merged(&order, &new);
        }
        let mut wanted = vec![0_u64; self.len().div_ceil(64)];
        ids.iter().for_each(|id| wanted[*id as usize / 64] |= 1 << (id % 64));
        let picked = order.iter().filter(|id| wanted[**id as usize / 64] & (1 << (**id % 64)) != 0);
        ids.iter_mut().zip(picked).for_each(|(id, picked)| *id = *picked);
    }

    fn merged(&self, left: &[u32], right: &[u32]) -> Vec<u32> {
        let mut merged = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.iter().copied().peekable(), right.iter().copied().peekable());
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            merged.extend(if self.key(*l) < self.key(*r) { left.next() } else { right.next() });
        }
        merged.extend(left);
        merged.extend(right);
        merged
    }

    /// Keys of one tenant begin alike, so what decides stands behind the common prefix: eight bytes of it beside each id, and the keys
    /// themselves, which lie far apart in memory, are looked at only where those are equal.
    fn sort_by_heads(&self, ids: &mut [u32]) {
        let Some(first) = ids.first().map(|id| self.key(*id)) else { return };
        let common = ids.iter().fold(first.len(), |n, id| first[..n].iter().zip(self.key(*id)).take_while(|(a, b)| a == b).count());
        let mut heads: Vec<(u64, u32)> = ids.iter().map(|id| (head(&self.key(*id)[common..]), *id)).collect();
        heads.sort_unstable_by(|(a, i), (b, j)| a.cmp(b).then_with(|| self.key(*i).cmp(self.key(*j))));
        ids.iter_mut().zip(heads).for_each(|(id, (_, sorted))| *id = sorted);
    }

    /// A copy for a snapshot: shares the full chunks, copies the open one.
    pub fn freeze(&mut self) -> FrozenKeys {
        let mut arena = self.arena.clone();
        arena.push(Arc::new(self.open.clone()));
        FrozenKeys { slots: self.slots.freeze(), arena }
    }

    pub fn restore(keys: &BinaryArray) -> Self {
        let mut dictionary = Self::default();
        for i in 0..keys.len() {
            dictionary.intern(keys.value(i));
        }
        dictionary
    }
}

/// The first eight bytes as a number that sorts like them; a shorter text is filled up with zeros.
fn head(bytes: &[u8]) -> u64 {
    let mut head = [0; 8];
    let n = bytes.len().min(8);
    head[..n].copy_from_slice(&bytes[..n]);
    u64::from_be_bytes(head)
}

pub struct FrozenKeys {
    slots: Column<Slot>,
    arena: Vec<Arc<Vec<u8>>>,
}

impl FrozenKeys {
    pub fn to_array(&self) -> BinaryArray {
        let keys: Vec<&[u8]> = self.slots.iter().map(|slot| slot.key(|chunk| &self.arena[chunk])).collect();
        BinaryArray::from_iter_values(keys)
    }
}

/// How key columns become key bytes and back.
#[derive(Debug)]
pub enum KeyCodec {
    /// The record key itself: texts joined by `|`. No column is looked at on the way in.
    Record { columns: usize },
    /// Arrow's row format: sorts like the columns.
    Rows { converter: Box<RowConverter>, parser: RowParser },
}

impl KeyCodec {
    /// `types` of the key columns. `by_record_key` holds for text columns only.
    pub fn new(types: &[DataType], by_record_key: bool) -> Result<Self, ArrowError> {
        if by_record_key && types.iter().all(|t| *t == DataType::Utf8) {
            return Ok(Self::Record { columns: types.len() });
        }
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        let parser = converter.parser();
        Ok(Self::Rows { converter: Box::new(converter), parser })
    }

    pub fn uses_record_key(&self) -> bool {
        matches!(self, Self::Record { .. })
    }

    /// Key columns of the keys, in order.
    pub fn decode<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        match self {
            Self::Record { columns } => Ok(split_keys(keys, *columns)),
            Self::Rows { converter, parser } => {
                let keys: Vec<&[u8]> = keys.collect();
                if keys.is_empty() {
                    return converter.convert_rows(std::iter::empty::<arrow_row::Row<'_>>());
                }
                converter.convert_rows(keys.into_iter().map(|k| parser.parse(k)))
            }
        }
    }

    /// Interns the keys of `columns` (or of `record_keys`) into `dictionary`.
    pub fn intern(&self, dictionary: &mut KeyDictionary, columns: &[ArrayRef], record_keys: Option<&BinaryArray>, rows: usize) -> Result<Vec<u32>, ArrowError> {
        let mut ids = Vec::with_capacity(rows);
        match (self, record_keys) {
            (Self::Record { .. }, Some(keys)) => dictionary.intern_all((0..keys.len()).map(|i| keys.value(i)), &mut ids),
            (Self::Record { columns: n }, None) => {
                let joined = join_keys(columns, *n, rows);
                dictionary.intern_all(joined.iter().map(String::as_bytes), &mut ids);
            }
            (Self::Rows { .. }, _) if columns.is_empty() => {
                for _ in 0..rows {
                    ids.push(dictionary.intern(&[]));
                }
            }
            (Self::Rows { converter, .. }, _) => {
                let encoded = converter.convert_columns(columns)?;
                dictionary.intern_all(encoded.iter().map(|r| r.data()), &mut ids);
            }
        }
        Ok(ids)
    }
}

fn split_keys<'a>(keys: impl Iterator<Item = &'a [u8]>, columns: usize) -> Vec<ArrayRef> {
    let mut builders: Vec<arrow_array::builder::StringBuilder> = (0..columns).map(|_| arrow_array::builder::StringBuilder::new()).collect();
    for key in keys {
        let text = String::from_utf8_lossy(key);
        let mut parts = text.splitn(columns, '|');
        for b in &mut builders {
            b.append_option(parts.next());
        }
    }
    builders.into_iter().map(|mut b| Arc::new(b.finish()) as ArrayRef).collect()
}

fn join_keys(columns: &[ArrayRef], n: usize, rows: usize) -> Vec<String> {
    let texts: Vec<Option<&StringArray>> = columns.iter().take(n).map(|c| c.as_any().downcast_ref()).collect();
    (0..rows)
        .map(|row| {
            let parts: Vec<&str> = texts.iter().map(|t| t.filter(|t| t.is_valid(row)).map_or("", |t| t.value(row))).collect();
            parts.join("|")
        })
        .collect()
}

/// Rows of a schema as bytes and back: how tables keep their rows.
pub struct RowCodec {
    converter: RowConverter,
    parser: RowParser,
    schema: SchemaRef,
}

impl RowCodec {
    pub fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect())?;
        let parser = converter.parser();
        Ok(Self { converter, parser, schema })
    }

    pub fn encode(&self, batch: &RecordBatch) -> Result<Vec<Arc<[u8]>>, ArrowError> {
        if self.schema.fields().is_empty() {
            return Ok(vec![Arc::from(&[][..]); batch.num_rows()]);
        }
        let rows = self.converter.convert_columns(batch.columns())?;
        Ok(rows.iter().map(|r| Arc::from(r.data())).collect())
    }

    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, ArrowError> {
        let rows: Vec<&[u8]> = rows.collect();
        let columns = self.columns(&rows)?;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.len())))
    }

    fn columns(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.schema.fields().is_empty() {
            return Ok(Vec::new());
        }
        self.converter.convert_rows(rows.iter().map(|r| self.parser.parse(r)))
    }

    /// The columns of `rows`, null where there is none.
    pub fn columns_of<'a>(&self, rows: impl Iterator<Item = Option<&'a [u8]>>) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut there: Vec<&[u8]> = Vec::new();
        let place = |row: Option<&'a [u8]>| {
            row.map(|row| {
                there.push(row);
                there.len() as u32 - 1
            })
        };
        let places: UInt32Array = rows.map(place).collect();
        self.columns(&there)?.iter().map(|column| take(column, &places, None)).collect()
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl std::fmt::Debug for RowCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowCodec").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_are_found_again_and_kept() {
        let text = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 7 + n) as u8).collect() };
        let mut dictionary = KeyDictionary::default();
        // Zeros at the end and keys that are another's beginning are keys of their own; the long ones fill more than a chunk.
        let mut keys: Vec<Vec<u8>> = (0..600).map(text).chain([vec![0; 22], vec![0; 23], vec![0; 24], vec![0; 25], text(ARENA_CHUNK + 1)]).collect();
        keys.extend((0..23).map(|n| [text(n), vec![0]].concat()));
        let mut ids = Vec::new();
        dictionary.intern_all(keys.iter().map(Vec::as_slice), &mut ids);
        assert_eq!(ids, (0..keys.len() as u32).collect::<Vec<_>>());
        let kept = KeyDictionary::restore(&dictionary.freeze().to_array());
        for (id, key) in ids.iter().zip(&keys) {
            assert_eq!((dictionary.key(*id), kept.key(*id)), (key.as_slice(), key.as_slice()));
            assert_eq!((dictionary.find(key), dictionary.intern(key)), (Some(*id), *id));
        }
        assert_eq!(dictionary.find(&[0; 26]), None);
    }

    #[test]
    fn an_order_that_is_kept_is_that_of_the_keys_however_they_come() {
        let mut dictionary = KeyDictionary::default();
        for round in 0..6_u64 {
            // New keys fall between the old ones, and every second of them is asked for.
            let key = |n: u64| format!("acme|s{}", xxh3_64(&(round * 3_000 + n).to_le_bytes()));
            for n in 0..3_000 {
                dictionary.intern(key(n).as_bytes());
            }
            for step in [1, 2, 3, 50] {
                let mut ids: Vec<u32> = (0..dictionary.len() as u32).rev().step_by(step).collect();
                let mut sorted: Vec<&[u8]> = ids.iter().map(|id| dictionary.key(*id)).collect();
                sorted.sort_unstable();
                dictionary.sort(&mut ids);
                assert!(ids.iter().map(|id| dictionary.key(*id)).eq(sorted), "round {round}, step {step}");
            }
        }
    }

    #[test]
    fn ids_sort_as_their_keys_do_whatever_the_keys_begin_with() {
        let mut dictionary = KeyDictionary::default();
        let texts: [&[u8]; 9] =
            [b"acme|s2", b"acme|s10", b"acme|s", b"acme|s\0", b"acme|s10000000b", b"acme|s10000000a", b"acme|\xff", b"acme|s10\0\0", b"acme|s1"];
        let mut ids: Vec<u32> = texts.iter().map(|t| dictionary.intern(t)).collect();
        let mut sorted = texts;
        sorted.sort_unstable();
        for _ in 0..texts.len() {
            ids.rotate_left(1);
            let mut found = ids.clone();
            dictionary.sort(&mut found);
            assert_eq!(found.iter().map(|id| dictionary.key(*id)).collect::<Vec<_>>(), sorted);
        }
        dictionary.sort(&mut []);
        let mut one = [dictionary.intern(b"")];
        dictionary.sort(&mut one);
    }
}
