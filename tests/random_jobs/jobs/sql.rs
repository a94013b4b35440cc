//! The SQL of a job.

use super::{expression::Expression, job::*, value::interval};
use std::fmt::Write;

impl Job {
    pub fn sql(&self) -> String {
        let mut sql = String::new();
        for source in &self.sources {
            sql += &source_sql(source);
        }
        for view in self.views.iter().filter(|v| v.place == Place::Statement) {
            sql += &self.view_sql(view);
        }
        sql
    }

    fn view_sql(&self, view: &View) -> String {
        let mut with = Vec::new();
        self.inlined_inputs(view, &mut with);
        let with = if with.is_empty() { String::new() } else { format!("WITH {}\n", with.join(",\n")) };
        let options = options(&view.body);
        format!("CREATE MATERIALIZED VIEW {} AS\n{with}{}{}{options};\n", view.name, self.body_sql(&view.body), emit_sql(view.emit))
    }

    fn inlined_inputs(&self, view: &View, with: &mut Vec<String>) {
        for input in view.body.inputs() {
            let Some(inner) = self.view(input).filter(|v| v.place != Place::Statement) else { continue };
            self.inlined_inputs(inner, with);
            let text = format!("{} AS (\n{})", inner.name, self.body_sql(&inner.body));
            if inner.place == Place::With && !with.contains(&text) {
                with.push(text);
            }
        }
    }

    /// A relation in `FROM`, under this name.
    fn relation_sql(&self, name: &str, alias: &str) -> String {
        match self.view(name) {
            Some(view) if view.place == Place::Subquery => format!("(\n{}) AS {alias}", self.body_sql(&view.body)),
            _ if name == alias => name.to_owned(),
            _ => format!("{name} {alias}"),
        }
    }

    fn body_sql(&self, body: &Body) -> String {
        let plain_name = |name: &str| self.relation_sql(name, name);
        match body {
            Body::Map(map) => {
                let items: Vec<String> = map.items.iter().map(|(name, e)| item(e, name)).collect();
                format!("SELECT {}\nFROM {}{}", items.join(", "), plain_name(&map.input), filter_sql("WHERE", map.filter.as_ref(), &str::to_owned))
            }
            Body::Group(group) => group_sql(group, &plain_name(&group.input)),
            Body::Join(join) => join_sql(join, &self.relation_sql(&join.left, "l"), &self.relation_sql(&join.right, "r")),
            Body::Interval(join) => interval_sql(join),
            Body::Union(union) => {
                let parts: Vec<String> = union.inputs.iter().map(|i| format!("SELECT {} FROM {}", union.columns.join(", "), plain_name(i))).collect();
                parts.join("\nUNION ALL\n")
            }
            Body::Top(top) => top_sql(top, &plain_name(&top.input)),
        }
    }
}

fn source_sql(source: &Source) -> String {
    let columns: Vec<String> = source.columns.iter().map(|(name, t)| format!("{name} {}", t.sql())).collect();
    let bound = if source.bound_us == 0 { TIME.to_owned() } else { format!("{TIME} - INTERVAL '{}'", interval(source.bound_us)) };
    let kind = if source.table { "TABLE" } else { "SOURCE" };
    let dedup = source.dedup_us.map_or(String::new(), |us| format!(", dedup = '{}'", interval(us)));
    format!(
        "CREATE {kind} {0} ({1},\n  WATERMARK FOR {TIME} AS {bound})\nWITH (topic = '{0}.v1', format = 'json', key = '{2}'{dedup});\n",
        source.name,
        columns.join(", "),
        KEY.join(", "),
    )
}

fn emit_sql(emit: Emit) -> String {
    match emit {
        Emit::Rows => String::new(),
        Emit::OnWindowClose => "\nEMIT ON WINDOW CLOSE".to_owned(),
        Emit::Changes => "\nEMIT CHANGES".to_owned(),
        Emit::ChangesEvery(us) => format!("\nEMIT CHANGES EVERY INTERVAL '{}'", interval(us)),
    }
}

fn options(body: &Body) -> String {
    let Body::Group(group) = body else { return String::new() };
    let mut options = Vec::new();
    if group.drops_late {
        options.push("late = 'drop'".to_owned());
    }
    if let Some(us) = group.allowed_lateness_us {
        options.push(format!("allowed_lateness = '{}'", interval(us)));
    }
    if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) }
}

fn plain(expression: &Expression) -> String {
    expression.sql(&str::to_owned)
}

fn item(expression: &Expression, name: &str) -> String {
    match expression {
        Expression::Column(column) if column == name => name.to_owned(),
        other => format!("{} AS {name}", plain(other)),
    }
}

fn filter_sql(word: &str, filter: Option<&Expression>, name: &dyn Fn(&str) -> String) -> String {
    filter.map_or(String::new(), |f| format!("\n{word} {}", f.sql(name)))
}

fn top_sql(top: &Top, input: &str) -> String {
    format!(
        "SELECT {}, rn\nFROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {} ORDER BY {}) AS rn FROM {input}) AS ranked\nWHERE rn <= {}",
        top.columns.join(", "),
        top.partition.join(", "),
        order_sql(&top.order),
        top.n,
    )
}

