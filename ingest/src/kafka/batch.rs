//! Records taken from a consumer's queue many at a time: the workspace's only `unsafe`.
//!
//! rdkafka's safe interface takes one message a call, which costs three quarters of the throughput. Here
//! `rd_kafka_consume_batch_queue` takes what has arrived, and each message is copied out and given back before the call returns:
//! nothing of librdkafka's memory leaves this module.

#![allow(unsafe_code)]

use bytes::Bytes;
use rdkafka::{
    bindings::{
        rd_kafka_consume_batch_queue, rd_kafka_get_watermark_offsets, rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_destroy,
        rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_queue_destroy, rd_kafka_queue_get_consumer, rd_kafka_queue_t,
        rd_kafka_resp_err_t, rd_kafka_timestamp_type_t,
    },
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::RDKafkaErrorCode,
};
use schemas::Record;
use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr, slice,
    sync::Arc,
};

/// What was taken out of the queue, in order.
pub enum Taken {
    Record(Record),
    /// The end of the partition was reached: nothing stands before this offset that was not given. It may lie behind the last record, where
    /// a producer's transaction left its mark.
    End(u64),
    Failed(RDKafkaErrorCode, String),
}

/// The queue of a consumer, which is alive as long as this is.
pub struct Batches<C: ConsumerContext + 'static> {
    queue: *mut rd_kafka_queue_t,
    messages: Vec<*mut rd_kafka_message_t>,
    /// Taken when this is dropped.
    consumer: Option<Arc<BaseConsumer<C>>>,
}

// SAFETY: librdkafka's queues and messages may be used from any thread; `messages` is empty between calls, and every use of it goes
// through `&mut self`.
unsafe impl<C: ConsumerContext + 'static> Send for Batches<C> {}

impl<C: ConsumerContext + 'static> Batches<C> {
    /// `None` when the consumer has no queue: it was made without a group.
    pub fn new(consumer: Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the client pointer is valid while `consumer` lives, which this struct holds; the call gives a new reference to the
        // queue, or null.
        let queue = unsafe { rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then(|| Self { queue, messages: Vec::new(), consumer: Some(consumer) })
    }

    pub fn consumer(&self) -> Option<&Arc<BaseConsumer<C>>> {
        self.consumer.as_ref()
    }

    /// Hands on up to `max` of what has arrived, one by one, and says how many; does not wait.
    pub fn take(&mut self, max: usize, each: impl FnMut(Taken)) -> usize {
        self.messages.resize(max, ptr::null_mut());
        // SAFETY: `queue` is a reference that is held until drop; `messages` has room for `max` pointers, and librdkafka writes at
        // most so many. It returns how many it wrote, or −1, which it does for no queue of a consumer.
        let n = unsafe { rd_kafka_consume_batch_queue(self.queue, 0, self.messages.as_mut_ptr(), max) };
        let taken = &self.messages[..usize::try_from(n).unwrap_or(0)];
        // SAFETY: each of the `n` pointers is a message that librdkafka has handed over; it is read before it is destroyed below.
        let messages: Vec<&rd_kafka_message_t> = taken.iter().map(|m| unsafe { &**m }).collect();
        read(&messages, each);
        for message in taken {
            // SAFETY: every message is given back once; what was handed on are copies.
            unsafe { rd_kafka_message_destroy(*message) };
        }
        let n = taken.len();
        self.messages.clear();
        n
    }

    /// The partition's end as the last fetch told it; `None` before the first.
    pub fn known_end(&self, topic: &CStr, partition: i32) -> Option<u64> {
        let client = self.consumer()?.client().native_ptr();
        let (mut low, mut high) = (-1_i64, -1_i64);
        // SAFETY: the client lives as above, `topic` is a C string, and both places are written before the call returns. It asks nobody:
        // it reads what the last fetch response said.
        let error = unsafe { rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &raw mut low, &raw mut high) };
        if error == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { u64::try_from(high).ok() } else { None }
    }
}

impl<C: ConsumerContext + 'static> Drop for Batches<C> {
    fn drop(&mut self) {
        // SAFETY: the reference that `new` got is given back once, while the client still lives.
        unsafe { rd_kafka_queue_destroy(self.queue) };
        // Closing a consumer waits for its threads, so it ends on a thread of its own.
        let consumer = self.consumer.take();
        let _ = std::thread::Builder::new().name("kafka-close".into()).spawn(move || drop(consumer));
    }
}

/// A topic's name as librdkafka takes it; a name with a zero byte is no topic.
pub fn c_name(topic: &str) -> Option<CString> {
    CString::new(topic).ok()
}

/// Copies messages out. Keys and values of all of them share one allocation.
fn read(messages: &[&rd_kafka_message_t], each: impl FnMut(Taken)) {
    let mut bytes: Vec<u8> = Vec::with_capacity(messages.iter().filter(|m| is_record(m)).map(|m| m.len + m.key_len).sum());
    for message in messages.iter().filter(|m| is_record(m)) {
        bytes.extend_from_slice(part(message.key, message.key_len).unwrap_or_default());
        bytes.extend_from_slice(part(message.payload, message.len).unwrap_or_default());
    }
    let bytes = Bytes::from(bytes);
    let mut at = 0;
    let mut next = |data: *mut c_void, len: usize| {
        (!data.is_null()).then(|| {
            at += len;
            bytes.slice(at - len..at)
        })
    };
    let taken = messages.iter().map(|m| match m.err {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Taken::Record(Record {
            offset: m.offset as u64,
            append_us: timestamp_ms(m).saturating_mul(1_000),
            key: next(m.key, m.key_len),
            value: next(m.payload, m.len),
            headers: headers(m),
        }),
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => Taken::End(m.offset.max(0) as u64),
        // An error's payload is its text.
        error => Taken::Failed(error.into(), String::from_utf8_lossy(part(m.payload, m.len).unwrap_or_default()).into_owned()),
    });
    taken.for_each(each);
}

fn is_record(message: &rd_kafka_message_t) -> bool {
    message.err == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// `None` for a null key or value, which is another thing than an empty one.
fn part<'a>(data: *mut c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: librdkafka gives a message's key and payload as a pointer to `len` bytes, or null. The slice is copied by the callers in this
    // module before the message is destroyed.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast::<u8>(), len) })
}

fn timestamp_ms(message: &rd_kafka_message_t) -> i64 {
    let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: reads a field of a valid message and writes its kind to a place that is ours.
    unsafe { rd_kafka_message_timestamp(message, &raw mut kind) }
}

fn headers(message: &rd_kafka_message_t) -> Vec<(String, Bytes)> {
    let mut headers: *mut rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the message is valid; the headers stay its own and are read before it is destroyed.
    let error = unsafe { rd_kafka_message_headers(message, &raw mut headers) };
    let mut out = Vec::new();
    if error != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return out;
    }
    loop {
        let (mut name, mut value, mut len): (*const c_char, *const c_void, usize) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `headers` was set by the call above; an index behind the last header gives an error and sets nothing.
        let found = unsafe { rd_kafka_header_get_all(headers, out.len(), &raw mut name, &raw mut value, &raw mut len) };
        if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return out;
        }
        // SAFETY: a header's name is a C string of the message.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        out.push((name, Bytes::copy_from_slice(part(value.cast_mut(), len).unwrap_or_default())));
    }
}
