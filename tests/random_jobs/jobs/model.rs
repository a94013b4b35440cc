//! What must come out of a job, by the most naive way there is: all rows are kept, lateness is decided row by row, and each
//! window is computed from the list of its rows.

use super::{
    aggregate::{self, by_columns},
    changes,
    expression::Fields,
    job::*,
    joins,
    shape::{Kind, Shape},
    value::Value,
    windows::{self, bounds_fields, key_of},
};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Row {
    pub fields: Fields,
    pub time: i64,
    /// The source, and the place in its log: the order of rows of one time.
    pub input: usize,
    pub place: usize,
    /// The watermark that the row's own partition had before it.
    pub before: i64,
}

#[derive(Debug, Clone)]
pub struct Relation {
    pub shape: Shape,
    /// All rows that were appended, or those that stand at the end.
    pub rows: Vec<Row>,
    /// Rows with `_op`, where the changes themselves are compared.
    pub changes: Option<Vec<Fields>>,
}

pub struct Model<'a> {
    job: &'a Job,
    partition_of: &'a dyn Fn(&str) -> u32,
    relations: BTreeMap<String, Relation>,
    pub late: u64,
    pub duplicate: u64,
}

impl Job {
    /// Panics for a job that is not whole: `is_whole`.
    pub fn expected(&self, partition_of: &dyn Fn(&str) -> u32) -> Expected {
        let mut model = Model { job: self, partition_of, relations: BTreeMap::new(), late: 0, duplicate: 0 };
        let relation = model.relation(self.output());
        let standing = relation.shape.kind == Kind::Table && relation.changes.is_none();
        let compare = if standing { Compare::Standing { key: relation.shape.key.clone() } } else { Compare::Rows };
        let fields = relation.changes.unwrap_or_else(|| relation.rows.into_iter().map(|r| r.fields).collect());
        let rows = fields.iter().map(|f| f.iter().map(|(name, v)| (name.clone(), v.json())).collect()).collect();
        Expected { view: self.output().to_owned(), compare, rows, late: Some(model.late), duplicate: model.duplicate }
    }
}

impl Model<'_> {
    pub fn relation(&mut self, name: &str) -> Relation {
        if let Some(relation) = self.relations.get(name) {
            return relation.clone();
        }
        let shape = self.job.shape(name).unwrap_or_else(|| panic!("relation `{name}` is not whole"));
        let mut changes = None;
        let rows = match (self.job.sources.iter().position(|s| s.name == name), self.job.view(name)) {
            (Some(input), _) => self.source_rows(input),
            (None, Some(view)) => match &view.body {
                Body::Map(map) => self.map(map),
                Body::Group(group) => self.group(group, view.emit, &mut changes),
                Body::Join(join) => {
                    let (left, right) = (self.relation(&join.left), self.relation(&join.right));
                    joins::tables(join, &left, &right, view.emit == Emit::OnWindowClose)
                }
                Body::Interval(join) => {
                    let (left, right) = (self.relation(&join.left), self.relation(&join.right));
                    let (rows, late) = joins::interval(join, &left, &right);
                    self.late += late;
                    rows
                }
                Body::Union(union) => self.union(union),
                Body::Top(top) => self.top(top),
            },
            (None, None) => Vec::new(),
        };
        let relation = Relation { shape, rows, changes };
        self.relations.insert(name.to_owned(), relation.clone());
        relation
    }

    fn source_rows(&mut self, input: usize) -> Vec<Row> {
        let source = &self.job.sources[input];
        let mut watermarks: BTreeMap<u32, i64> = BTreeMap::new();
        let mut taken: Vec<Row> = Vec::new();
        for (place, row) in source.rows.iter().enumerate() {
            let time = row.time();
            let watermark = watermarks.entry((self.partition_of)(&row.key())).or_insert(i64::MIN);
            let own = Row { fields: row.fields.clone(), time, input, place, before: *watermark };
            if source.table {
                take_into_table(&mut taken, own, row);
                continue;
            }
            if source.dedup_us.is_some_and(|within| is_duplicate(&taken, &own, within)) {
                self.duplicate += 1;
                continue;
            }
            *watermark = (*watermark).max(time - source.bound_us);
            taken.push(own);
        }
        taken
    }

    fn map(&mut self, map: &Map) -> Vec<Row> {
        let input = self.relation(&map.input);
        let kept = input.rows.into_iter().filter(|r| map.filter.as_ref().is_none_or(|f| f.holds(&r.fields)));
        kept.map(|row| Row { fields: map.items.iter().map(|(name, e)| (name.clone(), e.value(&row.fields))).collect(), ..row }).collect()
    }

    fn group(&mut self, group: &Group, emit: Emit, changes: &mut Option<Vec<Fields>>) -> Vec<Row> {
        let input = self.relation(&group.input);
        let rows: Vec<&Row> = input.rows.iter().filter(|r| group.filter.as_ref().is_none_or(|f| f.holds(&r.fields))).collect();
        let Some(window) = &group.window else {
            if let Emit::ChangesEvery(tick) = emit {
                *changes = Some(changes::unwindowed_at_ticks(group, &rows, tick));
            }
            let mut by_key: BTreeMap<Vec<String>, Vec<&Row>> = BTreeMap::new();
            rows.iter().for_each(|r| by_key.entry(key_of(&group.keys, &r.fields)).or_default().push(r));
            return by_key.values().filter_map(|rows| group_row(group, rows, None)).collect();
        };
        let assigned = windows::assign(window.kind, &group.keys, &rows, group.allowed_lateness_us);
        self.late += assigned.late;
        if let Emit::ChangesEvery(tick) = emit {
            *changes = Some(changes::windowed_at_ticks(group, &assigned, tick));
        }
        if group.allowed_lateness_us.is_some() {
            *changes = Some(changes::corrected(group, &assigned));
        }
        assigned.on_time.iter().filter_map(|((_, bounds), rows)| group_row(group, rows, Some(*bounds))).collect()
    }

    fn union(&mut self, union: &Union) -> Vec<Row> {
        let mut all = Vec::new();
        for input in &union.inputs {
            let rows = self.relation(input).rows;
            all.extend(rows.into_iter().map(|row| Row { fields: union.columns.iter().map(|c| (c.clone(), row.fields[c].clone())).collect(), ..row }));
        }
        all
    }

    fn top(&mut self, top: &Top) -> Vec<Row> {
        let mut rows = self.relation(&top.input).rows;
        rows.sort_by(|a, b| by_columns(&top.order, &a.fields, &b.fields).then((a.time, a.input, a.place).cmp(&(b.time, b.input, b.place))));
        let mut ranks: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        let mut kept = Vec::new();
        for row in rows {
            let rank = ranks.entry(key_of(&top.partition, &row.fields)).or_insert(0);
            *rank += 1;
            if *rank <= top.n {
                let mut fields: Fields = top.columns.iter().map(|c| (c.clone(), row.fields[c].clone())).collect();
                fields.insert("rn".to_owned(), Value::Integer(*rank));
                kept.push(Row { fields, ..row });
            }
        }
        kept
    }
}

