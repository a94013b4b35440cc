//! Functions with a memory per key: found in expressions, checked, and moved into a [`Step::Keyed`] before them.
//!
//! [`Step::Keyed`]: crate::plan::Step::Keyed

use super::error::SqlError;
use crate::plan::KeyedFunction;
use arrow_schema::DataType;
use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, Signature, TypeSignature, Volatility, expr::ScalarFunction},
};

pub(super) const NAMES: [&str; 3] = ["prev", "robust_z", "percent_rank"];

/// The longest history of a key, in rows.
const HISTORY_MAX: i64 = 10_000;

pub(super) fn signature(name: &str) -> Signature {
    let types = match name {
        "prev" => TypeSignature::Any(1),
        _ => TypeSignature::Exact(vec![DataType::Float64, DataType::Int64]),
    };
    Signature::new(types, Volatility::Immutable)
}

pub(super) fn return_type(name: &str, args: &[DataType]) -> DataType {
    match (name, args.first()) {
        ("prev", Some(first)) => first.clone(),
        _ => DataType::Float64,
    }
}

/// The keyed call that `expr` itself is, if it is one.
pub(super) fn as_call(expr: &Expr) -> Option<&ScalarFunction> {
    match expr {
        Expr::ScalarFunction(call) if NAMES.contains(&call.func.name()) => Some(call),
        _ => None,
    }
}

/// What the call keeps: a constant number of rows where it names one.
pub(super) fn function_of(call: &ScalarFunction) -> Result<KeyedFunction, SqlError> {
    let name = call.func.name();
    if name == "prev" {
        return Ok(KeyedFunction::Prev);
    }
    let size = call.args.get(1).and_then(constant).filter(|size| (2..=HISTORY_MAX).contains(size));
    let Some(size) = size else {
        return Err(
            SqlError::unplaced(format!("`{name}` keeps a constant number of rows between 2 and {HISTORY_MAX}")).hint(format!("for example `{name}(x, 100)`"))
        );
    };
    let size = size as usize;
    Ok(if name == "robust_z" { KeyedFunction::RobustZ { size } } else { KeyedFunction::PercentRank { size } })
}

fn constant(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        Expr::Cast(cast) => constant(&cast.expr),
        _ => None,
    }
}
