//! Rows with `_op`: changes at ticks of event time, and corrections of closed windows.

use super::{
    expression::Fields,
    job::*,
    model::{Row, group_row},
    value::Value,
    windows::{Assigned, Bounds, key_of},
};
use std::collections::BTreeMap;

/// The tick at which a row shows: the first after its time, and after the last that its own partition had passed before it.
fn tick_of(row: &Row, interval: i64) -> i64 {
    let own = row.time.div_euclid(interval) + 1;
    let passed = if row.before == i64::MIN { own } else { row.before.div_euclid(interval) + 1 };
    own.max(passed) * interval
}

type Slot = (Vec<String>, Option<Bounds>);

pub fn unwindowed_at_ticks(group: &Group, rows: &[&Row], interval: i64) -> Vec<Fields> {
    at_ticks(group, rows.iter().map(|row| ((key_of(&group.keys, &row.fields), None), *row)), interval)
}

pub fn windowed_at_ticks(group: &Group, assigned: &Assigned<'_>, interval: i64) -> Vec<Fields> {
    let rows = assigned.on_time.iter().flat_map(|((key, bounds), rows)| rows.iter().map(move |row| ((key.clone(), Some(*bounds)), *row)));
    at_ticks(group, rows, interval)
}

fn at_ticks<'a>(group: &Group, rows: impl Iterator<Item = (Slot, &'a Row)>, interval: i64) -> Vec<Fields> {
    let mut ticks: BTreeMap<i64, BTreeMap<Slot, Vec<&Row>>> = BTreeMap::new();
    for (slot, row) in rows {
        ticks.entry(tick_of(row, interval)).or_default().entry(slot).or_default().push(row);
    }
    let mut held: BTreeMap<Slot, Vec<&Row>> = BTreeMap::new();
    let mut out = Vec::new();
    for slots in ticks.into_values() {
        for (slot, new) in slots {
            let bounds = slot.1;
            let rows = held.entry(slot).or_default();
            let before = if rows.is_empty() { None } else { group_row(group, rows, bounds) };
            rows.extend(new);
            let after = group_row(group, rows, bounds);
            push_change(&mut out, before.map(|r| r.fields), after.map(|r| r.fields));
        }
    }
    out
}

fn push_change(out: &mut Vec<Fields>, before: Option<Fields>, after: Option<Fields>) {
    if before == after {
        return;
    }
    let ops = if before.is_some() && after.is_some() { ["-U", "+U"] } else { ["-D", "+I"] };
    for (fields, op) in [(before, ops[0]), (after, ops[1])] {
        out.extend(fields.map(|mut fields| {
            fields.insert("_op".to_owned(), Value::text(op));
            fields
        }));
    }
}

/// Windows with `revision`: first of all rows that were in time, then once more for each row that was late for it.
pub fn corrected(group: &Group, assigned: &Assigned<'_>) -> Vec<Fields> {
    let mut held: BTreeMap<Slot, (i64, Vec<&Row>)> = BTreeMap::new();
    let mut out = Vec::new();
    let row_of = |slot: &Slot, rows: &[&Row], revision: i64| {
        group_row(group, rows, slot.1).map(|row| {
            let mut fields = row.fields;
            fields.insert("revision".to_owned(), Value::Integer(revision));
            fields
        })
    };
    for ((key, bounds), rows) in &assigned.on_time {
        let slot = (key.clone(), Some(*bounds));
        push_change(&mut out, None, row_of(&slot, rows, 0));
        held.insert(slot, (0, rows.clone()));
    }
    for correction in &assigned.corrections {
        let slot = (correction.key.clone(), Some(correction.bounds));
        match held.get_mut(&slot) {
            None => {
                push_change(&mut out, None, row_of(&slot, &[correction.row], 0));
                held.insert(slot, (0, vec![correction.row]));
            }
            Some((revision, rows)) => {
                let before = row_of(&slot, rows, *revision);
                rows.push(correction.row);
                *revision += 1;
                push_change(&mut out, before, row_of(&slot, rows, *revision));
            }
        }
    }
    out
}
