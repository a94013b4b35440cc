//! The alert task of a rule: which of its alerts are told, after what people say of them and what other alerts explain.
//!
//! Candidates of the rule stand in the task that their id belongs to. Candidates of the rules that inhibit it, and the rows that
//! acknowledge and silence, are read whole by every task: they are few, and they fit to alerts of any key. An alert that is not told to its
//! rooms still leaves, with its state and without rooms, so that everything can be looked up.

use super::{
    Context, Effects, Flow, OpError, Operator,
    alert::{Raised, Told, candidates_schema},
    group::{Route, rows_of_columns_at},
};
use crate::{
    delta::Delta,
    gate::Gate,
    plan::{AlertSpec, Alerts},
    state::{Frozen, Pieces, StateError},
};
use arrow_array::{Array, RecordBatch, cast::AsArray, types::TimestampMicrosecondType};
use schemas::{
    AlertEvent,
    alert::{Acknowledged, Action, Incident, Silenced, State as Standing},
    clock::rfc3339,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a command is about: every part that is named must fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Matcher {
    tenant: String,
    alert_id: Option<String>,
    rule: Option<String>,
    entity: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Silence {
    of: Matcher,
    until: Option<i64>,
    by: Option<String>,
    comment: Option<String>,
}

/// A rule that inhibits, and the key of one of its alerts.
type IncidentKey = (usize, String);

/// An alert whose condition holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Open {
    /// As the rule sees it.
    event: AlertEvent,
    rooms: Vec<String>,
    entity: String,
    behind: Vec<String>,
    revision: u64,
    /// Its rooms know of it.
    told: bool,
    standing: Standing,
    acknowledged: Option<Acknowledged>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    open: BTreeMap<String, Open>,
    incidents: Vec<(IncidentKey, Incident)>,
    silences: Vec<Silence>,
}

pub struct AlertTaskOperator {
    plan: Alerts,
    rule: AlertSpec,
    route: Option<Route>,
    gate: Option<Gate>,
    state: State,
}

/// A row of the commands.
struct Command {
    action: String,
    of: Matcher,
    until: Option<i64>,
    by: Option<String>,
    comment: Option<String>,
}

/// What is told, and when and why.
#[derive(Clone, Copy)]
struct Moment {
    time: i64,
    by_event: bool,
}

impl AlertTaskOperator {
    pub fn new(plan: Alerts, rule: AlertSpec, route: Option<Route>) -> Self {
        let gate = plan.in_order.then(|| Gate::new(1));
        Self { plan, rule, route, gate, state: State::default() }
    }

    /// Inputs in the order in which rows of one time are taken: commands, incidents, candidates.
    fn mine(&self, inputs: &[&Flow]) -> Result<Vec<Delta>, OpError> {
        let mut deltas: Vec<Delta> = inputs.iter().map(|flow| flow.delta.clone()).collect();
        if let (Some(candidates), Some(route)) = (deltas.last_mut(), self.route) {
            *candidates = rows_of_columns_at(candidates, &[0], route)?;
        }
        Ok(deltas)
    }

    fn take(&mut self, input: usize, delta: &Delta, raised: &mut Raised) -> Result<(), OpError> {
        let commands = usize::from(self.plan.commands.is_some());
        if input < commands {
            for row in 0..delta.len() {
                self.advance(delta.times[row], raised);
                self.command(Command::read(&delta.batch, row), delta.times[row], raised);
            }
            return Ok(());
        }
        for told in Raised::from_candidates(delta)?.rows {
            self.advance(told.time, raised);
            match (input - commands).checked_sub(self.plan.incidents.len()) {
                None => self.incident(input - commands, told, raised),
                Some(_) => self.candidate(told, raised),
            }
        }
        Ok(())
    }

    /// Ends the silences that are over, each at its own time.
    fn advance(&mut self, time: i64, raised: &mut Raised) {
        while let Some(end) = self.state.silences.iter().filter_map(|s| s.until).filter(|until| *until <= time).min() {
            self.state.silences.retain(|s| s.until != Some(end));
            self.settle(Moment { time: end, by_event: false }, raised);
        }
    }

    fn command(&mut self, command: Command, time: i64, raised: &mut Raised) {
        let moment = Moment { time, by_event: true };
        let done = match command.action.as_str() {
            "ack" => {
                let by = Acknowledged { at: rfc3339(time), by: command.by, comment: command.comment };
                self.acknowledge(&command.of, Some(by), moment, raised)
            }
            "unack" => self.acknowledge(&command.of, None, moment, raised),
            "silence" => self.silence(command, moment, raised),
            "unsilence" => {
                let before = self.state.silences.len();
                self.state.silences.retain(|s| s.of != command.of);
                self.settle(moment, raised);
                self.state.silences.len() < before
            }
            _ => false,
        };
        // Every task reads every command; most have no alert that one is about.
        let outcome = if done { "done" } else { "fits_nothing" };
        metrics::counter!("headend_alert_commands_total", "rule" => self.rule.name.clone(), "outcome" => outcome).increment(1);
    }

    /// Acknowledges the open alerts that fit, or takes that back.
    fn acknowledge(&mut self, of: &Matcher, by: Option<Acknowledged>, moment: Moment, raised: &mut Raised) -> bool {
        let ids = self.open_of(of, |open| open.acknowledged.is_some() != by.is_some());
        for id in &ids {
            let Some(open) = self.state.open.get_mut(id) else { continue };
            open.acknowledged = by.clone();
            let standing = standing(&self.state.silences, &self.state.incidents, open);
            self.tell(id, if by.is_some() { Action::Ack } else { Action::Update }, standing, moment, raised);
        }
        !ids.is_empty()
    }

    fn silence(&mut self, command: Command, moment: Moment, raised: &mut Raised) -> bool {
        let Command { of, until, by, comment, .. } = command;
        if of.rule.as_ref().is_some_and(|rule| *rule != self.rule.name) || until.is_some_and(|until| until <= moment.time) {
            return false;
        }
        self.state.silences.retain(|s| s.of != of);
        self.state.silences.push(Silence { of, until, by, comment });
        self.settle(moment, raised);
        true
    }

    fn open_of(&self, of: &Matcher, also: impl Fn(&Open) -> bool) -> Vec<String> {
        let names_one = of.alert_id.is_some() || of.rule.is_some() || of.entity.is_some();
        self.state.open.iter().filter(|(_, open)| names_one && of.fits(open) && also(open)).map(|(id, _)| id.clone()).collect()
    }

    /// An alert of a rule that inhibits this one.
    fn incident(&mut self, rule: usize, told: Told, raised: &mut Raised) {
        let key = (rule, told.entity);
        self.state.incidents.retain(|(other, _)| *other != key);
        if !matches!(told.event.action, Action::Resolve | Action::Expire) {
            self.state.incidents.push((key, Incident { rule: told.event.rule, alert_id: told.event.alert_id }));
        }
        self.settle(Moment { time: told.time, by_event: told.by_event }, raised);
    }

    fn candidate(&mut self, told: Told, raised: &mut Raised) {
        let moment = Moment { time: told.time, by_event: told.by_event };
        let (id, action) = (told.event.alert_id.clone(), told.event.action);
        match self.state.open.get_mut(&id) {
            Some(open) => (open.event, open.rooms, open.behind) = (told.event, told.rooms, told.behind),
            None => {
                let Told { event, rooms, entity, behind, .. } = told;
                let open = Open { event, rooms, entity, behind, revision: 0, told: false, standing: Standing::Firing, acknowledged: None };
                self.state.open.insert(id.clone(), open);
            }
        }
        let ended = match action {
            Action::Resolve => Some(Standing::Resolved),
            Action::Expire => Some(Standing::Expired),
            Action::Raise | Action::Update | Action::Ack => None,
        };
        let standing = ended.or_else(|| self.state.open.get(&id).map(|open| standing(&self.state.silences, &self.state.incidents, open)));
        self.tell(&id, action, standing.unwrap_or(Standing::Firing), moment, raised);
        if ended.is_some() {
            self.state.open.remove(&id);
        }
    }

    /// Tells every alert that stands otherwise than before.
    fn settle(&mut self, moment: Moment, raised: &mut Raised) {
        let changed = |(id, open): (&String, &Open)| {
            let now = standing(&self.state.silences, &self.state.incidents, open);
            (now != open.standing).then(|| (id.clone(), now))
        };
        let changed: Vec<(String, Standing)> = self.state.open.iter().filter_map(changed).collect();
        for (id, standing) in changed {
            self.tell(&id, Action::Update, standing, moment, raised);
        }
    }

    /// One revision. What the rooms hear of for the first time is a raise; what falls quiet is told once more.
    fn tell(&mut self, id: &str, action: Action, standing: Standing, moment: Moment, raised: &mut Raised) {
        let Some(open) = self.state.open.get_mut(id) else { return };
        let ended = matches!(action, Action::Resolve | Action::Expire);
        let falls_quiet = standing.is_quiet() && !open.standing.is_quiet();
        let tells_rooms = if ended || falls_quiet { open.told } else { !standing.is_quiet() };
        let first = tells_rooms && !open.told;
        (open.standing, open.revision, open.told) = (standing, open.revision + 1, open.told || tells_rooms);
        let mut event = open.event.clone();
        event.revision = open.revision;
        event.action = if first && !ended { Action::Raise } else { action };
        event.state = standing;
        event.acknowledged = open.acknowledged.clone();
        event.silenced = self.state.silences.iter().find(|s| s.of.fits(open)).filter(|_| !ended).map(Silence::told);
        event.inhibited_by = incident_of(&self.state.incidents, open).filter(|_| !ended).cloned();
        let rooms = if tells_rooms { open.rooms.clone() } else { Vec::new() };
        raised.rows.push(Told { event, rooms, entity: open.entity.clone(), behind: Vec::new(), time: moment.time, by_event: moment.by_event });
    }
}

fn standing(silences: &[Silence], incidents: &[(IncidentKey, Incident)], open: &Open) -> Standing {
    if silences.iter().any(|silence| silence.of.fits(open)) {
        return Standing::Silenced;
    }
    if incident_of(incidents, open).is_some() {
        return Standing::Inhibited;
    }
    match open.event.state {
        Standing::Flapping => Standing::Flapping,
        _ if open.acknowledged.is_some() => Standing::Acknowledged,
        _ => Standing::Firing,
    }
}

/// The alert that explains `open`; of several that of the rule named first.
fn incident_of<'a>(incidents: &'a [(IncidentKey, Incident)], open: &Open) -> Option<&'a Incident> {
    let explains = |((rule, entity), _): &&(IncidentKey, Incident)| open.behind.get(*rule) == Some(entity);
    incidents.iter().filter(explains).min_by_key(|(key, _)| key).map(|(_, incident)| incident)
}

