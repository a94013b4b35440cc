//! Joins, each row with each.

use super::{
    expression::Fields,
    job::*,
    model::{Relation, Row},
    shape::Kind,
    value::Value,
    windows::key_of,
};

/// Rows that stand at the end; of a view of closed windows the newest window of each key, unless windows are joined with windows.
fn side_rows(relation: &Relation, windowed: bool) -> Vec<Row> {
    if windowed || relation.shape.kind != Kind::Closed {
        return relation.rows.clone();
    }
    let key: Vec<String> = relation.shape.key.iter().filter(|k| !k.starts_with("window_")).cloned().collect();
    let newer = |a: &Row, b: &Row| key_of(&key, &a.fields) == key_of(&key, &b.fields) && a.time > b.time;
    relation.rows.iter().filter(|row| !relation.rows.iter().any(|other| newer(other, row))).cloned().collect()
}

pub fn tables(join: &Join, left: &Relation, right: &Relation, windowed: bool) -> Vec<Row> {
    let (lefts, rights) = (side_rows(left, windowed), side_rows(right, windowed));
    let equal = |l: &Row, r: &Row| join.on.iter().all(|(a, b)| !l.fields[a].is_null() && l.fields[a] == r.fields[b]);
    let pairs = pairs_of(join.kind, &lefts, &rights, equal);
    let rows = pairs.into_iter().map(|(l, r)| joined(&join.items, l, r));
    rows.filter(|row| join.filter.as_ref().is_none_or(|f| f.holds(&row.fields))).collect()
}

/// Rows without a partner come too, as the kind says.
fn pairs_of<'a>(kind: JoinKind, lefts: &'a [Row], rights: &'a [Row], equal: impl Fn(&Row, &Row) -> bool) -> Vec<(Option<&'a Row>, Option<&'a Row>)> {
    let mut pairs = Vec::new();
    for left in lefts {
        let before = pairs.len();
        pairs.extend(rights.iter().filter(|right| equal(left, right)).map(|right| (Some(left), Some(right))));
        if pairs.len() == before && kind != JoinKind::Inner {
            pairs.push((Some(left), None));
        }
    }
    if kind == JoinKind::Full {
        pairs.extend(rights.iter().filter(|right| !lefts.iter().any(|left| equal(left, right))).map(|right| (None, Some(right))));
    }
    pairs
}

fn joined(items: &[JoinItem], left: Option<&Row>, right: Option<&Row>) -> Row {
    let of = |row: Option<&Row>, column: &str| row.map_or(Value::Null, |r| r.fields[column].clone());
    let value = |item: &JoinItem| match item.side {
        JoinSide::Left => of(left, &item.column),
        JoinSide::Right => of(right, &item.column),
        JoinSide::Both => of(left.or(right), &item.column),
    };
    let fields: Fields = items.iter().map(|item| (item.name.clone(), value(item))).collect();
    let time = left.map_or(i64::MIN, |r| r.time).max(right.map_or(i64::MIN, |r| r.time));
    Row { fields, time, input: 0, place: 0, before: i64::MIN }
}

/// Rows, and how many came after the last partner could: their own partition's watermark had passed it.
pub fn interval(join: &IntervalJoin, left: &Relation, right: &Relation) -> (Vec<Row>, u64) {
    // A left row's partners come at most `after` after it, a right row's at most `before` after it.
    let in_time = |row: &&Row, reach: i64| row.before <= row.time.max(row.time + reach);
    let lefts: Vec<Row> = left.rows.iter().filter(|r| in_time(r, join.after_us)).cloned().collect();
    let rights: Vec<Row> = right.rows.iter().filter(|r| in_time(r, join.before_us)).cloned().collect();
    let late = left.rows.len() - lefts.len() + right.rows.len() - rights.len();
    let equal = |l: &Row, r: &Row| {
        let keys = join.on.iter().all(|c| !l.fields[c].is_null() && l.fields[c] == r.fields[c]);
        keys && (l.time - join.before_us..=l.time + join.after_us).contains(&r.time)
    };
    let pairs = pairs_of(join.kind, &lefts, &rights, equal);
    (pairs.into_iter().map(|(l, r)| joined(&join.items, l, r)).collect(), late as u64)
}
