//! Functions of the dialect that DataFusion does not have.
//!
//! All but `now()` are pure. `now()` is event time: the task sets it before it evaluates, so that a replay sees what
//! the first run saw. Functions that give another value on every call (`random`, `uuid`, the wall clock) are absent.

use super::{keyed, statement::timestamp};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, StringArray, cast::AsArray, types::Float64Type};
use arrow_schema::DataType;
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility},
};
use models::ChurnModel;
use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use xxhash_rust::xxh3::xxh3_64;

/// The model that `churn_score` and `churn_reasons` call.
pub const CHURN_MODEL: &str = "churn";

/// Mean radius of the earth in km (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.008_8;

/// What the functions of a job need from outside.
#[derive(Clone, Default)]
pub struct FunctionContext {
    /// The value of `now()` in UTC microseconds; the task sets it before each evaluation.
    pub now_us: Arc<AtomicI64>,
    /// By name; `churn` is what the churn functions call. Without it they give null.
    pub models: BTreeMap<String, Arc<ChurnModel>>,
}

impl fmt::Debug for FunctionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<&String> = self.models.keys().collect();
        f.debug_struct("FunctionContext").field("now_us", &self.now_us).field("models", &models).finish()
    }
}

/// Every scalar function of ours, keyed ones included.
pub(super) fn all(context: &FunctionContext) -> Vec<ScalarUDF> {
    let model = || context.models.get(CHURN_MODEL).cloned();
    let float = DataType::Float64;
    let mut functions = vec![
        Function::new("now", Kind::Now(context.now_us.clone()), Signature::nullary(Volatility::Volatile)),
        Function::new("haversine_km", Kind::HaversineKm, exact(vec![float.clone(); 4])),
        Function::new("churn_score", Kind::ChurnScore(model()), features()),
        Function::new("churn_reasons", Kind::ChurnReasons(model()), features()),
        Function::new("churn_band", Kind::ChurnBand, exact(vec![float])),
        Function::new("hash_bucket", Kind::HashBucket, exact(vec![DataType::Utf8, DataType::Int64])),
    ];
    functions.extend(keyed::NAMES.map(|name| Function::new(name, Kind::Keyed, keyed::signature(name))));
    functions.into_iter().map(ScalarUDF::new_from_impl).collect()
}

fn exact(types: Vec<DataType>) -> Signature {
    Signature::exact(types, Volatility::Immutable)
}

fn features() -> Signature {
    Signature::new(TypeSignature::Variadic(vec![DataType::Float64]), Volatility::Immutable)
}

/// Scores and distances are rounded before anything compares them with a threshold.
fn rounded(value: f64) -> f64 {
    libm::round(value * 1e6) / 1e6
}

