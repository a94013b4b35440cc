//! Blocks: the unit in which the embedded log stores records, framed so that a damaged or displaced one cannot be read.
//!
//! ```text
//! crc32c of the rest, topic id, partition, base offset, count, append_us, then per record:
//! key length or -1, value length or -1, µs after append_us, number of headers, key, value,
//! and per header: name length, value length, name, value
//! ```
//!
//! All numbers are little endian. A block names its own place under the checksum: a tree page that went astray and leads
//! to another, intact block is found as well.

use crate::log::payload_bytes;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use schemas::{NewRecord, Record};

/// What a block aims at. Just under a power of two, because redb gives a value pages of a power of two in all.
pub const BLOCK_BYTES_MAX: usize = 256 * 1024 - 512;
const HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 4 + 8;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub topic: u32,
    pub partition: u32,
    pub base_offset: u64,
}

/// Writes records into one block after the other.
pub struct BlockWriter {
    place: Place,
    count: u32,
    append_us: i64,
    bytes: BytesMut,
    done: Vec<(Place, Bytes)>,
}

impl BlockWriter {
    pub fn new(place: Place) -> Self {
        Self { place, count: 0, append_us: 0, bytes: BytesMut::new(), done: Vec::new() }
    }

    pub fn next_offset(&self) -> u64 {
        self.place.base_offset + u64::from(self.count)
    }

    pub fn push(&mut self, record: &NewRecord, append_us: i64) {
        let need = payload_bytes(record) + 16 + 8 * record.headers.len();
        let delta = u32::try_from(append_us - self.append_us).ok();
        if self.count > 0 && (self.bytes.len() + need > BLOCK_BYTES_MAX || delta.is_none()) {
            self.finish_block();
        }
        if self.count == 0 {
            self.append_us = append_us;
            self.bytes.reserve(need + HEADER_BYTES);
            self.bytes.put_bytes(0, HEADER_BYTES);
        }
        self.count += 1;
        put_part_len(&mut self.bytes, record.key.as_ref());
        put_part_len(&mut self.bytes, record.value.as_ref());
        self.bytes.put_u32_le((append_us - self.append_us) as u32);
        self.bytes.put_u32_le(record.headers.len() as u32);
        self.bytes.put_slice(record.key.as_deref().unwrap_or_default());
        self.bytes.put_slice(record.value.as_deref().unwrap_or_default());
        for (name, value) in &record.headers {
            self.bytes.put_u32_le(name.len() as u32);
            self.bytes.put_u32_le(value.len() as u32);
            self.bytes.put_slice(name.as_bytes());
            self.bytes.put_slice(value);
        }
    }

    /// The blocks, in order.
    pub fn finish(mut self) -> Vec<(Place, Bytes)> {
        if self.count > 0 {
            self.finish_block();
        }
        self.done
    }

    fn finish_block(&mut self) {
        let mut block = self.bytes.split();
        let mut header = &mut block[4..HEADER_BYTES];
        header.put_u32_le(self.place.topic);
        header.put_u32_le(self.place.partition);
        header.put_u64_le(self.place.base_offset);
        header.put_u32_le(self.count);
        header.put_i64_le(self.append_us);
        let crc = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.done.push((self.place, block.freeze()));
        self.place.base_offset += u64::from(self.count);
        self.count = 0;
    }
}

fn put_part_len(out: &mut BytesMut, part: Option<&Bytes>) {
    out.put_i32_le(part.map_or(-1, |p| p.len() as i32));
}

/// A block that verified, being read record by record. Keys and values are slices of it.
pub struct BlockReader {
    block: Bytes,
    at: usize,
    next_offset: u64,
    end: u64,
    append_us: i64,
}