/// The newest record of a key stays; one that deletes is the newest always, because it has no event time but that of its append.
fn take_into_table(taken: &mut Vec<Row>, own: Row, row: &SourceRow) {
    let key = KEY.map(str::to_owned);
    let at = taken.iter().position(|r| key_of(&key, &r.fields) == key_of(&key, &own.fields));
    match at {
        Some(at) if row.tombstone => drop(taken.remove(at)),
        Some(at) if taken[at].time <= own.time => taken[at] = own,
        None if !row.tombstone => taken.push(own),
        _ => {}
    }
}

fn is_duplicate(taken: &[Row], row: &Row, within: i64) -> bool {
    let id = &row.fields["event_id"];
    let key = KEY.map(str::to_owned);
    let same = |r: &&Row| r.fields["event_id"] == *id && key_of(&key, &r.fields) == key_of(&key, &row.fields);
    // Known is the last row of an id, until its partition's watermark is the horizon past the row, or past where it stood then.
    let known = |r: &Row| (r.time - row.time).abs() <= within && r.time.max(r.before).saturating_add(within) >= row.before;
    !id.is_null() && taken.iter().rfind(same).is_some_and(known)
}

/// The row of a key over all its rows; none where `HAVING` refuses it. Row time of a window is its end − 1 µs.
pub fn group_row(group: &Group, rows: &[&Row], bounds: Option<(i64, i64)>) -> Option<Row> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|r| (r.time, r.input, r.place));
    let mut fields: Fields = group.keys.iter().map(|k| (k.clone(), rows[0].fields[k].clone())).collect();
    fields.extend(bounds.map(bounds_fields).into_iter().flatten());
    fields.extend(group.calls.iter().map(|call| (call.name.clone(), aggregate::result(call, &rows))));
    if group.having.as_ref().is_some_and(|h| !h.holds(&fields)) {
        return None;
    }
    let time = bounds.map_or_else(|| rows.iter().map(|r| r.time).max().unwrap_or(i64::MIN), |(_, end)| end - 1);
    Some(Row { fields, time, input: 0, place: 0, before: i64::MIN })
}
