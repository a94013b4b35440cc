//! `CREATE SOURCE` and `CREATE TABLE`: columns, key, time and options.

use super::{
    catalog::RelationInfo,
    error::{Result, SqlError, list, nearest},
    options::Options,
    statement::{Name, RelationStatement, timestamp},
};
use crate::plan::{Relation, SourceSpec};
use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::sql::sqlparser::tokenizer::Location;
use std::sync::Arc;

const MAX_SKEW_US: i64 = 30_000_000;
const IDLE_TIMEOUT_US: i64 = 10_000_000;
const SOURCE_OPTIONS: [&str; 7] = ["topic", "format", "key", "dedup", "trust_partition", "max_skew", "idle_timeout"];
const TABLE_OPTIONS: [&str; 7] = ["topic", "format", "key", "broadcast", "trust_partition", "max_skew", "idle_timeout"];

pub(super) fn plan(statement: RelationStatement, relation: Relation) -> Result<(SourceSpec, RelationInfo)> {
    let RelationStatement { name, table, columns, watermark, mut options } = statement;
    let schema: SchemaRef = Arc::new(Schema::new(columns.into_iter().map(|(_, field)| field).collect::<Vec<_>>()));
    let (topic, topic_place) = options.required("topic", "'usage.v1'")?;
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Err(SqlError::at(topic_place, format!("`{topic}` is no name of a topic")));
    }
    options.choice("format", &["json"])?;
    let key = key_columns(&mut options, &schema)?;
    let (time_column, bound_us) = match watermark {
        Some((column, bound_us)) => (Some(time_index(&column, &schema)?), bound_us),
        None if table => (None, 0),
        None => {
            return Err(SqlError::at(name.place, format!("source `{}` has no time", name.text))
                .hint("write `WATERMARK FOR t AS t - INTERVAL '5 seconds'` after its columns"));
        }
    };
    let dedup = if table { None } else { dedup(&mut options, &schema)? };
    let spec = SourceSpec {
        name: name.text.clone(),
        topic,
        schema: schema.clone(),
        key: key.clone(),
        time_column,
        bound_us,
        table,
        broadcast: table && options.flag("broadcast")?,
        may_be_empty: false,
        trust_partition: options.flag("trust_partition")?,
        dedup,
        max_skew_us: options.duration_us("max_skew")?.unwrap_or(MAX_SKEW_US),
        idle_timeout_ms: options.duration_us("idle_timeout")?.unwrap_or(IDLE_TIMEOUT_US) / 1_000,
    };
    options.finish(if table { &TABLE_OPTIONS } else { &SOURCE_OPTIONS })?;
    let info = RelationInfo {
        name: name.text,
        relation,
        schema,
        key: key.clone(),
        window_columns: Vec::new(),
        time_column,
        time_is_window_end: false,
        partition: Some(key),
        level: 1,
        changes: table,
        stream: !table,
        broadcast: spec.broadcast,
        part: false,
    };
    Ok((spec, info))
}

fn column_index(name: &str, place: Location, schema: &Schema) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        SqlError::at(place, format!("there is no column `{name}`; columns are {}", list(&names))).hint_opt(nearest(name, names))
    })
}

fn time_index(column: &Name, schema: &Schema) -> Result<usize> {
    let index = column_index(&column.text, column.place, schema)?;
    if *schema.field(index).data_type() != timestamp() {
        return Err(SqlError::at(column.place, format!("the time `{}` is no `TIMESTAMPTZ`", column.text)));
    }
    Ok(index)
}

fn key_columns(options: &mut Options, schema: &Schema) -> Result<Vec<usize>> {
    let (text, place) = options.required("key", "'tenant, subscriber_id'")?;
    let mut key = Vec::new();
    for name in text.split(',').map(str::trim) {
        let index = column_index(name, place, schema)?;
        let data_type = schema.field(index).data_type();
        if *data_type != DataType::Utf8 && !data_type.is_integer() {
            return Err(SqlError::at(place, format!("key column `{name}` is neither text nor a whole number")));
        }
        if key.contains(&index) {
            return Err(SqlError::at(place, format!("key column `{name}` is written twice")));
        }
        key.push(index);
    }
    Ok(key)
}

fn dedup(options: &mut Options, schema: &Schema) -> Result<Option<(usize, i64)>> {
    let place = options.place("dedup");
    let Some(horizon_us) = options.duration_us("dedup")? else { return Ok(None) };
    let column = schema.index_of("event_id").ok().filter(|c| *schema.field(*c).data_type() == DataType::Utf8);
    let column = column.ok_or_else(|| SqlError::at(place.unwrap_or_else(Location::empty), "`dedup` needs a column `event_id TEXT`"))?;
    Ok(Some((column, horizon_us)))
}
