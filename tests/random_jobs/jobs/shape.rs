//! What a relation of a job looks like from outside: columns, key, time, level, and whether its rows can be taken back.

use super::{expression::Expression, job::*, value::Type};
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub columns: Vec<(String, Type)>,
    /// What a row is known by; empty where rows are only appended and not known by anything.
    pub key: Vec<String>,
    pub time: Option<String>,
    pub kind: Kind,
    /// 1: kept by the key of the source; 2: by another.
    pub level: u8,
    /// Columns by which the rows are spread over tasks.
    pub spread: Vec<String>,
    /// Rows of one value of these columns come from one partition, and so in one order. None: only where all times differ.
    pub ordered_by: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of streams, each with a place in the log.
    Stream,
    /// Rows of closed windows.
    Closed,
    /// Rows that are changed and taken back.
    Table,
}

impl Shape {
    pub fn type_of(&self, column: &str) -> Option<Type> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, t)| *t)
    }

    pub fn has(&self, column: &str) -> bool {
        self.type_of(column).is_some()
    }

    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The type of an expression over the relation.
    pub fn expression_type(&self, expression: &Expression) -> Type {
        expression.data_type(&|name| self.type_of(name).unwrap_or(Type::Integer))
    }

    fn covers(&self, expressions: &[&Expression]) -> bool {
        let mut columns = BTreeSet::new();
        expressions.iter().for_each(|e| e.columns(&mut columns));
        columns.iter().all(|c| self.has(c))
    }
}

pub fn bounds() -> [(String, Type); 2] {
    [("window_start".to_owned(), Type::Time), ("window_end".to_owned(), Type::Time)]
}

impl Job {
    /// None where the relation is not there or names columns that its inputs do not have.
    pub fn shape(&self, name: &str) -> Option<Shape> {
        if let Some(source) = self.source(name) {
            let key: Vec<String> = KEY.map(str::to_owned).to_vec();
            let kind = if source.table { Kind::Table } else { Kind::Stream };
            let time = Some(TIME.to_owned());
            return Some(Shape { columns: source.columns.clone(), key: key.clone(), time, kind, level: 1, spread: key.clone(), ordered_by: Some(key) });
        }
        let view = self.view(name)?;
        match &view.body {
            Body::Map(map) => self.map_shape(map),
            Body::Group(group) => self.group_shape(group, view.emit),
            Body::Join(join) => self.join_shape(join, view.emit),
            Body::Interval(join) => self.interval_shape(join),
            Body::Union(union) => self.union_shape(union),
            Body::Top(top) => self.top_shape(top, view.emit),
        }
    }

    /// Every view finds what it reads.
    pub fn is_whole(&self) -> bool {
        !self.views.is_empty() && self.views.iter().all(|v| self.shape(&v.name).is_some())
    }

    fn map_shape(&self, map: &Map) -> Option<Shape> {
        let input = self.shape(&map.input)?;
        let expressions: Vec<&Expression> = map.items.iter().map(|(_, e)| e).chain(&map.filter).collect();
        if !input.covers(&expressions) {
            return None;
        }
        let columns: Vec<(String, Type)> = map.items.iter().map(|(name, e)| (name.clone(), input.expression_type(e))).collect();
        let kept = |column: &String| map.items.iter().any(|(name, e)| name == column && *e == Expression::column(column));
        if !input.key.iter().all(kept) || !input.spread.iter().all(kept) || !input.time.iter().all(kept) {
            return None;
        }
        Some(Shape { columns, ..input })
    }

    fn group_shape(&self, group: &Group, emit: Emit) -> Option<Shape> {
        let input = self.shape(&group.input)?;
        if !group.filter.iter().all(|e| input.covers(&[e])) || (group.calls.is_empty() && !group.distinct) {
            return None;
        }
        let mut columns = Vec::new();
        for key in &group.keys {
            columns.push((key.clone(), input.type_of(key)?));
        }
        if let Some(window) = &group.window {
            input.type_of(&window.time)?;
            columns.extend(bounds());
        }
        let key: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        for call in &group.calls {
            let expressions: Vec<&Expression> = call.argument.iter().chain(&call.filter).collect();
            if !input.covers(&expressions) || !call.order.iter().all(|(c, _)| input.has(c)) {
                return None;
            }
            columns.push((call.name.clone(), call.result_type(&input)));
        }
        let stays = input.spread.iter().all(|c| group.keys.contains(c));
        let level = if stays { input.level } else { input.level + 1 };
        let kind = if emit == Emit::OnWindowClose && group.allowed_lateness_us.is_none() { Kind::Closed } else { Kind::Table };
        if group.allowed_lateness_us.is_some() {
            columns.push(("revision".to_owned(), Type::Integer));
        }
        let shape = Shape {
            columns,
            key,
            time: group.window.as_ref().map(|_| "window_end".to_owned()),
            kind,
            level,
            spread: if stays { input.spread } else { group.keys.clone() },
            // Rows of one time come in the order of their keys, which the whole key alone takes no part in.
            ordered_by: Some(group.keys.clone()),
        };
        (level <= 2 && group.having.iter().all(|e| shape.covers(&[e]))).then_some(shape)
    }

