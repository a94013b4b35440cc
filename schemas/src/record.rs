//! Records as the log takes and gives them.

use bytes::Bytes;

/// Header that marks the end of a bounded source: every window that has a row closes.
pub const END_OF_SOURCE_HEADER: &str = "headend-end-of-source";

/// A record on its way into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    /// `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
}

impl NewRecord {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), headers: Vec::new() }
    }

    /// The marker that `import --close` appends to every partition.
    pub fn end_of_source() -> Self {
        Self { key: None, value: None, headers: vec![(END_OF_SOURCE_HEADER.to_owned(), Bytes::from_static(b"1"))] }
    }
}

/// A record as it stands in a partition of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    /// UTC microseconds at which the log appended the record (Kafka gives milliseconds).
    pub append_us: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    pub fn is_end_of_source(&self) -> bool {
        self.value.is_none() && self.header(END_OF_SOURCE_HEADER).is_some()
    }
}
