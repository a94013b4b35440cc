//! Rows through a mapping: text columns (CSV) or inferred ones (JSON Lines) in, one JSON object a row out.
//!
//! A mapping evaluates whole batches and fails as a whole; the row at fault is found by halving, so that its neighbours pass.

use super::{
    csv::Fields,
    rows::{Format, Row},
};
use arrow_array::{RecordBatch, RecordBatchOptions, builder::StringBuilder};
use arrow_json::{LineDelimitedWriter, ReaderBuilder, WriterBuilder, writer::LineDelimited};
use arrow_schema::{ArrowError, SchemaRef};
use std::sync::Arc;
use stream_jobs::sql::Mapping;

pub(super) struct Mapped {
    mapping: Mapping,
    schema: SchemaRef,
    format: Format,
    fields: Fields,
}

/// Payloads and reasons, each with the index of its row.
#[derive(Default)]
pub(super) struct Payloads {
    pub rows: Vec<(usize, Vec<u8>)>,
    pub errors: Vec<(usize, String)>,
    pub filtered: u64,
}

impl Mapped {
    pub(super) fn new(mapping: Mapping, schema: SchemaRef, format: Format) -> Self {
        Self { mapping, schema, format, fields: Fields::default() }
    }

    pub(super) fn apply(&mut self, rows: &[Row]) -> Result<Payloads, ArrowError> {
        let mut out = Payloads::default();
        match self.format {
            Format::Csv => {
                let input = self.texts(rows)?;
                self.map(&input, &(0..rows.len()).collect::<Vec<_>>(), &mut out)?;
            }
            Format::JsonLines => match self.decode(rows) {
                Ok(input) => self.map(&input, &(0..rows.len()).collect::<Vec<_>>(), &mut out)?,
                Err(_) => self.each(rows, &mut out)?,
            },
        }
        Ok(out)
    }

    /// Maps `input`, whose rows are `of` the caller's.
    fn map(&self, input: &RecordBatch, of: &[usize], out: &mut Payloads) -> Result<(), ArrowError> {
        if of.is_empty() {
            return Ok(());
        }
        match self.mapping.apply(input) {
            Ok((mapped, from)) => {
                out.filtered += (of.len() - from.len()) as u64;
                let lines = json_lines(&mapped)?;
                debug_assert_eq!(lines.len(), from.len());
                out.rows.extend(from.into_iter().map(|i| of[i as usize]).zip(lines));
            }
            Err(e) if of.len() == 1 => out.errors.push((of[0], e.to_string())),
            Err(_) => {
                let half = of.len() / 2;
                self.map(&input.slice(0, half), &of[..half], out)?;
                self.map(&input.slice(half, of.len() - half), &of[half..], out)?;
            }
        }
        Ok(())
    }

    /// CSV: every column as text, empty values absent.
    fn texts(&mut self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<StringBuilder> = self.schema.fields().iter().map(|_| StringBuilder::with_capacity(rows.len(), rows.len() * 12)).collect();
        for row in rows {
            self.fields.split(&row.text);
            for (column, value) in columns.iter_mut().zip(self.fields.iter()) {
                column.append_option((!value.is_empty()).then_some(value));
            }
        }
        let columns = columns.iter_mut().map(|c| Arc::new(c.finish()) as _).collect();
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows.len())))
    }

    fn decode(&self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        let mut decoder = ReaderBuilder::new(Arc::clone(&self.schema)).with_coerce_primitive(true).with_batch_size(rows.len().max(1) * 2).build_decoder()?;
        for row in rows {
            let taken = decoder.decode(row.text.as_bytes())? + decoder.decode(b"\n")?;
            if taken != row.text.len() + 1 || decoder.has_partial_record() {
                return Err(ArrowError::JsonError("is not one JSON object".to_owned()));
            }
        }
        let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.schema)));
        if batch.num_rows() != rows.len() {
            return Err(ArrowError::JsonError("is not one JSON object".to_owned()));
        }
        Ok(batch)
    }

    /// Row by row, after a chunk of JSON did not decode.
    fn each(&self, rows: &[Row], out: &mut Payloads) -> Result<(), ArrowError> {
        for (i, row) in rows.iter().enumerate() {
            match self.decode(std::slice::from_ref(row)) {
                Ok(input) => self.map(&input, &[i], out)?,
                Err(e) => out.errors.push((i, e.to_string())),
            }
        }
        Ok(())
    }
}

/// One JSON object a row. Times are RFC 3339; one without a zone is taken as UTC.
fn json_lines(batch: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
    let mut writer: LineDelimitedWriter<Vec<u8>> =
        WriterBuilder::new().with_timestamp_format("%Y-%m-%dT%H:%M:%S%.fZ".to_owned()).build::<_, LineDelimited>(Vec::with_capacity(batch.num_rows() * 200));
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner().split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect())
}
