//! The rows of a file, CSV or JSON Lines, plain or gzip, each with the number of the line on which it begins.
//!
//! A row that cannot be read is handed on with its fault and the next one is whole again. Memory is bounded: a line longer than
//! [`LINE_BYTES_MAX`] is a fault, and a quoted CSV value spans [`RECORD_LINES_MAX`] lines at most.

use super::csv::Fields;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub const LINE_BYTES_MAX: usize = 1 << 20;
pub const RECORD_LINES_MAX: usize = 64;
/// Lines of JSON from which the types of a mapping's input are inferred.
const INFERRED_ROWS: usize = 1000;

/// A row as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub line: u64,
    pub text: String,
    /// Why it cannot be used, when it cannot.
    pub fault: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    JsonLines,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("`{path}` has no header line")]
    NoHeader { path: PathBuf },
    #[error("`{path}`: column `{column}` stands twice in the header")]
    DuplicateColumn { path: PathBuf, column: String },
    #[error("`{path}`: the first lines of JSON have no common schema: {source}")]
    NoSchema { path: PathBuf, source: ArrowError },
}

/// Reads rows in order. An iterator whose errors are the file's, not a row's.
pub struct RowReader {
    path: PathBuf,
    format: Format,
    columns: Vec<String>,
    lines: Lines,
    /// Rows that were read to infer the schema.
    ahead: VecDeque<Row>,
    fields: Fields,
}

/// Opens a file: gzip by its first bytes; CSV or JSON Lines by name (`.csv`, `.jsonl`, `.ndjson`, `.json`), else by the first character.
pub fn open(path: &Path) -> Result<RowReader, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let mut lines = Lines::open(path).map_err(failed)?;
    let format = match named_format(path) {
        Some(format) => format,
        None if lines.source.fill_buf().map_err(failed)?.trim_ascii_start().starts_with(b"{") => Format::JsonLines,
        None => Format::Csv,
    };
    let mut reader = RowReader { path: path.to_owned(), format, columns: Vec::new(), lines, ahead: VecDeque::new(), fields: Fields::default() };
    if format == Format::Csv {
        reader.read_header()?;
    }
    Ok(reader)
}

fn named_format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
        _ => None,
    }
}

impl RowReader {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The header of a CSV file, in order; empty for JSON Lines.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Bytes of the file that were read so far, compressed ones where it is compressed.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lines.bytes_read)
    }

    /// What a mapping sees as `input`: CSV columns as text, JSON fields with the types of the first lines.
    pub fn input_schema(&mut self) -> Result<SchemaRef, ReadError> {
        if self.format == Format::Csv {
            return Ok(Arc::new(Schema::new(self.columns.iter().map(|c| Field::new(c, DataType::Utf8, true)).collect::<Vec<_>>())));
        }
        while self.ahead.len() < INFERRED_ROWS {
            match self.read_row()? {
                Some(row) => self.ahead.push_back(row),
                None => break,
            }
        }
        let values = self.ahead.iter().filter(|r| r.fault.is_none()).filter_map(|r| serde_json::from_str::<serde_json::Value>(&r.text).ok());
        let objects = values.filter(serde_json::Value::is_object).map(Ok);
        let schema = arrow_json::reader::infer_json_schema_from_iterator(objects).map_err(|source| ReadError::NoSchema { path: self.path.clone(), source })?;
        Ok(Arc::new(schema))
    }

    fn read_header(&mut self) -> Result<(), ReadError> {
        let header = self.read_row()?.filter(|row| row.fault.is_none()).ok_or_else(|| ReadError::NoHeader { path: self.path.clone() })?;
        self.fields.split(header.text.trim_start_matches('\u{feff}'));
        self.columns = self.fields.iter().map(|c| c.trim().to_owned()).collect();
        let twice = self.columns.iter().enumerate().find(|(i, c)| self.columns[..*i].contains(c));
        twice.map_or(Ok(()), |(_, column)| Err(ReadError::DuplicateColumn { path: self.path.clone(), column: column.clone() }))
    }

    fn read_row(&mut self) -> Result<Option<Row>, ReadError> {
        let failed = |path: &Path, source| ReadError::Io { path: path.to_owned(), source };
        loop {
            let Some(line) = self.lines.next().map_err(|e| failed(&self.path, e))? else { return Ok(None) };
            let row = line.into_row();
            if row.fault.is_some() {
                return Ok(Some(row));
            }
            if row.text.trim_ascii().is_empty() {
                continue;
            }
            return match self.format {
                Format::JsonLines => Ok(Some(row)),
                Format::Csv => self.csv_record(row).map(Some).map_err(|e| failed(&self.path, e)),
            };
        }
    }

    /// The record that begins with `row`, with the lines that its quoted values span. Where that gives no record of the
    /// header's shape, the fault is the first line's alone and the others are read again.
    fn csv_record(&mut self, mut row: Row) -> io::Result<Row> {
        if self.fields.split(&row.text) {
            row.fault = self.misshapen();
            return Ok(row);
        }
        let mut joined = row.text.clone();
        let mut taken = Vec::new();
        while taken.len() < RECORD_LINES_MAX && joined.len() < LINE_BYTES_MAX {
            let Some(line) = self.lines.next()? else { break };
            let next = line.clone().into_row();
            taken.push(line);
            if next.fault.is_some() {
                break;
            }
            joined.push('\n');
            joined.push_str(&next.text);
            if self.fields.split(&joined) {
                if self.misshapen().is_none() {
                    return Ok(Row { text: joined, ..row });
                }
                break;
            }
        }
        self.lines.give_back(taken);
        row.fault = Some("a quote is opened and not closed".to_owned());
        Ok(row)
    }

    fn misshapen(&self) -> Option<String> {
        let (has, expected) = (self.fields.count(), self.columns.len());
        (expected > 0 && has != expected).then(|| format!("has {has} values, the header has {expected}"))
    }
}

