//! Tells a counterexample: one event a phrase, for people.

use crate::model::{Action, Left};
use crate::monitor::Op;
use crate::state::{Message, server};
use sds_core::protocol::membership::{Change, Proposal};
use std::fmt;

impl fmt::Display for Op {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(value) => write!(formatter, "write {value}"),
            Self::Read => formatter.write_str("read"),
            Self::Flush => formatter.write_str("flush"),
        }
    }
}

fn left(left: Left) -> &'static str {
    match left {
        Left::Whole => "",
        Left::Nothing => " before the write at its device",
        Left::Data => " with only the data of its last write",
        Left::Record => " with only the record of its last write",
    }
}

fn propose(proposal: &Proposal) -> String {
    let who = proposal.proposer.map_or(0, |proposer| server(proposer.device));
    let what = match proposal.change {
        Change::Shrink { .. } => "to go on alone",
        Change::Yield { .. } => "to give up",
        Change::Grow => "its joiner",
        Change::Drop => "to drop its joiner",
        Change::Swap => "to swap roles",
        Change::Join { .. } => "a joiner",
        Change::Alone { .. } => "a copy alone",
        Change::Reform => "the set anew",
        Change::Settled => "to serve, both having settled,",
    };
    format!("the proposal of s{who} {what} from epoch {} arrives", proposal.base)
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { to, origin, op, epoch, .. } => {
                write!(formatter, "s{to} gets c{}'s {op} (connection {}, epoch {epoch})", origin.client, origin.connection)
            }
            Self::Replicate { from, to, stamp, copy, epoch, .. } => {
                write!(formatter, "s{to} gets {} {} of s{from} (epoch {epoch})", if *copy { "the copy of" } else { "write" }, stamp.value)
            }
            Self::Complete { from, to, .. } => write!(formatter, "s{to} learns it is complete on s{from}"),
            Self::Grant { to, .. } => write!(formatter, "s{to} gets a lease"),
            Self::Propose(proposal) => formatter.write_str(&propose(proposal)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(client, 0) => write!(formatter, "c{client} begins its next operation"),
            Self::Begin(client, behind) => write!(formatter, "c{client} begins its next operation with a map {behind} epochs old"),
            Self::Retry(client) => write!(formatter, "c{client} sends again over a new connection"),
            Self::Open(client) => write!(formatter, "c{client} asks for the session"),
            Self::ClientCrash(client) => write!(formatter, "c{client} dies and is started again"),
            Self::Deliver(message) => message.fmt(formatter),
            Self::AnswerRead(at) => write!(formatter, "s{at} ends its read"),
            Self::FlushOn(at, target) => write!(formatter, "s{target} flushes for s{at}"),
            Self::Reconnect(at) => write!(formatter, "s{at} connects to its peer again"),
            Self::Seal(at) => write!(formatter, "s{at} flushes and seals"),
            Self::ProposeShrink(at) => write!(formatter, "s{at} proposes to go on alone"),
            Self::ProposeSwap(at) => write!(formatter, "s{at} proposes to swap roles"),
            Self::CopyBlock(at) => write!(formatter, "s{at} sees what its joiner lacks"),
            Self::ProposeDrop(at) => write!(formatter, "s{at} proposes to drop its joiner"),
            Self::ProposeGrow(at) => write!(formatter, "s{at} proposes its joiner"),
            Self::Settle(at) => write!(formatter, "s{at} settles"),
            Self::ProposeSettled(at) => write!(formatter, "s{at} proposes to serve, both having settled"),
            Self::Pull(at) => write!(formatter, "s{at} takes the newest map"),
            Self::Grant(at) => write!(formatter, "s{at} grants a lease"),
            Self::Join(at) => write!(formatter, "s{at} is made a joiner"),
            Self::Alone(at) => write!(formatter, "s{at} is let go on alone"),
            Self::Reform => formatter.write_str("the set is formed anew"),
            Self::Crash(at, how) => write!(formatter, "the process of s{at} dies{}", left(*how)),
            Self::PowerCut(at, how, end) => write!(formatter, "the power of s{at} is cut{}, in way {end}", left(*how)),
            Self::Forget(at) => write!(formatter, "the power of s{at} is cut and its device forgets"),
            Self::Restart(at) => write!(formatter, "s{at} is back"),
            Self::Tick => formatter.write_str("a tick passes"),
            Self::Drift(at) => write!(formatter, "the clock of s{at} runs ahead"),
        }
    }
}