fn order_sql(order: &[(String, bool)]) -> String {
    order.iter().map(|(c, descending)| format!("{c}{}", if *descending { " DESC" } else { "" })).collect::<Vec<_>>().join(", ")
}

fn group_sql(group: &Group, input: &str) -> String {
    if group.distinct {
        let filter = filter_sql("WHERE", group.filter.as_ref(), &str::to_owned);
        return format!("SELECT DISTINCT {}\nFROM {}{filter}", group.keys.join(", "), input);
    }
    let mut keys = group.keys.clone();
    if group.window.is_some() {
        keys.extend(["window_start".to_owned(), "window_end".to_owned()]);
    }
    let calls = group.calls.iter().map(|c| format!("{} AS {}", call_sql(c), c.name));
    let items: Vec<String> = keys.iter().cloned().chain(calls).collect();
    let from = group.window.as_ref().map_or(input.to_owned(), |w| window_sql(w, input));
    let call_of = |name: &str| group.calls.iter().find(|c| c.name == name).map_or_else(|| name.to_owned(), call_sql);
    let mut sql = format!("SELECT {}\nFROM {from}", items.join(", "));
    sql += &filter_sql("WHERE", group.filter.as_ref(), &str::to_owned);
    let _ = write!(sql, "\nGROUP BY {}", keys.join(", "));
    sql + &filter_sql("HAVING", group.having.as_ref(), &call_of)
}

fn window_sql(window: &Window, input: &str) -> String {
    let time = &window.time;
    let last = |us: i64| if us == 0 { String::new() } else { format!(", INTERVAL '{}'", interval(us)) };
    let length = |us: i64| format!("INTERVAL '{}'", interval(us));
    match window.kind {
        WindowKind::Tumble { size, offset } => format!("TUMBLE({input}, {time}, {}{})", length(size), last(offset)),
        WindowKind::Hop { slide, size, offset } => format!("HOP({input}, {time}, {}, {}{})", length(slide), length(size), last(offset)),
        WindowKind::Cumulate { step, size, offset } => format!("CUMULATE({input}, {time}, {}, {}{})", length(step), length(size), last(offset)),
        WindowKind::Session { gap } => format!("SESSION({input}, {time}, {})", length(gap)),
    }
}

fn call_sql(call: &Call) -> String {
    let distinct = if call.distinct { "DISTINCT " } else { "" };
    let argument = call.argument.as_ref().map_or("*".to_owned(), plain);
    let more = if call.function == Function::StringAgg { ", ','" } else { "" };
    let order = if call.order.is_empty() { String::new() } else { format!(" ORDER BY {}", order_sql(&call.order)) };
    let filter = call.filter.as_ref().map_or(String::new(), |f| format!(" FILTER (WHERE {})", plain(f)));
    format!("{}({distinct}{argument}{more}{order}){filter}", call.function.sql())
}

fn kind_sql(kind: JoinKind) -> &'static str {
    match kind {
        JoinKind::Inner => "JOIN",
        JoinKind::Left => "LEFT JOIN",
        JoinKind::Full => "FULL JOIN",
    }
}

fn items_sql(items: &[JoinItem]) -> String {
    let side = |item: &JoinItem| match item.side {
        JoinSide::Left => format!("l.{}", item.column),
        JoinSide::Right => format!("r.{}", item.column),
        JoinSide::Both => item.column.clone(),
    };
    let named = |item: &JoinItem| if side(item) == item.name { item.name.clone() } else { format!("{} AS {}", side(item), item.name) };
    items.iter().map(named).collect::<Vec<_>>().join(", ")
}

fn join_sql(join: &Join, left: &str, right: &str) -> String {
    let on = if join.items.iter().any(|i| i.side == JoinSide::Both) {
        format!("USING ({})", join.on.iter().map(|(l, _)| l.as_str()).collect::<Vec<_>>().join(", "))
    } else {
        format!("ON {}", join.on.iter().map(|(l, r)| format!("l.{l} = r.{r}")).collect::<Vec<_>>().join(" AND "))
    };
    let source_of = |name: &str| {
        let item = join.items.iter().find(|i| i.name == name);
        item.map_or_else(
            || name.to_owned(),
            |i| match i.side {
                JoinSide::Left => format!("l.{}", i.column),
                JoinSide::Right => format!("r.{}", i.column),
                JoinSide::Both => i.column.clone(),
            },
        )
    };
    let filter = filter_sql("WHERE", join.filter.as_ref(), &source_of);
    format!("SELECT {}\nFROM {left} {} {right} {on}{filter}", items_sql(&join.items), kind_sql(join.kind))
}

fn interval_sql(join: &IntervalJoin) -> String {
    let on: Vec<String> = join.on.iter().map(|c| format!("l.{c} = r.{c}")).collect();
    format!(
        "SELECT {}\nFROM {} l {} {} r ON {} AND r.{TIME} BETWEEN l.{TIME} - INTERVAL '{}' AND l.{TIME} + INTERVAL '{}'",
        items_sql(&join.items),
        join.left,
        kind_sql(join.kind),
        join.right,
        on.join(" AND "),
        interval(join.before_us),
        interval(join.after_us),
    )
}