impl BlockReader {
    /// Verifies `block`, which was found where the block at `place` belongs; says what is wrong with it.
    pub fn open(block: Bytes, place: Place) -> Result<Self, String> {
        if block.len() < HEADER_BYTES {
            return Err(format!("a block has {} bytes", block.len()));
        }
        let mut header = &block[..HEADER_BYTES];
        let (expected, found) = (header.get_u32_le(), crc32c::crc32c(&block[4..]));
        if expected != found {
            return Err(format!("checksum is {found:08x}, expected {expected:08x}"));
        }
        let own = Place { topic: header.get_u32_le(), partition: header.get_u32_le(), base_offset: header.get_u64_le() };
        if own != place {
            return Err(format!("block of offset {} of topic id {}, partition {} stands here", own.base_offset, own.topic, own.partition));
        }
        let count = u64::from(header.get_u32_le());
        let append_us = header.get_i64_le();
        Ok(Self { block, at: HEADER_BYTES, next_offset: own.base_offset, end: own.base_offset + count, append_us })
    }

    /// The offset that follows the block.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn is_read(&self) -> bool {
        self.next_offset == self.end
    }

    /// The next record with the bytes that it takes, framing included.
    pub fn next_record(&mut self) -> Option<(Record, usize)> {
        if self.next_offset == self.end {
            return None;
        }
        let start = self.at;
        let (key_len, value_len) = (self.take_i32(), self.take_i32());
        let append_us = self.append_us + i64::from(self.take_i32() as u32);
        let header_count = self.take_i32();
        let key = self.take_part(key_len);
        let value = self.take_part(value_len);
        let mut headers = Vec::with_capacity(usize::try_from(header_count).unwrap_or_default());
        for _ in 0..header_count {
            let (name_len, value_len) = (self.take_i32(), self.take_i32());
            let name = self.take_part(name_len).unwrap_or_default();
            let name = String::from_utf8_lossy(&name).into_owned();
            headers.push((name, self.take_part(value_len).unwrap_or_default()));
        }
        let record = Record { offset: self.next_offset, append_us, key, value, headers };
        self.next_offset += 1;
        Some((record, self.at - start))
    }

    /// Passes over the records before `offset`.
    pub fn skip_to(&mut self, offset: u64) {
        while self.next_offset < offset && self.next_record().is_some() {}
    }

    fn take_i32(&mut self) -> i32 {
        let v = (&self.block[self.at..]).get_i32_le();
        self.at += 4;
        v
    }

    fn take_part(&mut self, len: i32) -> Option<Bytes> {
        let len = usize::try_from(len).ok()?;
        let part = self.block.slice(self.at..self.at + len);
        self.at += len;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLACE: Place = Place { topic: 3, partition: 1, base_offset: 40 };

    fn records() -> Vec<NewRecord> {
        let mut all: Vec<_> = (0..3000).map(|i| NewRecord::new(format!("t|{i}"), vec![b'x'; 190])).collect();
        all[1].value = None;
        all[2].key = None;
        all[3].headers = vec![("a".into(), Bytes::from_static(b"1")), ("".into(), Bytes::new())];
        all
    }

    #[test]
    fn blocks_give_back_what_was_written_and_stay_within_their_size() {
        let mut writer = BlockWriter::new(PLACE);
        for (i, r) in records().iter().enumerate() {
            writer.push(r, 1_000_000 + i as i64 / 10);
        }
        let blocks = writer.finish();
        assert!(blocks.len() > 1 && blocks.iter().all(|(_, b)| b.len() <= BLOCK_BYTES_MAX));
        let mut read = Vec::new();
        for (place, block) in blocks {
            let mut reader = BlockReader::open(block, place).unwrap();
            assert_eq!(place.base_offset, 40 + read.len() as u64);
            while let Some((r, _)) = reader.next_record() {
                read.push(r);
            }
        }
        for (i, (r, new)) in read.iter().zip(records()).enumerate() {
            assert_eq!((r.offset, r.append_us), (40 + i as u64, 1_000_000 + i as i64 / 10));
            assert_eq!((&r.key, &r.value, &r.headers), (&new.key, &new.value, &new.headers));
        }
        assert_eq!(read.len(), 3000);
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_found() {
        let mut writer = BlockWriter::new(PLACE);
        writer.push(&records()[3], 7);
        let (_, block) = writer.finish().remove(0);
        for bit in 0..block.len() * 8 {
            let mut bad = block.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockReader::open(bad.into(), PLACE).is_err(), "bit {bit}");
        }
        assert!(BlockReader::open(block, Place { base_offset: 41, ..PLACE }).is_err());
    }
}
