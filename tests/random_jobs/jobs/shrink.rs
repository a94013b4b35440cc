//! Smaller jobs, so that a pair that fails can be reduced step by step.

use super::{job::*, value::Value};
use std::collections::BTreeSet;

impl Job {
    /// Jobs that are a little smaller, the much smaller ones first. Each of them is whole.
    pub fn shrink(&self) -> Vec<Job> {
        let mut smaller = Vec::new();
        self.without_views(&mut smaller);
        self.without_rows(&mut smaller);
        self.simpler_views(&mut smaller);
        self.simpler_sources(&mut smaller);
        self.simpler_values(&mut smaller);
        smaller.into_iter().map(Job::pruned).filter(|job| job.is_whole() && job != self).collect()
    }

    fn pruned(mut self) -> Self {
        // The view that is read is a statement of its own.
        if let Some(last) = self.views.last_mut() {
            last.place = Place::Statement;
        }
        self.remove_unread();
        self
    }

    /// Views and sources that the last view does not need.
    pub fn remove_unread(&mut self) {
        let mut read = BTreeSet::from([self.output().to_owned()]);
        for view in self.views.iter().rev() {
            if read.contains(&view.name) {
                read.extend(view.body.inputs().into_iter().map(str::to_owned));
            }
        }
        self.views.retain(|v| read.contains(&v.name));
        self.sources.retain(|s| read.contains(&s.name));
    }

    fn with(&self, change: impl FnOnce(&mut Job)) -> Job {
        let mut job = self.clone();
        change(&mut job);
        job
    }

    fn without_views(&self, out: &mut Vec<Job>) {
        if self.views.len() > 1 {
            out.push(self.with(|j| drop(j.views.pop())));
        }
        for (at, view) in self.views.iter().enumerate() {
            // Whoever reads a view may as well read what it reads.
            let Some(input) = view.body.inputs().first().map(|i| (*i).to_owned()) else { continue };
            if at + 1 < self.views.len() && !matches!(view.body, Body::Group(_)) {
                out.push(self.with(|j| j.views.iter_mut().for_each(|v| v.body.read_instead(&view.name, &input))));
            }
        }
    }

    fn without_rows(&self, out: &mut Vec<Job>) {
        for (at, source) in self.sources.iter().enumerate() {
            let n = source.rows.len();
            let mut size = n / 2;
            while size > 0 {
                for from in (0..n).step_by(size) {
                    let to = (from + size).min(n);
                    if to - from < n {
                        out.push(self.with(|j| drop(j.sources[at].rows.drain(from..to))));
                    }
                }
                size /= 2;
            }
        }
    }

    fn simpler_views(&self, out: &mut Vec<Job>) {
        for (at, view) in self.views.iter().enumerate() {
            let mut with_body = |body: Body| out.push(self.with(|j| j.views[at].body = body));
            match &view.body {
                Body::Map(map) => simpler_maps(map).into_iter().for_each(|m| with_body(Body::Map(m))),
                Body::Group(group) => simpler_groups(group).into_iter().for_each(|g| with_body(Body::Group(g))),
                Body::Join(join) => {
                    for i in 0..join.items.len() {
                        let mut join = join.clone();
                        join.items.remove(i);
                        with_body(Body::Join(join));
                    }
                    with_body(Body::Join(Join { kind: JoinKind::Inner, ..join.clone() }));
                }
                Body::Interval(join) => {
                    for i in 0..join.items.len() {
                        let mut join = join.clone();
                        join.items.remove(i);
                        with_body(Body::Interval(join));
                    }
                    with_body(Body::Interval(IntervalJoin { before_us: 0, ..join.clone() }));
                    with_body(Body::Interval(IntervalJoin { after_us: 0, ..join.clone() }));
                }
                Body::Union(union) => {
                    for i in 0..union.columns.len() {
                        let mut union = union.clone();
                        union.columns.remove(i);
                        with_body(Body::Union(union));
                    }
                }
                Body::Top(top) => {
                    with_body(Body::Top(Top { n: 1, ..top.clone() }));
                    for i in 0..top.columns.len() {
                        let mut top = top.clone();
                        top.columns.remove(i);
                        with_body(Body::Top(top));
                    }
                }
            }
            if view.place != Place::Statement {
                out.push(self.with(|j| j.views[at].place = Place::Statement));
            }
            if matches!(view.emit, Emit::ChangesEvery(_)) {
                out.push(self.with(|j| j.views[at].emit = Emit::Changes));
            }
        }
    }

