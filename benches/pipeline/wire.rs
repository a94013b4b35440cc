//! A spike: events fetched over a plain socket, to see what librdkafka costs. It is not for use: one broker, no compression, no security, no
//! transactions, and an error of the broker ends the run.

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use ingest::{
    Log, TopicSpec,
    log::{Appended, Fetch, LogError, LogReader, Misfit, Ownership},
};
use schemas::{NewRecord, Record};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Of the protocol: the request's key and the version of it that is spoken here.
const FETCH: (i16, i16) = (1, 4);
/// Of a record batch: the bytes in front of `batchLength`'s end, and those in front of `attributes`, where the checksum begins.
const BATCH_LENGTH_END: usize = 12;
const ATTRIBUTES_AT: usize = 21;
const MAGIC: i8 = 2;
/// Bits of a batch's attributes.
const COMPRESSED: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const CONTROL: i16 = 1 << 5;
const WAIT_MS: i32 = 5;

/// The log of a bench, whose readers of one topic do without librdkafka.
pub struct WireLog {
    pub log: Arc<dyn Log>,
    pub broker: String,
    pub topic: String,
    /// Bytes of a fetch.
    pub bytes: i32,
}

struct WireReader {
    topic: String,
    partition: i32,
    broker: String,
    bytes: i32,
    position: u64,
    stream: Option<TcpStream>,
    /// A fetch from this offset has been asked for, and its answer has not been taken.
    asked: Option<u64>,
    answer: BytesMut,
    held: VecDeque<Record>,
    end: u64,
}

#[async_trait]
impl Log for WireLog {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<bool, LogError> {
        self.log.create_topic(spec).await
    }

    async fn misfits(&self, spec: &TopicSpec) -> Result<Vec<Misfit>, LogError> {
        self.log.misfits(spec).await
    }

    async fn partition_count(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partition_count(topic).await
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        self.log.topics().await
    }

    async fn append(&self, topic: &str, partition: u32, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        self.log.append(topic, partition, records).await
    }

    async fn append_keyed(&self, topic: &str, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.log.append_keyed(topic, records).await
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        self.log.start(topic, partition).await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        self.log.end(topic, partition).await
    }

    fn reader(&self, topic: &str, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        if topic != self.topic {
            return self.log.reader(topic, partition, from);
        }
        Ok(Box::new(WireReader {
            topic: topic.to_owned(),
            partition: partition as i32,
            broker: self.broker.clone(),
            bytes: self.bytes,
            position: from,
            stream: None,
            asked: None,
            answer: BytesMut::new(),
            held: VecDeque::new(),
            end: 0,
        }))
    }

    async fn delete_before(&self, topic: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        self.log.delete_before(topic, partition, offset).await
    }

    async fn ownership(&self, topic: &str) -> Result<Arc<dyn Ownership>, LogError> {
        self.log.ownership(topic).await
    }

    async fn close(&self) {
        self.log.close().await;
    }
}

#[async_trait]
impl LogReader for WireReader {
    async fn fetch(&mut self, max_records: usize, max_bytes: usize, _wait: Duration) -> Result<Fetch, LogError> {
        if self.held.is_empty() {
            self.answered().await.map_err(|e| unavailable(&e.to_string()))?;
        }
        let (mut records, mut bytes) = (Vec::with_capacity(self.held.len().min(max_records)), 0);
        while let Some(record) = self.held.front() {
            bytes += record.value.as_ref().map_or(0, Bytes::len);
            if !records.is_empty() && (records.len() >= max_records || bytes > max_bytes) {
                break;
            }
            self.position = record.offset + 1;
            records.extend(self.held.pop_front());
        }
        Ok(Fetch { records, caught_up: self.held.is_empty() && self.position >= self.end, behind: self.end.saturating_sub(self.position) })
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, offset: u64) {
        self.held.clear();
        (self.stream, self.asked, self.position) = (None, None, offset);
    }
}

impl WireReader {
    /// Takes the answer to the fetch at the position and asks for the next one, which comes while this one is worked on. What has been read of
    /// an answer stays where the caller goes away.
    async fn answered(&mut self) -> anyhow::Result<()> {
        if self.asked.is_none() {
            self.ask(self.position).await?;
        }
        let stream = self.stream.as_mut().ok_or_else(|| anyhow::anyhow!("no connection"))?;
        loop {
            let length = self.answer.get(..4).map(|mut b| b.get_u32() as usize + 4);
            if length.is_some_and(|length| self.answer.len() >= length) {
                break;
            }
            self.answer.reserve(length.unwrap_or(4) - self.answer.len());
            anyhow::ensure!(stream.read_buf(&mut self.answer).await? > 0, "the broker has hung up");
        }
        self.asked = None;
        let answer = std::mem::take(&mut self.answer).freeze();
        self.take(answer.slice(4..))?;
        let next = self.held.back().map_or(self.position, |r| r.offset + 1);
        if next < self.end { self.ask(next).await } else { Ok(()) }
    }

