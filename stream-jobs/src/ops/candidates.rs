//! The alerts of a rule where its view stands: told from here, or handed on as candidates to the rule's alert task.

use super::{
    Context, Effects, Flow, OpError, Operator,
    alert::{AlertOperator, Raised, candidates_schema},
};
use crate::{
    delta::Delta,
    state::{Frozen, Pieces, StateError},
};

pub struct CandidatesOperator {
    alerts: AlertOperator,
    tells: bool,
    /// An alert task reads them.
    is_read: bool,
}

impl CandidatesOperator {
    pub fn new(alerts: AlertOperator, tells: bool, is_read: bool) -> Self {
        Self { alerts, tells, is_read }
    }
}

impl Operator for CandidatesOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], effects: &mut Effects) -> Result<Delta, OpError> {
        let mut raised = Raised::default();
        self.alerts.process(context, &inputs[0].delta, &mut raised)?;
        let candidates = if self.is_read { raised.to_candidates()? } else { Delta::empty(candidates_schema()) };
        if self.tells {
            effects.raised.rows.append(&mut raised.rows);
        }
        Ok(candidates)
    }

    fn end(&mut self, watermark: Option<i64>, effects: &mut Effects) {
        if self.tells {
            self.alerts.expire(watermark, &mut effects.raised);
        }
    }

    fn freeze(&mut self) -> Frozen {
        let pieces = self.alerts.pieces();
        Box::new(|| pieces)
    }

    fn restore(&mut self, pieces: Pieces) -> Result<(), StateError> {
        self.alerts.restore(&pieces)
    }
}