    fn simpler_sources(&self, out: &mut Vec<Job>) {
        for (at, source) in self.sources.iter().enumerate() {
            if source.dedup_us.is_some() {
                out.push(self.with(|j| {
                    j.sources[at].dedup_us = None;
                    drop_column(&mut j.sources[at], "event_id");
                }));
            }
            for (name, _) in source.columns.iter().filter(|(name, _)| !KEY.contains(&name.as_str()) && name != TIME && name != "event_id") {
                out.push(self.with(|j| drop_column(&mut j.sources[at], name)));
            }
            if source.bound_us != 0 {
                out.push(self.with(|j| j.sources[at].bound_us = 0));
            }
        }
    }

    fn simpler_values(&self, out: &mut Vec<Job>) {
        for (at, source) in self.sources.iter().enumerate() {
            if source.rows.len() > 8 {
                continue;
            }
            for (row, values) in source.rows.iter().enumerate() {
                for (name, value) in &values.fields {
                    let simple = match value {
                        Value::Integer(i) if *i != 1 && name != "seq" => Value::Integer(1),
                        Value::Double(d) if *d != 1.0 => Value::Double(1.0),
                        Value::Decimal(units, scale) if *units != 100 => Value::Decimal(100, *scale),
                        Value::Null => continue,
                        Value::Boolean(true) => Value::Boolean(false),
                        _ => continue,
                    };
                    out.push(self.with(|j| drop(j.sources[at].rows[row].fields.insert(name.clone(), simple))));
                }
            }
        }
    }
}

impl Body {
    fn read_instead(&mut self, of: &str, input: &str) {
        let replace = |name: &mut String| {
            if name == of {
                *name = input.to_owned();
            }
        };
        match self {
            Self::Map(map) => replace(&mut map.input),
            Self::Group(group) => replace(&mut group.input),
            Self::Join(join) => [&mut join.left, &mut join.right].into_iter().for_each(replace),
            Self::Interval(join) => [&mut join.left, &mut join.right].into_iter().for_each(replace),
            Self::Union(union) => union.inputs.iter_mut().for_each(replace),
            Self::Top(top) => replace(&mut top.input),
        }
    }
}

fn drop_column(source: &mut Source, name: &str) {
    source.columns.retain(|(column, _)| column != name);
    source.rows.iter_mut().for_each(|row| drop(row.fields.remove(name)));
}

fn simpler_maps(map: &Map) -> Vec<Map> {
    let mut all: Vec<Map> = (0..map.items.len())
        .map(|i| {
            let mut map = map.clone();
            map.items.remove(i);
            map
        })
        .collect();
    all.push(Map { filter: None, ..map.clone() });
    all
}

fn simpler_groups(group: &Group) -> Vec<Group> {
    let with = |change: &dyn Fn(&mut Group)| {
        let mut group = group.clone();
        change(&mut group);
        group
    };
    let mut all: Vec<Group> = (0..group.calls.len()).map(|i| with(&|g| drop(g.calls.remove(i)))).collect();
    all.push(with(&|g| g.filter = None));
    all.push(with(&|g| g.having = None));
    all.push(with(&|g| g.drops_late = false));
    all.push(with(&|g| g.allowed_lateness_us = None));
    for i in 0..group.calls.len() {
        all.push(with(&|g| g.calls[i].filter = None));
        all.push(with(&|g| g.calls[i].distinct = false));
        all.push(with(&|g| g.calls[i].order.clear()));
    }
    let simple = match group.window.as_ref().map(|w| w.kind) {
        Some(WindowKind::Tumble { size, offset }) if offset != 0 => Some(WindowKind::Tumble { size, offset: 0 }),
        Some(WindowKind::Hop { size, offset, .. } | WindowKind::Cumulate { size, offset, .. }) => Some(WindowKind::Tumble { size, offset }),
        _ => None,
    };
    all.extend(simple.map(|kind| with(&|g| g.window.iter_mut().for_each(|w| w.kind = kind))));
    if let Some(WindowKind::Hop { slide, size, offset }) = group.window.as_ref().map(|w| w.kind).filter(|k| matches!(k, WindowKind::Hop { offset: 1.., .. })) {
        let _ = offset;
        all.push(with(&|g| g.window.iter_mut().for_each(|w| w.kind = WindowKind::Hop { slide, size, offset: 0 })));
    }
    all
}