struct Function {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

enum Kind {
    Now(Arc<AtomicI64>),
    HaversineKm,
    ChurnScore(Option<Arc<ChurnModel>>),
    ChurnReasons(Option<Arc<ChurnModel>>),
    ChurnBand,
    HashBucket,
    /// Taken out of every expression by the planner; never evaluated.
    Keyed,
}

impl Function {
    fn new(name: &'static str, kind: Kind, signature: Signature) -> Self {
        Self { name, kind, signature }
    }
}

// Within a job a name stands for one function, so names are what makes calls equal.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Function {}
impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(match &self.kind {
            Kind::Now(_) => timestamp(),
            Kind::HaversineKm | Kind::ChurnScore(_) => DataType::Float64,
            Kind::ChurnReasons(_) | Kind::ChurnBand => DataType::Utf8,
            Kind::HashBucket => DataType::Int64,
            Kind::Keyed => keyed::return_type(self.name, args),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        if let Kind::Now(now_us) = &self.kind {
            let value = ScalarValue::TimestampMicrosecond(Some(now_us.load(Ordering::Relaxed)), Some("UTC".into()));
            return Ok(ColumnarValue::Scalar(value));
        }
        let arrays = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let result: ArrayRef = match &self.kind {
            Kind::HaversineKm => Arc::new(haversine_km(&floats(&arrays), rows)),
            Kind::ChurnScore(model) => Arc::new(churn_score(model.as_deref(), &floats(&arrays), rows)),
            Kind::ChurnReasons(model) => Arc::new(churn_reasons(model.as_deref(), &floats(&arrays), rows)),
            Kind::ChurnBand => Arc::new(floats(&arrays)[0].iter().map(|score| score.map(models::band)).collect::<StringArray>()),
            Kind::HashBucket => Arc::new(hash_bucket(&arrays)?),
            Kind::Now(_) | Kind::Keyed => return exec_err!("`{}` has no value of its own", self.name),
        };
        Ok(ColumnarValue::Array(result))
    }
}

fn floats(arrays: &[ArrayRef]) -> Vec<&Float64Array> {
    arrays.iter().map(|a| a.as_primitive::<Float64Type>()).collect()
}

fn at(array: &Float64Array, row: usize) -> Option<f64> {
    array.is_valid(row).then(|| array.value(row))
}

/// Great-circle distance between (lat1, lon1) and (lat2, lon2), in degrees, on a sphere; null where one is null.
fn haversine_km(args: &[&Float64Array], rows: usize) -> Float64Array {
    (0..rows)
        .map(|row| {
            let (lat1, lon1) = (at(args[0], row)?.to_radians(), at(args[1], row)?.to_radians());
            let (lat2, lon2) = (at(args[2], row)?.to_radians(), at(args[3], row)?.to_radians());
            let (half_lat, half_lon) = (libm::sin((lat2 - lat1) / 2.0), libm::sin((lon2 - lon1) / 2.0));
            let a = half_lat * half_lat + libm::cos(lat1) * libm::cos(lat2) * half_lon * half_lon;
            Some(rounded(2.0 * EARTH_RADIUS_KM * libm::asin(libm::sqrt(a.clamp(0.0, 1.0)))))
        })
        .collect()
}

fn churn_score(model: Option<&ChurnModel>, features: &[&Float64Array], rows: usize) -> Float64Array {
    let Some(model) = model else { return Float64Array::new_null(rows) };
    let mut values = vec![None; features.len()];
    (0..rows)
        .map(|row| {
            features.iter().zip(&mut values).for_each(|(feature, value)| *value = at(feature, row));
            Some(rounded(model.score(&values)))
        })
        .collect()
}

fn churn_reasons(model: Option<&ChurnModel>, features: &[&Float64Array], rows: usize) -> StringArray {
    let Some(model) = model else { return StringArray::new_null(rows) };
    (0..rows)
        .map(|row| {
            let values: Vec<Option<f64>> = features.iter().map(|feature| at(feature, row)).collect();
            Some(reasons_json(model, &values))
        })
        .collect()
}

fn reasons_json(model: &ChurnModel, values: &[Option<f64>]) -> String {
    let mut reasons = model.reasons(values);
    reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()).then_with(|| a.feature.cmp(&b.feature)));
    let json = reasons.iter().map(
        |r| serde_json::json!({"feature": r.feature, "value": r.value.map(rounded), "baseline": rounded(r.baseline), "contribution": rounded(r.contribution)}),
    );
    serde_json::Value::Array(json.collect()).to_string()
}

/// A number in `0..n` that depends on the text alone.
fn hash_bucket(args: &[ArrayRef]) -> Result<Int64Array> {
    let (texts, buckets) = (args[0].as_string::<i32>(), args[1].as_primitive::<arrow_array::types::Int64Type>());
    texts
        .iter()
        .zip(buckets.iter())
        .map(|pair| match pair {
            (Some(text), Some(n)) if n > 0 => Ok(Some((xxh3_64(text.as_bytes()) % n as u64) as i64)),
            (_, Some(n)) if n <= 0 => exec_err!("`hash_bucket` needs at least one bucket, got {n}"),
            _ => Ok(None),
        })
        .collect()
}
