//! Random views over what a job already has.

use super::{
    expression::Expression,
    generate::Maker,
    job::*,
    shape::{Kind, Shape},
    value::{Type, Value},
};

impl Maker<'_> {
    fn columns_of(&self, shape: &Shape, wanted: impl Fn(Type) -> bool) -> Vec<String> {
        shape.columns.iter().filter(|(name, t)| wanted(*t) && name != "event_id").map(|(name, _)| name.clone()).collect()
    }

    /// A column, or a little arithmetics.
    fn number(&mut self, shape: &Shape, of: &dyn Fn(Type) -> bool) -> Option<Expression> {
        let columns = self.columns_of(shape, |t| t.is_number() && of(t));
        if columns.is_empty() {
            return None;
        }
        let name = self.random.pick(&columns);
        let column = Expression::column(&name);
        let literal = Expression::integer(self.random.between(1, 9));
        Some(match (shape.type_of(&name), self.random.below(10)) {
            (_, 0..=6) => column,
            (Some(Type::Integer), 7) => column.arithmetic('/', literal),
            (Some(Type::Integer), 8) => Expression::integer(100).arithmetic('/', column),
            (Some(Type::Integer), _) => column.arithmetic('%', literal),
            (Some(Type::Double), 7) => column.arithmetic('*', Expression::Literal(Value::Double(2.5))),
            (_, 8) => Expression::Coalesce(Box::new(column), Box::new(Expression::integer(1).arithmetic('*', literal))).same_type(shape),
            (_, _) => column.arithmetic('*', literal),
        })
    }

    pub fn condition(&mut self, shape: &Shape) -> Option<Expression> {
        let numbers = self.columns_of(shape, Type::is_number);
        let texts = self.columns_of(shape, |t| t == Type::Text);
        let flags = self.columns_of(shape, |t| t == Type::Boolean);
        let mut all = Vec::new();
        if !numbers.is_empty() {
            let limit = Expression::integer(self.random.between(-10, 20));
            let sign = self.random.pick(&[">", ">=", "<", "<=", "<>", "="]);
            all.push(Expression::column(&self.random.pick(&numbers)).compare(sign, limit));
            all.push(Expression::IsNull(Box::new(Expression::column(&self.random.pick(&numbers)))));
        }
        if !texts.is_empty() {
            let sign = self.random.pick(&["=", "<>", ">="]);
            let word = self.random.pick(&["n", "s", "s1", "t0"]);
            all.push(Expression::column(&self.random.pick(&texts)).compare(sign, Expression::Literal(Value::text(word))));
        }
        if !flags.is_empty() {
            all.push(Expression::column(&self.random.pick(&flags)));
        }
        if all.is_empty() {
            return None;
        }
        let (a, b) = (self.random.pick(&all), self.random.pick(&all));
        Some(match self.random.below(6) {
            0 => Expression::And(Box::new(a), Box::new(b)),
            1 => Expression::Or(Box::new(a), Box::new(b)),
            2 => Expression::Not(Box::new(a)),
            _ => a,
        })
    }

    pub fn some_condition(&mut self, shape: &Shape, percent: usize) -> Option<Expression> {
        if self.random.chance(percent) { self.condition(shape) } else { None }
    }

    /// Keeps key, time and place, and computes some columns.
    pub fn map(&mut self, input: &str, last: bool) {
        let shape = self.shape(input);
        let kept: Vec<String> = shape.names().into_iter().filter(|n| n != "event_id").filter(|n| !last || shape.key.contains(n) || n.len() < 5).collect();
        let mut items: Vec<(String, Expression)> = kept.iter().map(|n| (n.clone(), Expression::column(n))).collect();
        for i in 0..self.random.between(1, 3) {
            items.extend(self.item(&shape).map(|e| (format!("m{i}"), e)));
        }
        let filter = self.some_condition(&shape, 50);
        self.add(Body::Map(Map { input: input.to_owned(), items, filter }), Emit::Rows);
    }

    fn item(&mut self, shape: &Shape) -> Option<Expression> {
        if self.random.chance(60) {
            return self.number(shape, &|_| true);
        }
        let when = self.condition(shape)?;
        let branch = |text: &str| Box::new(Expression::Literal(Value::text(text)));
        if self.random.chance(50) {
            return Some(Expression::Case(Box::new(when), branch("high"), branch("low")));
        }
        let numbers = self.columns_of(shape, |t| t == Type::Integer);
        let number = Expression::column(&self.random.pick(&numbers));
        Some(Expression::Case(Box::new(when), Box::new(number), Box::new(Expression::integer(0))))
    }

    /// Columns to group by, with the whole key more often than others.
    pub fn keys(&mut self, shape: &Shape) -> Vec<String> {
        let whole = shape.spread.clone();
        let texts = self.columns_of(shape, |t| matches!(t, Type::Text | Type::Boolean));
        if shape.level == 2 {
            return whole;
        }
        match self.random.below(10) {
            0..4 => whole,
            4 => whole.into_iter().chain(texts.iter().filter(|t| !shape.spread.contains(t)).take(1).cloned()).collect(),
            5 | 6 => whole.into_iter().take(1).collect(),
            7 | 8 => vec![self.random.pick(&texts)],
            _ => Vec::new(),
        }
    }

    fn window_kind(&mut self, whole: bool) -> WindowKind {
        let size = self.length();
        let offset = if self.random.chance(25) { self.scale * self.random.between(1, 3) } else { 0 };
        match self.random.below(10) {
            0 | 1 if self.features.cumulate => {
                let n = self.random.between(1, 6);
                WindowKind::Cumulate { step: self.scale * n, size: self.scale * n * self.random.between(1, 5), offset }
            }
            // Sessions of rows of several partitions would depend on how their rows lie beside one another.
            2..=4 if self.features.session && whole => WindowKind::Session { gap: self.scale * self.random.pick(&[1, 2, 3, 5]) },
            5..=8 => {
                let slide = self.random.between(1, (size / self.scale).clamp(1, 20)) * self.scale;
                WindowKind::Hop { slide: slide.max(size / 40 / self.scale * self.scale), size, offset }
            }
            _ => WindowKind::Tumble { size, offset },
        }
    }

    /// A windowed view over rows; not the last, it closes and can be read on.
    pub fn window(&mut self, input: &str, last: bool) -> String {
        let shape = self.shape(input);
        let keys = if last { self.keys(&shape) } else { self.lower_keys(&shape) };
        let stays = shape.spread.iter().all(|c| keys.contains(c));
        let from_one = shape.ordered_by.is_some() && stays && shape.kind == Kind::Stream;
        let kind = self.window_kind(from_one);
        let time = shape.time.clone().unwrap_or_default();
        let emit = self.window_emit(last && stays && shape.kind == Kind::Stream && !matches!(kind, WindowKind::Session { .. }));
        let correctable = last && emit == Emit::OnWindowClose && from_one && !matches!(kind, WindowKind::Session { .. });
        let lateness = (self.features.allowed_lateness && correctable && self.random.chance(50)).then(|| self.length());
        let calls = self.calls(&shape, &keys, emit == Emit::OnWindowClose, stays);
        let filter = self.some_condition(&shape, 25);
        let window = Some(Window { kind, time });
        let drops_late = self.random.chance(30);
        let mut group =
            Group { input: input.to_owned(), window, filter, keys, calls, having: None, drops_late, allowed_lateness_us: lateness, distinct: false };
        self.having(&mut group, &shape, lateness.is_none());
        self.add(Body::Group(group), emit)
    }

    /// Keys that a view above can still regroup.
    fn lower_keys(&mut self, shape: &Shape) -> Vec<String> {
        if self.random.chance(80) { shape.spread.clone() } else { shape.spread.iter().take(1).cloned().collect() }
    }

    fn window_emit(&mut self, may_change: bool) -> Emit {
        match self.random.below(10) {
            0 | 1 if may_change && self.features.changes => Emit::Changes,
            2 | 3 if may_change && self.features.every => Emit::ChangesEvery(self.tick()),
            _ => Emit::OnWindowClose,
        }
    }

    pub fn window_over(&mut self, input: &str) {
        let mut shape = self.shape(input);
        // Inside of a window function these names mean the new window.
        shape.columns.retain(|(name, _)| !name.starts_with("window_"));
        let keys = self.keys(&shape);
        let stays = shape.spread.iter().all(|c| keys.contains(c));
        let size = self.length() * self.random.between(1, 4);
        let kind = if self.random.chance(30) {
            WindowKind::Hop { slide: (size / 2 / self.scale).max(1) * self.scale, size, offset: 0 }
        } else {
            WindowKind::Tumble { size, offset: 0 }
        };
        let calls = self.calls(&shape, &keys, true, stays);
        let window = Some(Window { kind, time: "window_end".to_owned() });
        let filter = self.some_condition(&shape, 20);
        let mut group =
            Group { input: input.to_owned(), window, filter, keys, calls, having: None, drops_late: false, allowed_lateness_us: None, distinct: false };
        self.having(&mut group, &shape, true);
        self.add(Body::Group(group), Emit::OnWindowClose);
    }

    fn having(&mut self, group: &mut Group, input: &Shape, may: bool) {
        let numbers: Vec<String> = group.calls.iter().filter(|c| c.result_type(input).is_number()).map(|c| c.name.clone()).collect();
        if may && !numbers.is_empty() && self.random.chance(25) {
            let sign = self.random.pick(&[">", ">=", "<", "<>"]);
            let limit = Expression::integer(self.random.between(0, 6));
            group.having = Some(Expression::column(&self.random.pick(&numbers)).compare(sign, limit));
        }
    }

    pub fn unwindowed(&mut self, input: &str, last: bool) -> String {
        let shape = self.shape(input);
        let mut keys = if last { self.keys(&shape) } else { self.lower_keys(&shape) };
        if keys.is_empty() {
            keys = shape.spread.clone();
        }
        let stays = shape.spread.iter().all(|c| keys.contains(c));
        let every = last && self.features.every && shape.kind == Kind::Stream && shape.ordered_by.is_some() && stays;
        let emit = if every && self.random.chance(30) { Emit::ChangesEvery(self.tick()) } else { Emit::Changes };
        let calls = self.calls(&shape, &keys, false, stays);
        let filter = self.some_condition(&shape, 25);
        let mut group =
            Group { input: input.to_owned(), window: None, filter, keys, calls, having: None, drops_late: false, allowed_lateness_us: None, distinct: false };
        self.having(&mut group, &shape, true);
        self.add(Body::Group(group), emit)
    }

    pub fn distinct(&mut self, input: &str) {
        let shape = self.shape(input);
        let columns = ["tenant", "sub", "region", "flag", "units"];
        let keys: Vec<String> = columns.iter().filter(|_| self.random.chance(50)).map(|c| (*c).to_owned()).collect();
        let keys = if keys.is_empty() { vec!["region".to_owned()] } else { keys };
        let filter = self.some_condition(&shape, 40);
        let group = Group {
            input: input.to_owned(),
            window: None,
            filter,
            keys,
            calls: Vec::new(),
            having: None,
            drops_late: false,
            allowed_lateness_us: None,
            distinct: true,
        };
        self.add(Body::Group(group), Emit::Changes);
    }

    fn calls(&mut self, shape: &Shape, keys: &[String], closes: bool, stays: bool) -> Vec<Call> {
        let ordered = self.is_ordered(shape, keys);
        (0..self.random.between(1, 5)).map(|i| self.call(i, shape, ordered, closes, stays)).collect()
    }

    fn call(&mut self, i: i64, shape: &Shape, ordered: bool, closes: bool, stays: bool) -> Call {
        let everywhere = self.features.aggregates_everywhere;
        let changing = shape.kind == Kind::Table;
        let foreign = (self.features.foreign_aggregates && closes && stays && !changing) || everywhere;
        let mut functions = vec![Function::Count, Function::Count, Function::Sum, Function::Sum, Function::Avg];
        if !changing || everywhere {
            functions.extend([Function::Min, Function::Max]);
        }
        if ordered {
            functions.extend([Function::First, Function::Last]);
        }
        if foreign {
            functions.extend([Function::Median, Function::BoolAnd, Function::BoolOr]);
        }
        if foreign && ordered && self.features.ordered_aggregates {
            functions.extend([Function::Stddev, Function::StddevPop, Function::StringAgg]);
        }
        let function = self.random.pick(&functions);
        let mut distinct = foreign && matches!(function, Function::Count | Function::Sum) && self.random.chance(30);
        let mut argument = self.argument(function, shape);
        if function == Function::Count && !distinct && self.random.chance(50) {
            argument = None;
        }
        distinct &= argument.as_ref().is_some_and(|a| function == Function::Count || shape.expression_type(a) == Type::Integer);
        let function = if argument.is_none() { Function::Count } else { function };
        let own = matches!(function, Function::Count | Function::Sum | Function::Avg | Function::Min | Function::Max | Function::First | Function::Last);
        let filter = if (own && !distinct) || self.features.foreign_filter { self.some_condition(shape, 20) } else { None };
        let sorts = matches!(function, Function::First | Function::Last | Function::StringAgg);
        let unique: Vec<String> = ["seq".to_owned()].into_iter().filter(|c| shape.kind == Kind::Stream && shape.has(c)).collect();
        let order = if self.features.aggregate_order_by && foreign && sorts && !unique.is_empty() && self.random.chance(40) {
            self.ordering(shape, &unique)
        } else {
            Vec::new()
        };
        Call { name: format!("c{}_{i}", self.job.views.len() + 1), function, distinct, argument, filter, order }
    }

    fn argument(&mut self, function: Function, shape: &Shape) -> Option<Expression> {
        let any = self.columns_of(shape, |_| true);
        let of_type = |wanted: Type| self.columns_of(shape, |t| t == wanted);
        let (texts, flags) = (of_type(Type::Text), of_type(Type::Boolean));
        let comparable = self.columns_of(shape, |t| t != Type::Boolean);
        match function {
            Function::Count | Function::First | Function::Last => Some(Expression::column(&self.random.pick(&any))),
            Function::Min | Function::Max => Some(Expression::column(&self.random.pick(&comparable))),
            // Means have no short binary fraction, so that their plain sum depends on the order.
            Function::Sum | Function::Avg => {
                let exact = self.features.exact_floats || shape.kind == Kind::Stream;
                self.number(shape, &|t| exact || t != Type::Double)
            }
            Function::Median | Function::Stddev | Function::StddevPop => self.number(shape, &|t| matches!(t, Type::Integer | Type::Double)),
            Function::BoolAnd | Function::BoolOr if flags.is_empty() => None,
            Function::BoolAnd | Function::BoolOr => Some(Expression::column(&self.random.pick(&flags))),
            Function::StringAgg if texts.is_empty() => None,
            Function::StringAgg => Some(Expression::column(&self.random.pick(&texts))),
        }
    }

    /// An order that ends with columns that no two rows share.
    pub fn ordering(&mut self, shape: &Shape, unique: &[String]) -> Vec<(String, bool)> {
        let columns = self.columns_of(shape, |t| t != Type::Boolean);
        let mut order = vec![(self.random.pick(&columns), self.random.chance(50))];
        for column in unique {
            if order.iter().all(|(c, _)| c != column) {
                order.push((column.clone(), self.random.chance(50)));
            }
        }
        order
    }
}

impl Expression {
    /// A fallback of another type than the column would change the type of the whole: the column alone then.
    fn same_type(self, shape: &Shape) -> Self {
        match self {
            Self::Coalesce(a, b) if shape.expression_type(&a) != shape.expression_type(&b) => *a,
            other => other,
        }
    }
}
