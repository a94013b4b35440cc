//! What one statement makes on its way: views of its own for the parts of a query that no single operator does.

use super::{
    catalog::{Catalog, RelationInfo},
    error::{Result as SqlResult, SqlError, from_datafusion},
    query::{self, Base, Planned, keyed_policy},
    rows::Rows,
    tokens::Tokens,
    view::{self, Settings, Views},
};
use crate::plan::{Relation, ViewSpec};
use datafusion::{
    common::Result,
    sql::sqlparser::ast::{Query, Spanned, With},
};
use std::sync::Arc;

pub(super) struct Scope<'a> {
    pub catalog: Arc<Catalog>,
    pub settings: Settings<'a>,
    /// The index that the statement's first view will have.
    first_view: usize,
    /// Views that were made for parts of the query, in the order in which they read one another.
    pub specs: Vec<ViewSpec>,
}

impl<'a> Scope<'a> {
    pub fn new(catalog: Arc<Catalog>, settings: Settings<'a>, first_view: usize) -> Self {
        Self { catalog, settings, first_view, specs: Vec::new() }
    }

    /// The index of the next view that the statement makes.
    pub fn next_view(&self) -> usize {
        self.first_view + self.specs.len()
    }

    /// The rows of `planned` as those of a view, so that another operator can read them. A plain relation stays what it is.
    pub fn as_view(&mut self, mut planned: Planned) -> Result<Planned> {
        let plain = matches!(planned.base, Base::Relation { window: None, .. }) && planned.rows.steps.is_empty();
        if plain && planned.rows.is_whole() { Ok(planned) } else { self.made_view(&mut planned) }
    }

    fn made_view(&mut self, planned: &mut Planned) -> Result<Planned> {
        let logical = planned.rows.logical().clone();
        let schema = planned.rows.finish_inner()?;
        let name = format!("{}${}", self.settings.name, self.specs.len() + 1);
        let settings = self.settings.inner(name);
        let base = std::mem::replace(&mut planned.base, Base::Nothing);
        let rows = std::mem::replace(&mut planned.rows, Rows::new(logical.clone()));
        let views = view::views(&settings, base, rows, schema, self.next_view())?;
        Ok(self.read(views, logical))
    }

    fn read(&mut self, views: Views, logical: datafusion::common::DFSchemaRef) -> Planned {
        let info = Arc::new(RelationInfo { part: true, ..views.info });
        self.specs.extend(views.specs.into_iter().map(|spec| ViewSpec { visible: false, ..spec }));
        let rows = Rows::of_view(logical, &info, keyed_policy(&info));
        Planned { base: Base::Relation { info, window: None }, rows }
    }

    /// A view of the rows of `info`, which is what a relation is after `rows`, for the level above.
    pub fn rows_of(&mut self, info: &RelationInfo, rows: &Rows, as_they_come: bool) -> Relation {
        let settings = self.settings.inner(format!("{}${}", self.settings.name, self.specs.len() + 1));
        let relation = Relation::View(self.next_view());
        self.specs.push(view::rows_below(&settings, info, rows, as_they_come));
        relation
    }

    /// Views that were planned by hand.
    pub fn add(&mut self, views: Views, logical: datafusion::common::DFSchemaRef) -> Planned {
        self.read(views, logical)
    }

    /// `WITH name AS (query)`: each is a view that only this statement knows. Those over the rows of a window, which are no view until
    /// they are grouped, are left for the planner to put in where they are named.
    pub fn add_queries(&mut self, with: With, tokens: &Tokens) -> SqlResult<Option<With>> {
        if with.recursive {
            let error = SqlError::at(with.with_token.0.span.start, "`WITH RECURSIVE` has no meaning over rows that never end");
            return Err(error.hint("write the steps as views"));
        }
        let mut left = With { cte_tables: Vec::new(), ..with.clone() };
        for table in with.cte_tables {
            let name = table.alias.name.value.to_lowercase();
            if !table.alias.columns.is_empty() {
                let error = SqlError::at(table.alias.name.span.start, format!("`{name}` names its columns in front of its query"));
                return Err(error.hint("name them with `AS` in its select list"));
            }
            let mut query = table.query.clone();
            query.with = query.with.or_else(|| (!left.cte_tables.is_empty()).then(|| left.clone()));
            if !self.add_query(&name, query, tokens)? {
                left.cte_tables.push(table);
            }
        }
        Ok((!left.cte_tables.is_empty()).then_some(left))
    }

    /// False when the query is no view.
    fn add_query(&mut self, name: &str, query: Box<Query>, tokens: &Tokens) -> SqlResult<bool> {
        let place = query.span().start;
        let mut planned = query::plan(query, tokens, self)?;
        if matches!(planned.base, Base::Relation { window: Some(_), .. }) {
            return Ok(false);
        }
        let schema = planned.rows.finish().map_err(|e| from_datafusion(e, tokens).placed(place))?;
        let settings = self.settings.inner(format!("{}${name}", self.settings.name));
        let views = view::views(&settings, planned.base, planned.rows, schema, self.next_view()).map_err(|e| from_datafusion(e, tokens).placed(place))?;
        let mut info = views.info;
        info.name = name.to_string();
        info.part = true;
        self.specs.extend(views.specs.into_iter().map(|spec| ViewSpec { visible: false, ..spec }));
        let mut catalog = Catalog::clone(&self.catalog);
        catalog.add(info);
        self.catalog = Arc::new(catalog);
        Ok(true)
    }
}
