//! `CREATE FUNCTION name(a TYPE, …) RETURNS TYPE AS 'expression'`: a name for an expression. A call is replaced by the expression with
//! the arguments in it, so that it costs and means what the expression does.

use super::{
    catalog::Catalog,
    error::{Result as SqlResult, SqlError, from_datafusion, place},
    keyed,
    statement::FunctionStatement,
};
use arrow_schema::{DataType, Field, Schema};
use datafusion::{
    common::{
        Column, DFSchema, Result, exec_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

/// Nodes of an expression after every call in it was replaced.
const NODES_MAX: usize = 2_000;

#[derive(Debug, PartialEq, Eq, Hash)]
struct UserFunction {
    name: String,
    parameters: Vec<(String, DataType)>,
    returns: DataType,
    body: Expr,
    signature: Signature,
}

pub(super) fn plan(statement: FunctionStatement, catalog: &Catalog) -> SqlResult<ScalarUDF> {
    let FunctionStatement { name, parameters, returns, body, body_place } = statement;
    let (expr, tokens) = body;
    let planned = planned_body(expr, &parameters, &returns, catalog).map_err(|e| {
        // Positions inside of the quoted text are the text's own.
        let mut error = place(from_datafusion(e, &tokens), &tokens);
        (error.line, error.column) = (body_place.line, body_place.column);
        error
    })?;
    let signature = Signature::exact(parameters.iter().map(|(_, t)| t.clone()).collect(), Volatility::Immutable);
    Ok(ScalarUDF::new_from_impl(UserFunction { name, parameters, returns, body: planned, signature }))
}

fn planned_body(expr: datafusion::sql::sqlparser::ast::Expr, parameters: &[(String, DataType)], returns: &DataType, catalog: &Catalog) -> Result<Expr> {
    let fields: Vec<Field> = parameters.iter().map(|(name, t)| Field::new(name, t.clone(), true)).collect();
    let schema = DFSchema::try_from(Schema::new(fields))?;
    let body = expanded(catalog.plan_expression(expr, &schema)?)?;
    let mut nodes = 0;
    body.apply(|node| {
        nodes += 1;
        match node {
            Expr::ScalarFunction(call) if call.func.name() == "now" || keyed::as_call(node).is_some() => {
                let message = format!("`{}` cannot stand in a function: it looks at more than its arguments", call.func.name());
                return Err(SqlError::unplaced(message).hint("write it in the view, and give the function its value").into());
            }
            Expr::AggregateFunction(call) => {
                let message = format!("`{}` cannot stand in the body of a function, which is asked for one row", call.func.name());
                return Err(SqlError::unplaced(message).hint("write the aggregate in the view, around the function").into());
            }
            Expr::WindowFunction(_) => {
                return Err(SqlError::unplaced("`OVER` cannot stand in the body of a function, which is asked for one row").into());
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if nodes > NODES_MAX {
        return Err(SqlError::unplaced(format!("the function has {nodes} parts when the functions in it are written out, at most {NODES_MAX}")).into());
    }
    let found = body.get_type(&schema)?;
    if found == *returns {
        return Ok(body);
    }
    if !datafusion::arrow::compute::can_cast_types(&found, returns) {
        return Err(SqlError::unplaced(format!("the function gives `{found}`, and says that it returns `{returns}`")).into());
    }
    Ok(Expr::Cast(Cast::new(Box::new(body), returns.clone())))
}

/// `expr` with the bodies of user functions in the place of their calls.
fn expanded(expr: Expr) -> Result<Expr> {
    let replaced = expr.transform_up(|node| {
        let Expr::ScalarFunction(call) = &node else { return Ok(Transformed::no(node)) };
        match call.func.inner().downcast_ref::<UserFunction>() {
            Some(function) => Ok(Transformed::yes(function.with_arguments(&call.args)?)),
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(replaced.data)
}

impl UserFunction {
    fn with_arguments(&self, args: &[Expr]) -> Result<Expr> {
        let replaced = self.body.clone().transform_up(|node| {
            let Expr::Column(Column { name, .. }) = &node else { return Ok(Transformed::no(node)) };
            let Some(at) = self.parameters.iter().position(|(parameter, _)| parameter == name) else { return Ok(Transformed::no(node)) };
            Ok(Transformed::new(args[at].clone(), true, TreeNodeRecursion::Jump))
        })?;
        Ok(replaced.data)
    }
}

impl ScalarUDFImpl for UserFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn simplify(&self, args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(self.with_arguments(&args)?))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("`{}` is replaced by its expression before it is evaluated", self.name)
    }
}
