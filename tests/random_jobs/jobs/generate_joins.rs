//! Random unions, joins and top-N.

use super::{
    generate::Maker,
    job::*,
    shape::{Kind, Shape},
};

impl Maker<'_> {
    pub fn union(&mut self) -> String {
        let mut columns: Vec<String> = self.shape("a").names().into_iter().filter(|c| c != "event_id").collect();
        let extra: Vec<String> = columns.split_off(4);
        columns.extend(extra.into_iter().filter(|_| self.random.chance(70)));
        let mut inputs = vec!["a".to_owned(), "b".to_owned()];
        if self.random.chance(30) {
            let filter = {
                let shape = self.shape("a");
                self.condition(&shape)
            };
            let items =
                self.shape("a").names().into_iter().filter(|c| c != "event_id").map(|c| (c.clone(), super::expression::Expression::Column(c))).collect();
            inputs[0] = self.add(Body::Map(Map { input: "a".to_owned(), items, filter }), Emit::Rows);
        }
        self.add(Body::Union(Union { inputs, columns }), Emit::Rows)
    }

    /// A table by the whole key.
    fn table(&mut self, source: &str) -> String {
        match self.random.below(3) {
            0 => "p".to_owned(),
            1 => self.tumbling_by_key(source),
            _ => self.unwindowed_by(source, &KEY),
        }
    }

    fn unwindowed_by(&mut self, source: &str, keys: &[&str]) -> String {
        let name = self.unwindowed(source, false);
        self.regroup(keys);
        name
    }

    /// The view that was made last, by these keys; calls that need another order of rows are left out by the caller's choice of keys.
    fn regroup(&mut self, keys: &[&str]) {
        let unique_times = self.unique_times;
        if let Some(View { body: Body::Group(group), .. }) = self.job.views.last_mut() {
            group.keys = keys.iter().map(|k| (*k).to_owned()).collect();
            let whole = KEY.iter().all(|k| keys.contains(k));
            if !whole && !unique_times {
                group.calls.retain(|c| !c.function.depends_on_order());
                group.having = None;
            }
            if group.calls.is_empty() {
                group.calls.push(Call { name: "c0".to_owned(), function: Function::Count, distinct: false, argument: None, filter: None, order: Vec::new() });
            }
        }
    }

    fn tumbling_by_key(&mut self, source: &str) -> String {
        let name = self.window(source, false);
        self.regroup(&KEY);
        let size = self.edge;
        if let Some(View { body: Body::Group(Group { window: Some(window), .. }), .. }) = self.job.views.last_mut() {
            window.kind = WindowKind::Tumble { size, offset: 0 };
        }
        name
    }

    fn join_kind(&mut self) -> JoinKind {
        let kinds: &[JoinKind] = if self.features.full_joins { &[JoinKind::Inner, JoinKind::Left, JoinKind::Full] } else { &[JoinKind::Inner, JoinKind::Left] };
        self.random.pick(kinds)
    }

    pub fn join(&mut self) {
        let kind = self.join_kind();
        let left = self.table("a");
        let mut on: Vec<&str> = KEY.to_vec();
        let right = if self.features.exchange_joins && kind != JoinKind::Full && self.random.chance(50) {
            on = if self.random.chance(50) { vec!["tenant"] } else { vec!["region"] };
            if !self.shape(&left).has(on[0]) {
                on = vec!["tenant"]
            }
            self.unwindowed_by("b", &on)
        } else {
            let right = self.table("b");
            if right == left { self.unwindowed_by("b", &KEY) } else { right }
        };
        let items = self.items(&left, &right, &on, kind);
        let on = on.iter().map(|c| ((*c).to_owned(), (*c).to_owned())).collect();
        self.add(Body::Join(Join { left, right, kind, on, items, filter: None }), Emit::Changes);
    }

    /// Join columns, then what the sides have beside them, with `l_` and `r_`.
    fn items(&mut self, left: &str, right: &str, on: &[&str], kind: JoinKind) -> Vec<JoinItem> {
        let side = if kind == JoinKind::Full { JoinSide::Both } else { JoinSide::Left };
        let mut items: Vec<JoinItem> = on.iter().map(|c| JoinItem { name: (*c).to_owned(), side, column: (*c).to_owned() }).collect();
        for (relation, side, prefix) in [(left, JoinSide::Left, "l"), (right, JoinSide::Right, "r")] {
            let shape: Shape = self.shape(relation);
            for column in shape.names().into_iter().filter(|c| !on.contains(&c.as_str())) {
                if shape.key.contains(&column) || self.random.chance(60) {
                    items.push(JoinItem { name: format!("{prefix}_{column}"), side, column });
                }
            }
        }
        items
    }

    pub fn window_join(&mut self) {
        let left = self.tumbling_by_key("a");
        let source = self.random.pick(&["a", "b"]);
        let right = self.tumbling_by_key(source);
        let kind = self.join_kind();
        let on = ["tenant", "sub", "window_start", "window_end"];
        let items = self.items(&left, &right, &on, kind);
        let on = on.iter().map(|c| ((*c).to_owned(), (*c).to_owned())).collect();
        self.add(Body::Join(Join { left, right, kind, on, items, filter: None }), Emit::OnWindowClose);
    }

    pub fn interval_join(&mut self) {
        let (before_us, after_us) = (self.scale * self.random.between(0, 6), self.scale * self.random.between(0, 6));
        let kind = self.random.pick(&[JoinKind::Inner, JoinKind::Left]);
        let column = |side: JoinSide, prefix: &str, c: &str| JoinItem { name: format!("{prefix}_{c}"), side, column: c.to_owned() };
        let mut items: Vec<JoinItem> = KEY.iter().map(|c| JoinItem { name: (*c).to_owned(), side: JoinSide::Left, column: (*c).to_owned() }).collect();
        for c in ["t", "seq", "units"] {
            items.extend([column(JoinSide::Left, "l", c), column(JoinSide::Right, "r", c)]);
        }
        let (left, right) = (self.stream("a"), "b".to_owned());
        let on = KEY.map(str::to_owned).to_vec();
        self.add(Body::Interval(IntervalJoin { left, right, kind, on, before_us, after_us, items }), Emit::Rows);
    }

    pub fn top(&mut self, input: &str) {
        let shape = self.shape(input);
        let mut partition = self.keys(&shape);
        if partition.is_empty() || !self.is_ordered(&shape, &partition) {
            partition = shape.spread.clone();
        }
        let order = if self.random.chance(50) { self.ordering(&shape, &[]) } else { vec![("t".to_owned(), self.random.chance(50))] };
        let mut columns = partition.clone();
        columns.extend(["seq", "units", "t"].map(str::to_owned));
        let n = self.random.between(1, 3);
        self.add(Body::Top(Top { input: input.to_owned(), partition, order, n, columns }), Emit::Changes);
    }

    pub fn top_of_windows(&mut self, input: &str) {
        let shape = self.shape(input);
        if shape.kind != Kind::Closed {
            return;
        }
        let mut partition: Vec<String> = self.keys(&shape).into_iter().filter(|c| shape.spread.contains(c)).collect();
        partition.extend(["window_start", "window_end"].map(str::to_owned));
        // No two rows of a window share the whole key.
        let order = self.ordering(&shape, &shape.key.clone());
        let columns = shape.names();
        let n = self.random.between(1, 2);
        self.add(Body::Top(Top { input: input.to_owned(), partition, order, n, columns }), Emit::OnWindowClose);
    }
}