impl Matcher {
    fn fits(&self, open: &Open) -> bool {
        let event = &open.event;
        self.tenant == event.tenant
            && self.alert_id.as_ref().is_none_or(|id| *id == event.alert_id)
            && self.rule.as_ref().is_none_or(|rule| *rule == event.rule)
            && self.entity.as_ref().is_none_or(|entity| *entity == event.entity.id || *entity == open.entity)
    }
}

impl Silence {
    fn told(&self) -> Silenced {
        Silenced { until: self.until.map(rfc3339), by: self.by.clone(), comment: self.comment.clone() }
    }
}

impl Command {
    /// A column that is not there is null.
    fn read(batch: &RecordBatch, row: usize) -> Self {
        let text = |name: &str| {
            let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
            (column.is_valid(row) && !column.value(row).is_empty()).then(|| column.value(row).to_owned())
        };
        let until = batch.column_by_name("until").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        Self {
            action: text("action").unwrap_or_default(),
            of: Matcher { tenant: text("tenant").unwrap_or_default(), alert_id: text("alert_id"), rule: text("rule"), entity: text("entity") },
            until: until.filter(|c| c.is_valid(row)).map(|c| c.value(row)),
            by: text("by"),
            comment: text("comment"),
        }
    }
}

impl Operator for AlertTaskOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let mut raised = Raised::default();
        let deltas = self.mine(inputs)?;
        if let Some(gate) = &mut self.gate {
            for (input, delta) in deltas.iter().enumerate() {
                gate.push(input, delta)?;
            }
            for (input, delta) in gate.release(context.watermark)?.into_iter().flat_map(|(_, rows)| rows) {
                self.take(input, &delta, &mut raised)?;
            }
        } else {
            for (input, delta) in deltas.iter().enumerate() {
                self.take(input, delta, &mut raised)?;
            }
        }
        if let Some(watermark) = context.watermark.filter(|w| *w != i64::MAX) {
            self.advance(watermark, &mut raised);
        }
        effects.raised.rows.append(&mut raised.rows);
        Ok(Delta::empty(candidates_schema()))
    }

    fn end(&mut self, watermark: Option<i64>, effects: &mut Effects) {
        let seen = |open: &Open| schemas::clock::parse_rfc3339(&open.event.last_seen_at).unwrap_or_default();
        let open: Vec<(String, i64)> = self.state.open.iter().map(|(id, open)| (id.clone(), seen(open))).collect();
        for (id, last) in open {
            let time = watermark.filter(|w| *w != i64::MAX).map_or(last, |w| w.max(last));
            self.tell(&id, Action::Expire, Standing::Expired, Moment { time, by_event: false }, &mut effects.raised);
        }
        self.state = State::default();
    }

    fn freeze(&mut self) -> Frozen {
        let meta = serde_json::to_value(&self.state).map_err(StateError::Meta);
        let gate = self.gate.as_ref().map(Gate::pieces);
        Box::new(move || {
            let mut pieces = Pieces { meta: meta?, batches: Vec::new() };
            if let Some(gate) = gate {
                gate.add_to(&mut pieces)?;
            }
            Ok(pieces)
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.state = pieces.meta()?;
        if let Some(gate) = &mut self.gate {
            gate.restore(&mut pieces)?;
        }
        Ok(())
    }
}
