//! Joining a state room as a map: snapshot pages, then missed changes, then live.
//!
//! The client drives it, page by page, and the server keeps nothing between pages: the position of the first page
//! travels with the client. A later page skips rows that changed after it; those come with the changes. The reply
//! that ends the join is made in the same critical section that registers the member, so nothing falls between.

use crate::{
    config::HubLimits,
    protocol::{BAD_COMMAND, ErrorCode, NOT_AVAILABLE, SubscribeRequest, SubscribeResult, UNRECOVERABLE},
    publication::Publication,
    rooms::{Member, Room, page},
};
use schemas::RoomKind;
use std::{ops::Bound, sync::Arc};

/// `type` of a map subscription, and its phases. Phase 0 is live: it is what the server answers at the end.
pub(crate) const MAP: u32 = 1;
const PHASE_STATE: u32 = 2;
const PHASE_STREAM: u32 = 1;

/// A reply to a subscribe command.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub result: SubscribeResult,
    pub state: Vec<Arc<Publication>>,
    pub publications: Vec<Arc<Publication>>,
    /// The member is registered; otherwise this was a page on the way.
    pub live: bool,
}

pub(crate) fn join_map(room: &mut Room, member: &Member, request: &SubscribeRequest, limits: &HubLimits) -> Result<Joined, ErrorCode> {
    if room.kind == Some(RoomKind::Stream) {
        return Err(NOT_AVAILABLE);
    }
    let limit = usize::try_from(request.limit).ok().filter(|l| *l > 0).unwrap_or(limits.page_default).min(limits.page_max);
    match request.phase {
        PHASE_STATE => join_from_state(room, member, request, limits, limit),
        PHASE_STREAM => join_from_changes(room, member, request, limits, limit),
        _ => Err(BAD_COMMAND),
    }
}

fn join_from_state(room: &mut Room, member: &Member, request: &SubscribeRequest, limits: &HubLimits, limit: usize) -> Result<Joined, ErrorCode> {
    let first_page = request.cursor.is_empty();
    let frozen = if first_page { room.offset } else { request.offset };
    if !first_page && request.epoch != *room.epoch {
        return Err(UNRECOVERABLE);
    }
    let after = if first_page { Bound::Unbounded } else { Bound::Excluded(request.cursor.strip_prefix(CURSOR).ok_or(BAD_COMMAND)?) };
    let rows = room.rows.range::<str, _>((after, Bound::Unbounded)).map(|(_, row)| row).filter(|row| row.offset <= frozen);
    let (state, last_page) = page(rows, limit, limits.reply_bytes_max);
    let mut joined = Joined { state, ..Joined::default() };
    if last_page {
        let missed = room.since(&room.epoch, frozen).map_err(ErrorCode::from)?;
        let (publications, complete) = page(missed, limit, limits.reply_bytes_max);
        if complete {
            return Ok(go_live(room, member, Joined { publications, ..joined }));
        }
    } else {
        joined.result.cursor = format!("{CURSOR}{}", joined.state.last().map_or("", |row| &row.key));
    }
    joined.result = SubscribeResult { kind: MAP, phase: PHASE_STATE, epoch: room.epoch.clone(), offset: frozen, ..joined.result };
    Ok(joined)
}

fn join_from_changes(room: &mut Room, member: &Member, request: &SubscribeRequest, limits: &HubLimits, limit: usize) -> Result<Joined, ErrorCode> {
    let missed = room.since(&request.epoch, request.offset).map_err(ErrorCode::from)?;
    let (publications, complete) = page(missed, limit, limits.reply_bytes_max);
    let result = SubscribeResult { recovered: complete && request.recover, was_recovering: request.recover, ..SubscribeResult::default() };
    if complete {
        return Ok(go_live(room, member, Joined { publications, result, ..Joined::default() }));
    }
    let offset = publications.last().map_or(request.offset, |p| p.offset);
    let result = SubscribeResult { kind: MAP, phase: PHASE_STREAM, epoch: room.epoch.clone(), offset, ..result };
    Ok(Joined { publications, result, ..Joined::default() })
}

/// A live reply of a map carries the top of the room, also after a recovery; a stream's carries the requested offset.
fn go_live(room: &mut Room, member: &Member, joined: Joined) -> Joined {
    room.join(member);
    let result = SubscribeResult { kind: MAP, recoverable: true, positioned: true, epoch: room.epoch.clone(), offset: room.offset, ..joined.result };
    Joined { result, live: true, ..joined }
}

/// Before the key in a cursor, so that the cursor after an empty key is not the empty cursor.
const CURSOR: &str = "k";
