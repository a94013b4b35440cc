//! Functions over text that holds JSON, and the operators `->` and `->>`.

use super::error::SqlError;
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, StringArray, cast::AsArray, types::Int64Type};
use arrow_schema::DataType;
use datafusion::{
    common::{DFSchema, Result, exec_err},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};
use serde_json::Value;
use std::sync::Arc;

/// What a function makes of the value that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Its JSON.
    Json,
    /// A string's characters; of other values their JSON.
    Text,
    /// A number, as a double; null for other values.
    Number,
    /// A boolean; null for other values.
    Boolean,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

/// `json_get`, `json_text`, `json_number` and `json_boolean`: `(document, key or index, …)`.
pub(super) fn all() -> Vec<ScalarUDF> {
    let kinds = [("json_get", Kind::Json), ("json_text", Kind::Text), ("json_number", Kind::Number), ("json_boolean", Kind::Boolean)];
    kinds.into_iter().map(|(name, kind)| ScalarUDF::new_from_impl(JsonFunction::new(name, kind))).collect()
}

impl JsonFunction {
    fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, args: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name;
        if args.len() < 2 {
            return Err(SqlError::unplaced(format!("`{name}` takes a document and at least one key, got {} arguments", args.len()))
                .hint(format!("for example `{name}(doc, 'items', 0, 'id')`"))
                .into());
        }
        let step = |t: &DataType| match t {
            t if t.is_integer() => Ok(DataType::Int64),
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => Ok(DataType::Utf8),
            other => Err(SqlError::unplaced(format!("`{name}` goes by keys and indices, found `{other}`")).hint("keys are text, indices whole numbers").into()),
        };
        if args[0].is_numeric() {
            return Err(SqlError::unplaced(format!("the document of `{name}` is text, found `{}`", args[0])).into());
        }
        std::iter::once(Ok(DataType::Utf8)).chain(args[1..].iter().map(step)).collect()
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Json | Kind::Text => DataType::Utf8,
            Kind::Number => DataType::Float64,
            Kind::Boolean => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let found = (0..rows).map(|row| find(&arrays, row)).collect::<Result<Vec<Option<Value>>>>()?;
        Ok(ColumnarValue::Array(match self.kind {
            Kind::Json => Arc::new(found.iter().map(|value| value.as_ref().map(Value::to_string)).collect::<StringArray>()),
            Kind::Text => Arc::new(found.iter().map(|value| value.as_ref().and_then(text)).collect::<StringArray>()),
            Kind::Number => Arc::new(found.iter().map(|value| value.as_ref().and_then(Value::as_f64)).collect::<Float64Array>()),
            Kind::Boolean => Arc::new(found.iter().map(|value| value.as_ref().and_then(Value::as_bool)).collect::<BooleanArray>()),
        }))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The value at the end of the row's path; negative indices count from the end.
fn find(arrays: &[ArrayRef], row: usize) -> Result<Option<Value>> {
    if arrays.iter().any(|array| array.is_null(row)) {
        return Ok(None);
    }
    let document = arrays[0].as_string::<i32>().value(row);
    let mut value = match serde_json::from_str::<Value>(document) {
        Ok(value) => value,
        Err(error) => return exec_err!("a text is no JSON: {error}"),
    };
    for step in &arrays[1..] {
        let next = match step.as_primitive_opt::<Int64Type>() {
            Some(indices) => value.as_array_mut().and_then(|items| {
                let (index, len) = (indices.value(row), items.len() as i64);
                let at = if index < 0 { len + index } else { index };
                (0..len).contains(&at).then(|| items.swap_remove(at as usize))
            }),
            None => value.as_object_mut().and_then(|fields| fields.remove(step.as_string::<i32>().value(row))),
        };
        match next {
            Some(found) => value = found,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// `doc -> key` is `json_get(doc, key)`, `doc ->> key` is `json_text(doc, key)`.
#[derive(Debug)]
pub(super) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (name, kind) = match expr.op {
            BinaryOperator::Arrow => ("json_get", Kind::Json),
            BinaryOperator::LongArrow => ("json_text", Kind::Text),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let call = Arc::new(ScalarUDF::new_from_impl(JsonFunction::new(name, kind))).call(vec![expr.left, expr.right]);
        Ok(PlannerResult::Planned(call))
    }
}