    fn join_shape(&self, join: &Join, emit: Emit) -> Option<Shape> {
        let (left, right) = (self.shape(&join.left)?, self.shape(&join.right)?);
        join.on.iter().all(|(l, r)| left.has(l) && right.has(r)).then_some(())?;
        let columns = joined_columns(&join.items, &left, &right)?;
        let name_of = |side: JoinSide, column: &String| {
            join.items.iter().find(|i| (i.side == side || i.side == JoinSide::Both) && i.column == *column).map(|i| i.name.clone())
        };
        // Right key columns that equal columns of the left are known by those.
        let right_own = right.key.iter().filter(|c| !join.on.iter().any(|(_, r)| r == *c) || join.kind == JoinKind::Full);
        let mut key = left.key.iter().map(|c| name_of(JoinSide::Left, c)).collect::<Option<Vec<_>>>()?;
        for column in right_own {
            let name = name_of(JoinSide::Right, column)?;
            if !key.contains(&name) {
                key.push(name);
            }
        }
        let windowed = emit == Emit::OnWindowClose;
        let time = windowed.then(|| "window_end".to_owned());
        let kind = if windowed { Kind::Closed } else { Kind::Table };
        let spread = key.iter().filter(|k| !k.starts_with("window_")).cloned().collect::<Vec<_>>();
        let shape = Shape { columns, key, time, kind, level: left.level.max(right.level), spread, ordered_by: None };
        join.filter.iter().all(|e| shape.covers(&[e])).then_some(shape)
    }

    fn interval_shape(&self, join: &IntervalJoin) -> Option<Shape> {
        let (left, right) = (self.shape(&join.left)?, self.shape(&join.right)?);
        join.on.iter().all(|c| left.has(c) && right.has(c)).then_some(())?;
        let columns = joined_columns(&join.items, &left, &right)?;
        Some(Shape { columns, key: Vec::new(), time: None, kind: Kind::Stream, level: 1, spread: left.spread, ordered_by: None })
    }

    fn union_shape(&self, union: &Union) -> Option<Shape> {
        let shapes = union.inputs.iter().map(|i| self.shape(i)).collect::<Option<Vec<_>>>()?;
        let first = shapes.first()?;
        let columns = union.columns.iter().map(|c| Some((c.clone(), first.type_of(c)?))).collect::<Option<Vec<_>>>()?;
        let alike = |s: &Shape| columns.iter().all(|(c, t)| s.type_of(c) == Some(*t)) && s.time == first.time && s.kind == first.kind && s.level == first.level;
        let kept = first.spread.iter().chain(&first.time).all(|c| union.columns.contains(c));
        (shapes.iter().all(alike) && kept).then(|| Shape { columns, key: Vec::new(), ordered_by: None, ..first.clone() })
    }

    fn top_shape(&self, top: &Top, emit: Emit) -> Option<Shape> {
        let input = self.shape(&top.input)?;
        let mut columns = top.columns.iter().map(|c| Some((c.clone(), input.type_of(c)?))).collect::<Option<Vec<_>>>()?;
        columns.push(("rn".to_owned(), Type::Integer));
        let found = top.order.iter().all(|(c, _)| input.has(c)) && top.partition.iter().all(|c| top.columns.contains(c));
        let key: Vec<String> = top.partition.iter().cloned().chain(["rn".to_owned()]).collect();
        let kind = if emit == Emit::OnWindowClose { Kind::Closed } else { Kind::Table };
        let stays = input.spread.iter().all(|c| top.partition.contains(c));
        let level = if stays { input.level } else { input.level + 1 };
        let spread = if stays { input.spread } else { top.partition.clone() };
        (found && level <= 2).then_some(Shape { columns, key, time: None, kind, level, spread, ordered_by: None })
    }
}

fn joined_columns(items: &[JoinItem], left: &Shape, right: &Shape) -> Option<Vec<(String, Type)>> {
    let side = |item: &JoinItem| if item.side == JoinSide::Right { right.type_of(&item.column) } else { left.type_of(&item.column) };
    items.iter().map(|item| Some((item.name.clone(), side(item)?))).collect()
}

impl Call {
    pub fn result_type(&self, input: &Shape) -> Type {
        let argument = self.argument.as_ref().map_or(Type::Integer, |e| input.expression_type(e));
        match (self.function, argument) {
            (Function::Count, _) => Type::Integer,
            (Function::Avg, Type::Decimal(scale)) => Type::Decimal(scale + 4),
            (Function::Avg | Function::Stddev | Function::StddevPop | Function::Median, _) => Type::Double,
            (Function::BoolAnd | Function::BoolOr, _) => Type::Boolean,
            (Function::StringAgg, _) => Type::Text,
            (_, argument) => argument,
        }
    }
}
