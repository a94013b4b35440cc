//! The dictionary of an operator's keys: key bytes to a small integer and back.

use super::column::Column;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, UInt32Array};
use arrow_row::{RowConverter, RowParser, SortField};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::take::take;
use hashbrown::HashTable;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const ARENA_CHUNK: usize = 64 * 1024;

/// Interns key bytes. Ids count from 0 in the order of first sight, so they are a function of the log alone.
#[derive(Debug, Default)]
pub struct KeyDictionary {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    /// Where a key's bytes stand: chunk, start, length.
    places: Column<(u32, u32, u32)>,
    arena: Vec<Arc<Vec<u8>>>,
    /// The chunk that still grows; moved into `arena` when it is full.
    open: Vec<u8>,
}

impl KeyDictionary {
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub fn key(&self, id: u32) -> &[u8] {
        let (chunk, start, len) = *self.places.get(id as usize);
        let bytes: &[u8] = self.arena.get(chunk as usize).map_or(self.open.as_slice(), |c| c.as_slice());
        &bytes[start as usize..(start + len) as usize]
    }

    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.table.find(xxh3_64(key), |&id| self.key(id) == key).copied()
    }

    /// The id of `key`, new or known.
    pub fn intern(&mut self, key: &[u8]) -> u32 {
        let hash = xxh3_64(key);
        // The table compares seven bits of the hash itself; looking the rest up would cost a cache miss more than it saves.
        let known = self.table.find(hash, |&id| self.key(id) == key).copied();
        if let Some(id) = known {
            return id;
        }
        let id = self.hashes.len() as u32;
        if self.open.len() + key.len() > ARENA_CHUNK && !self.open.is_empty() {
            self.arena.push(Arc::new(std::mem::take(&mut self.open)));
        }
        self.places.push((self.arena.len() as u32, self.open.len() as u32, key.len() as u32));
        self.open.extend_from_slice(key);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(hash, id, |&i| hashes[i as usize]);
        id
    }

    /// Ids of `keys`, row by row.
    pub fn intern_all<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, ids: &mut Vec<u32>) {
        ids.extend(keys.map(|k| self.intern(k)));
    }

    /// Sorts `ids` by their keys' bytes. Keys of one tenant begin alike, so what decides stands behind the common prefix: eight bytes of it
    /// beside each id, and the keys themselves, which lie far apart in memory, are looked at only where those are equal.
    pub fn sort(&self, ids: &mut [u32]) {
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
        FrozenKeys { places: self.places.freeze(), arena }
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
    places: Column<(u32, u32, u32)>,
    arena: Vec<Arc<Vec<u8>>>,
}

impl FrozenKeys {
    pub fn to_array(&self) -> BinaryArray {
        let keys: Vec<&[u8]> = self.places.iter().map(|&(chunk, start, len)| &self.arena[chunk as usize][start as usize..(start + len) as usize]).collect();
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