    async fn ask(&mut self, offset: u64) -> anyhow::Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.broker).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
            self.answer.clear();
        }
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as i16).to_be_bytes());
            out.extend(text.as_bytes());
        };
        let mut body = Vec::new();
        body.extend(FETCH.0.to_be_bytes());
        body.extend(FETCH.1.to_be_bytes());
        body.extend(0_i32.to_be_bytes());
        text(&mut body, "bench");
        for number in [-1, WAIT_MS, 1, self.bytes] {
            body.extend(number.to_be_bytes());
        }
        body.push(0);
        body.extend(1_i32.to_be_bytes());
        text(&mut body, &self.topic);
        body.extend(1_i32.to_be_bytes());
        body.extend(self.partition.to_be_bytes());
        body.extend((offset as i64).to_be_bytes());
        body.extend(self.bytes.to_be_bytes());
        let mut request = (body.len() as i32).to_be_bytes().to_vec();
        request.extend(body);
        let stream = self.stream.as_mut().ok_or_else(|| anyhow::anyhow!("no connection"))?;
        stream.write_all(&request).await?;
        self.asked = Some(offset);
        Ok(())
    }

    /// The records of an answer: of one topic and one partition, as was asked.
    fn take(&mut self, mut answer: Bytes) -> anyhow::Result<()> {
        answer.advance(4 + 4 + 4);
        let name = answer.get_u16() as usize;
        answer.advance(name + 4 + 4);
        let error = answer.get_i16();
        anyhow::ensure!(error == 0, "the broker answers a fetch of `{}/{}` with error {error}", self.topic, self.partition);
        self.end = answer.get_i64() as u64;
        answer.advance(8);
        let aborted = answer.get_i32().max(0) as usize;
        answer.advance(aborted * 16);
        let bytes = answer.get_i32().max(0) as usize;
        answer.truncate(bytes);
        // The last batch may be cut off.
        while answer.len() > BATCH_LENGTH_END {
            let length = (&answer[8..BATCH_LENGTH_END]).get_u32() as usize + BATCH_LENGTH_END;
            if answer.len() < length {
                break;
            }
            self.take_batch(answer.split_to(length))?;
        }
        Ok(())
    }

    fn take_batch(&mut self, mut batch: Bytes) -> anyhow::Result<()> {
        let checksum = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        let base_offset = batch.get_u64();
        batch.advance(4 + 4);
        anyhow::ensure!(batch.get_i8() == MAGIC, "a batch of another format at {base_offset}");
        anyhow::ensure!(batch.get_u32() == checksum, "wrong checksum at {base_offset}");
        let attributes = batch.get_i16();
        anyhow::ensure!(attributes & COMPRESSED == 0, "a compressed batch at {base_offset}");
        batch.advance(4);
        let (base_ms, max_ms) = (batch.get_i64(), batch.get_i64());
        batch.advance(8 + 2 + 4);
        let count = batch.get_u32();
        if attributes & CONTROL != 0 {
            return Ok(());
        }
        let mut at = 0;
        for _ in 0..count {
            let end = varint(&batch, &mut at) as usize;
            let end = at + end;
            at += 1;
            let ms = varint(&batch, &mut at);
            let offset = base_offset + varint(&batch, &mut at) as u64;
            let (key, value) = (part(&batch, &mut at), part(&batch, &mut at));
            let headers = (0..varint(&batch, &mut at)).map(|_| {
                let name = part(&batch, &mut at).unwrap_or_default();
                (String::from_utf8_lossy(&name).into_owned(), part(&batch, &mut at).unwrap_or_default())
            });
            let headers = headers.collect();
            anyhow::ensure!(at == end, "a record at {offset} that does not end where it says");
            if offset >= self.position {
                let ms = if attributes & LOG_APPEND_TIME != 0 { max_ms } else { base_ms + ms };
                self.held.push_back(Record { offset, append_us: ms * 1_000, key, value, headers });
            }
        }
        Ok(())
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    while let Some(byte) = bytes.get(*at) {
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 || shift > 63 {
            break;
        }
    }
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Bytes behind their length; `None` for a negative one.
fn part(batch: &Bytes, at: &mut usize) -> Option<Bytes> {
    let length = usize::try_from(varint(batch, at)).ok()?;
    let part = batch.slice(*at..*at + length);
    *at += length;
    Some(part)
}

fn unavailable(reason: &str) -> LogError {
    LogError::Unavailable { what: "fetch over the socket".to_owned(), reason: reason.to_owned() }
}