impl Iterator for RowReader {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.ahead.pop_front() {
            Some(row) => Some(Ok(row)),
            None => self.read_row().transpose(),
        }
    }
}

#[derive(Clone, Debug)]
struct Line {
    number: u64,
    bytes: Vec<u8>,
    too_long: bool,
}

impl Line {
    fn into_row(self) -> Row {
        let (line, too_long) = (self.number, self.too_long);
        let (text, utf8) = String::from_utf8(self.bytes).map_or_else(|e| (String::from_utf8_lossy(e.as_bytes()).into_owned(), false), |text| (text, true));
        let fault = match (too_long, utf8) {
            (true, _) => Some(format!("is longer than {LINE_BYTES_MAX} bytes")),
            (false, false) => Some("is not UTF-8".to_owned()),
            (false, true) => None,
        };
        // Of a line that is too long the beginning is enough to find it.
        let text = if too_long { text.chars().take(200).collect() } else { text };
        Row { line, text, fault }
    }
}

/// Physical lines, numbered from 1, without their ends.
struct Lines {
    source: Box<dyn BufRead + Send>,
    number: u64,
    given_back: VecDeque<Line>,
    bytes_read: Arc<AtomicU64>,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut plain = BufReader::with_capacity(1 << 16, Counted { file: File::open(path)?, bytes: Arc::clone(&bytes_read) });
        let gzip = plain.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let source: Box<dyn BufRead + Send> =
            if gzip { Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(plain))) } else { Box::new(plain) };
        Ok(Self { source, number: 0, given_back: VecDeque::new(), bytes_read })
    }

    fn next(&mut self) -> io::Result<Option<Line>> {
        if let Some(line) = self.given_back.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::with_capacity(128);
        let limit = LINE_BYTES_MAX as u64 + 1;
        if (&mut self.source).take(limit).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let too_long = bytes.len() as u64 == limit && bytes.last() != Some(&b'\n');
        if too_long {
            self.skip_line()?;
        }
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        Ok(Some(Line { number: self.number, bytes, too_long }))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        loop {
            rest.clear();
            let read = (&mut self.source).take(1 << 16).read_until(b'\n', &mut rest)?;
            if read == 0 || rest.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }

    fn give_back(&mut self, lines: Vec<Line>) {
        for line in lines.into_iter().rev() {
            self.given_back.push_front(line);
        }
    }
}

struct Counted {
    file: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn rows(name: &str, bytes: &[u8]) -> Vec<(u64, String, Option<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open(&path).unwrap().map(|r| r.unwrap()).map(|r| (r.line, r.text, r.fault)).collect()
    }

    fn whole(line: u64, text: &str) -> (u64, String, Option<String>) {
        (line, text.to_owned(), None)
    }

    #[test]
    fn a_broken_csv_line_leaves_its_neighbours_whole() {
        let got = rows("a.csv", b"a,b\n1,2\n1,2,3\n\r\n\"x,y\",\"5\n6\"\r\n\"lost,2\n7,8\n\xff,1\n9,\"\"\n");
        let fault = |line, text: &str, fault: &str| (line, text.to_owned(), Some(fault.to_owned()));
        let expected = vec![
            whole(2, "1,2"),
            fault(3, "1,2,3", "has 3 values, the header has 2"),
            whole(5, "\"x,y\",\"5\n6\""),
            fault(7, "\"lost,2", "a quote is opened and not closed"),
            whole(8, "7,8"),
            fault(9, "\u{fffd},1", "is not UTF-8"),
            whole(10, "9,\"\""),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn gzip_is_recognised_by_its_bytes_and_json_by_its_first_character() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{\"a\":1}\n\n{\"a\":2}").unwrap();
        assert_eq!(rows("no-name", &gzip.finish().unwrap()), vec![whole(1, "{\"a\":1}"), whole(3, "{\"a\":2}")]);
    }

    #[test]
    fn a_line_of_twenty_mebibytes_is_a_fault_and_the_next_is_read() {
        let mut bytes = vec![b'x'; 20 << 20];
        bytes.extend_from_slice(b"\n{\"a\":1}\n");
        let got = rows("a.jsonl", &bytes);
        assert_eq!((got[0].0, got[0].1.len(), got[0].2.as_deref()), (1, 200, Some("is longer than 1048576 bytes")));
        assert_eq!(got[1], whole(2, "{\"a\":1}"));
    }

    #[test]
    fn the_schema_of_json_lines_is_inferred_and_no_row_is_lost_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{\"a\":1}\nnot json\n{\"a\":2.5,\"b\":\"x\"}\n").unwrap();
        let mut reader = open(&path).unwrap();
        let schema = reader.input_schema().unwrap();
        assert_eq!((schema.field(0).data_type(), schema.field(1).data_type()), (&DataType::Float64, &DataType::Utf8));
        assert_eq!(reader.count(), 3);
    }
}
