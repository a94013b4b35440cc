//! The result of an aggregate over the list of its rows.

use super::{exact_sum::exact_sum, expression::Fields, job::*, model::Row, value::Value};
use std::cmp::Ordering;

/// `rows` in the order (event time, input, log).
pub fn result(call: &Call, rows: &[&Row]) -> Value {
    let mut rows: Vec<&Fields> = rows.iter().map(|r| &r.fields).filter(|f| call.filter.as_ref().is_none_or(|e| e.holds(f))).collect();
    rows.sort_by(|a, b| by_columns(&call.order, a, b));
    let Some(argument) = &call.argument else { return Value::Integer(rows.len() as i64) };
    let mut values: Vec<Value> = rows.iter().map(|f| argument.value(f)).filter(|v| !v.is_null()).collect();
    if call.distinct {
        let mut seen = Vec::new();
        values.retain(|v| {
            !seen.contains(v) && {
                seen.push(v.clone());
                true
            }
        });
    }
    if call.function == Function::Count {
        return Value::Integer(values.len() as i64);
    }
    if values.is_empty() {
        return Value::Null;
    }
    match call.function {
        Function::Count => Value::Null,
        Function::Sum => sum(&values),
        Function::Avg => mean(&values),
        Function::Min => least(values, Ordering::Less),
        Function::Max => least(values, Ordering::Greater),
        Function::First => values.swap_remove(0),
        Function::Last => values.pop().unwrap_or(Value::Null),
        Function::Median => median(&values),
        Function::Stddev => deviation(&values, 1),
        Function::StddevPop => deviation(&values, 0),
        Function::BoolAnd => Value::Boolean(values.iter().all(|v| *v == Value::Boolean(true))),
        Function::BoolOr => Value::Boolean(values.contains(&Value::Boolean(true))),
        Function::StringAgg => Value::Text(values.iter().map(text).collect::<Vec<_>>().join(",")),
    }
}

/// `ORDER BY`: nulls last, and first where it descends.
pub fn by_columns(order: &[(String, bool)], a: &Fields, b: &Fields) -> Ordering {
    let of = |(column, descending): &(String, bool)| {
        let order = a[column].order(&b[column]);
        if *descending { order.reverse() } else { order }
    };
    order.iter().map(of).find(|o| *o != Ordering::Equal).unwrap_or(Ordering::Equal)
}

fn text(value: &Value) -> &str {
    if let Value::Text(text) = value { text } else { "" }
}

fn sum(values: &[Value]) -> Value {
    match &values[0] {
        Value::Double(_) => Value::Double(exact_sum(values.iter().map(Value::double))),
        Value::Decimal(_, scale) => Value::Decimal(values.iter().map(|v| v.units(*scale)).sum(), *scale),
        _ => Value::Integer(values.iter().map(|v| v.units(0)).sum::<i128>() as i64),
    }
}

fn mean(values: &[Value]) -> Value {
    let mean = exact_sum(values.iter().map(Value::double)) / values.len() as f64;
    match &values[0] {
        // Decimals have four digits more.
        Value::Decimal(_, scale) => Value::Decimal((mean * 10f64.powi(*scale as i32 + 4)).round() as i128, scale + 4),
        _ => Value::Double(mean),
    }
}

fn least(values: Vec<Value>, wanted: Ordering) -> Value {
    values.into_iter().reduce(|held, v| if v.order(&held) == wanted { v } else { held }).unwrap_or(Value::Null)
}

fn median(values: &[Value]) -> Value {
    let mut values: Vec<f64> = values.iter().map(Value::double).collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    Value::Double(if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] })
}

/// B. P. Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products", 1962, in the steps of DataFusion.
fn deviation(values: &[Value], less: usize) -> Value {
    let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values.iter().map(Value::double) {
        n += 1.0;
        let before = value - mean;
        mean += before / n;
        squares += before * (value - mean);
    }
    if values.len() <= less { Value::Null } else { Value::Double((squares / (n - less as f64)).sqrt()) }
}
