//! Expressions over a row: their SQL, their type, and their value by three-valued logic.

use super::value::{Type, Value};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

pub type Fields = BTreeMap<String, Value>;

#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    Column(String),
    Literal(Value),
    Arithmetic(Box<Expression>, char, Box<Expression>),
    /// `=`, `<>`, `<`, `<=`, `>`, `>=`.
    Compare(Box<Expression>, &'static str, Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    IsNull(Box<Expression>),
    /// `CASE WHEN … THEN … ELSE … END`
    Case(Box<Expression>, Box<Expression>, Box<Expression>),
    Coalesce(Box<Expression>, Box<Expression>),
}

use Expression::*;

impl Expression {
    pub fn column(name: &str) -> Self {
        Column(name.to_owned())
    }

    pub fn integer(i: i64) -> Self {
        Literal(Value::Integer(i))
    }

    pub fn arithmetic(self, sign: char, other: Self) -> Self {
        Arithmetic(Box::new(self), sign, Box::new(other))
    }

    pub fn compare(self, sign: &'static str, other: Self) -> Self {
        Compare(Box::new(self), sign, Box::new(other))
    }

    /// With each column written as `name` says.
    pub fn sql(&self, name: &dyn Fn(&str) -> String) -> String {
        let of = |e: &Self| e.sql(name);
        match self {
            Column(column) => name(column),
            Literal(value) => value.sql(),
            Arithmetic(a, sign, b) => format!("({} {sign} {})", of(a), of(b)),
            Compare(a, sign, b) => format!("{} {sign} {}", of(a), of(b)),
            And(a, b) => format!("({} AND {})", of(a), of(b)),
            Or(a, b) => format!("({} OR {})", of(a), of(b)),
            Not(a) => format!("NOT ({})", of(a)),
            IsNull(a) => format!("{} IS NULL", of(a)),
            Case(when, then, otherwise) => format!("CASE WHEN {} THEN {} ELSE {} END", of(when), of(then), of(otherwise)),
            Coalesce(a, b) => format!("coalesce({}, {})", of(a), of(b)),
        }
    }

    pub fn columns(&self, into: &mut BTreeSet<String>) {
        match self {
            Column(name) => drop(into.insert(name.clone())),
            Literal(_) => {}
            Not(a) | IsNull(a) => a.columns(into),
            Arithmetic(a, _, b) | Compare(a, _, b) | And(a, b) | Or(a, b) | Coalesce(a, b) => {
                a.columns(into);
                b.columns(into);
            }
            Case(a, b, c) => [a, b, c].into_iter().for_each(|e| e.columns(into)),
        }
    }

    pub fn data_type(&self, of_column: &dyn Fn(&str) -> Type) -> Type {
        match self {
            Column(name) => of_column(name),
            Literal(value) => match value {
                Value::Integer(_) | Value::Null => Type::Integer,
                Value::Double(_) => Type::Double,
                Value::Decimal(_, scale) => Type::Decimal(*scale),
                Value::Text(_) => Type::Text,
                Value::Boolean(_) => Type::Boolean,
                Value::Time(_) => Type::Time,
            },
            Arithmetic(a, sign, b) => match (a.data_type(of_column), b.data_type(of_column)) {
                (Type::Double, _) | (_, Type::Double) => Type::Double,
                (Type::Decimal(a), Type::Decimal(b)) if *sign == '*' => Type::Decimal(a + b),
                (Type::Decimal(a), Type::Decimal(b)) => Type::Decimal(a.max(b)),
                (Type::Decimal(s), _) | (_, Type::Decimal(s)) => Type::Decimal(s),
                _ => Type::Integer,
            },
            Compare(..) | And(..) | Or(..) | Not(_) | IsNull(_) => Type::Boolean,
            Case(_, then, _) => then.data_type(of_column),
            Coalesce(a, _) => a.data_type(of_column),
        }
    }

    pub fn value(&self, row: &Fields) -> Value {
        match self {
            Column(name) => row.get(name).cloned().unwrap_or_else(|| panic!("a row has no column `{name}`: {row:?}")),
            Literal(value) => value.clone(),
            Arithmetic(a, sign, b) => arithmetic(&a.value(row), *sign, &b.value(row)),
            Compare(a, sign, b) => compared(&a.value(row), sign, &b.value(row)),
            And(a, b) => match (truth(&a.value(row)), truth(&b.value(row))) {
                (Some(false), _) | (_, Some(false)) => Value::Boolean(false),
                (Some(true), Some(true)) => Value::Boolean(true),
                _ => Value::Null,
            },
            Or(a, b) => match (truth(&a.value(row)), truth(&b.value(row))) {
                (Some(true), _) | (_, Some(true)) => Value::Boolean(true),
                (Some(false), Some(false)) => Value::Boolean(false),
                _ => Value::Null,
            },
            Not(a) => truth(&a.value(row)).map_or(Value::Null, |t| Value::Boolean(!t)),
            IsNull(a) => Value::Boolean(a.value(row).is_null()),
            Case(when, then, otherwise) => if when.holds(row) { then } else { otherwise }.value(row),
            Coalesce(a, b) => match a.value(row) {
                Value::Null => b.value(row),
                value => value,
            },
        }
    }

    /// True, and neither false nor null.
    pub fn holds(&self, row: &Fields) -> bool {
        truth(&self.value(row)) == Some(true)
    }
}

pub fn truth(value: &Value) -> Option<bool> {
    if let Value::Boolean(b) = value { Some(*b) } else { None }
}

fn compared(a: &Value, sign: &str, b: &Value) -> Value {
    if a.is_null() || b.is_null() {
        return Value::Null;
    }
    let order = a.order(b);
    Value::Boolean(match sign {
        "=" => order == Ordering::Equal,
        "<>" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

/// A whole number that is divided by zero is null: a row whose expression fails harms no other.
fn arithmetic(a: &Value, sign: char, b: &Value) -> Value {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Value::Null,
        (Value::Integer(a), Value::Integer(b)) => match sign {
            '+' => Value::Integer(a + b),
            '-' => Value::Integer(a - b),
            '*' => Value::Integer(a * b),
            '/' => a.checked_div(*b).map_or(Value::Null, Value::Integer),
            _ => a.checked_rem(*b).map_or(Value::Null, Value::Integer),
        },
        (Value::Double(_), _) | (_, Value::Double(_)) => {
            let (a, b) = (a.double(), b.double());
            Value::Double(match sign {
                '+' => a + b,
                '-' => a - b,
                '*' => a * b,
                _ => a / b,
            })
        }
        _ => {
            let scale_of = |v: &Value| if let Value::Decimal(_, s) = v { *s } else { 0 };
            let (own, other) = (scale_of(a), scale_of(b));
            let scale = own.max(other);
            match sign {
                '+' => Value::Decimal(a.units(scale) + b.units(scale), scale),
                '-' => Value::Decimal(a.units(scale) - b.units(scale), scale),
                _ => Value::Decimal(a.units(own) * b.units(other), own + other),
            }
        }
    }
}
