//! Each rule of the checker fires on a history doctored to break it, and not on its honest twin.

use super::*;
use crate::history::{OpIndex, Seen, SessionSerial};
use crate::pattern::{self, Stamp};
use sds_core::unit::Nanos;

const VOLUME: u32 = 1;
const BLOCK: u64 = 4096;

/// Builds a history by hand; time is the order.
#[derive(Default)]
struct Story {
    history: History,
    time: u64,
    session: u32,
}

impl Story {
    fn new() -> Self {
        let mut story = Self::default();
        story.open();
        story
    }

    fn tick(&mut self) -> Nanos {
        self.time += 1;
        Nanos::from_millis(self.time)
    }

    fn mark(&mut self, mark: Mark) {
        let now = self.tick();
        self.history.mark(now, mark);
    }

    fn open(&mut self) {
        self.session += 1;
        let session = SessionSerial(self.session);
        self.mark(Mark::Opened { volume: VOLUME, session });
    }

    fn ask(&mut self, action: Action, offset: u64, len: u64, durable: bool) -> OpIndex {
        let now = self.tick();
        let asked = self.history.moment(now);
        let session = SessionSerial(self.session);
        self.history.ask(Op { client: 0, session, volume: VOLUME, offset, len, action, durable, asked, answered: None })
    }

    fn write(&mut self, stamp: u64) -> OpIndex {
        self.ask(Action::Write(Stamp(stamp)), 0, BLOCK, false)
    }

    fn done(&mut self, op: OpIndex) {
        let now = self.tick();
        self.history.answer(now, op, Answer::Done);
    }

    fn failed(&mut self, op: OpIndex, status: Status) {
        let now = self.tick();
        self.history.answer(now, op, Answer::Failed(status));
    }

    fn written(&mut self, stamp: u64) {
        let op = self.write(stamp);
        self.done(op);
    }

    fn written_part(&mut self, stamp: u64, offset: u64, len: u64) {
        let op = self.ask(Action::Write(Stamp(stamp)), offset, len, false);
        self.done(op);
    }

    fn flushed(&mut self) {
        let op = self.ask(Action::Flush, 0, 0, false);
        self.done(op);
    }

    /// A read that sees runs of writes (0 is zeroes), each to the given end.
    fn sees_runs(&mut self, op: OpIndex, runs: &[(u64, usize)]) {
        #[expect(clippy::cast_possible_truncation, reason = "4096")]
        let mut bytes = [0_u8; BLOCK as usize];
        let mut start = 0;
        for (stamp, end) in runs {
            if *stamp != 0 {
                pattern::fill(&mut bytes[start..*end], Stamp(*stamp), VOLUME, start as u64);
            }
            start = *end;
        }
        let now = self.tick();
        let seen = Seen { lba: 0, start: 0, len: 4096, digest: digest(&bytes) };
        self.history.answer(now, op, Answer::Data(vec![seen]));
    }

    fn reads(&mut self, stamp: u64) {
        let op = self.ask(Action::Read, 0, BLOCK, false);
        self.sees_runs(op, &[(stamp, 4096)]);
    }

    fn power_cut(&mut self) {
        self.mark(Mark::PowerCut { place: 0 });
    }

    fn verdict(&self) -> Verdict {
        check(&self.history, Allowance::default(), |_, _| Some(0))
    }

    #[track_caller]
    fn is_right(&self) {
        let verdict = self.verdict();
        assert_eq!(verdict.violations, [], "an honest history is accepted");
        assert_eq!(verdict.undecided, 0);
        assert!(verdict.blocks > 0);
    }

    #[track_caller]
    fn is_wrong(&self) {
        assert_eq!(self.verdict().violations.len(), 1, "a doctored history is refused");
    }
}

#[test]
fn an_unwritten_block_reads_zero_and_nothing_else() {
    let mut story = Story::new();
    story.reads(0);
    story.is_right();
    story.reads(9);
    story.is_wrong();
}

#[test]
fn a_stale_read_is_refused() {
    let mut story = Story::new();
    story.written(1);
    story.written(2);
    story.reads(2);
    story.is_right();
    story.reads(1);
    story.is_wrong();
}

#[test]
fn a_lost_write_is_refused() {
    let mut story = Story::new();
    story.written(1);
    story.reads(0);
    story.is_wrong();
}

#[test]
fn concurrent_writes_may_take_effect_in_either_order_but_only_once() {
    let mut story = Story::new();
    let (one, two) = (story.write(1), story.write(2));
    story.reads(2);
    story.reads(1);
    story.done(one);
    story.done(two);
    story.reads(1);
    story.is_right();
    story.reads(2);
    story.is_wrong();
}

#[test]
fn a_ghost_of_a_retried_write_is_refused() {
    let mut story = Story::new();
    let ghost = story.write(1);
    story.reads(1);
    story.written(2);
    story.reads(2);
    story.done(ghost);
    story.is_right();
    story.reads(1);
    story.is_wrong();
}

#[test]
fn a_read_that_overlaps_a_write_may_see_either_but_time_does_not_go_back() {
    let mut story = Story::new();
    let write = story.write(1);
    let (early, late) = (story.ask(Action::Read, 0, BLOCK, false), story.ask(Action::Read, 0, BLOCK, false));
    story.sees_runs(late, &[(1, 4096)]);
    story.sees_runs(early, &[(0, 4096)]);
    story.is_right();
    story.reads(0);
    story.done(write);
    story.is_wrong();
}

#[test]
fn fragments_merge_into_what_is_there() {
    let mut story = Story::new();
    story.written(1);
    story.written_part(2, 1000, 500);
    let read = story.ask(Action::Read, 0, BLOCK, false);
    story.sees_runs(read, &[(1, 1000), (2, 1500), (1, 4096)]);
    story.is_right();
    let read = story.ask(Action::Read, 0, BLOCK, false);
    story.sees_runs(read, &[(0, 1000), (2, 1500), (1, 4096)]);
    story.is_wrong();
}

#[test]
fn a_torn_mixture_of_two_whole_writes_is_refused() {
    let mut story = Story::new();
    let (one, two) = (story.write(1), story.write(2));
    story.done(one);
    story.done(two);
    let read = story.ask(Action::Read, 0, BLOCK, false);
    story.sees_runs(read, &[(1, 2048), (2, 4096)]);
    story.is_wrong();
}

#[test]
fn an_unanswered_write_of_a_fenced_session_may_be_there_but_never_lands_later() {
    let mut story = Story::new();
    let _lost = story.write(1);
    story.open();
    story.reads(1);
    story.is_right();

    let mut story = Story::new();
    let _lost = story.write(1);
    story.open();
    story.reads(0);
    story.is_right();
    story.reads(1);
    story.is_wrong();
}

#[test]
fn a_flushed_write_survives_a_power_cut() {
    let mut story = Story::new();
    story.written(1);
    story.flushed();
    story.power_cut();
    story.reads(1);
    story.is_right();

    let mut story = Story::new();
    story.written(1);
    story.flushed();
    story.power_cut();
    story.reads(0);
    story.is_wrong();
}

#[test]
fn a_durable_write_survives_a_power_cut() {
    let mut story = Story::new();
    story.written(1);
    let write = story.ask(Action::Write(Stamp(2)), 0, BLOCK, true);
    story.done(write);
    story.power_cut();
    story.reads(1);
    story.is_wrong();
}

#[test]
fn an_unflushed_write_may_fall_to_any_later_one_and_then_stays() {
    for survivor in 1..=3 {
        let mut story = Story::new();
        story.written(1);
        story.flushed();
        story.written(2);
        story.written(3);
        story.power_cut();
        story.reads(survivor);
        story.is_right();
        story.reads(survivor % 3 + 1);
        story.is_wrong();
    }
    let mut story = Story::new();
    story.written(1);
    story.flushed();
    story.written(2);
    story.power_cut();
    story.reads(0);
    story.is_wrong();
}

#[test]
fn a_write_answered_while_the_flush_runs_need_not_be_covered() {
    let mut story = Story::new();
    story.written(1);
    let flush = story.ask(Action::Flush, 0, 0, false);
    story.written(2);
    story.done(flush);
    story.power_cut();
    story.reads(1);
    story.is_right();
}

#[test]
fn a_write_in_flight_at_a_power_cut_may_have_to_be_done_again() {
    let mut story = Story::new();
    story.written(1);
    story.flushed();
    let write = story.write(2);
    story.reads(2);
    story.power_cut();
    story.reads(1);
    story.done(write);
    story.is_right();
}

/// Simulator seed 22003373: the checker took what the cut had left for gone.
#[test]
fn a_write_eaten_while_its_answer_was_on_its_way_leaves_what_was_there() {
    let eaten = |story: &mut Story| {
        story.written(1);
        story.flushed();
        let write = story.write(2);
        story.power_cut();
        story.done(write);
    };
    let mut story = Story::new();
    eaten(&mut story);
    story.reads(1);
    let flush = story.ask(Action::Flush, 0, 0, false);
    story.failed(flush, Status::FlushLost);
    story.flushed();
    story.power_cut();
    story.reads(1);
    story.is_right();
    flush_must_own_up(eaten, 1);
}

/// A flush after what `before` tells is right when it owns up to a loss, and wrong when it does not.
fn flush_must_own_up(before: impl Fn(&mut Story), left: u64) {
    for honest in [true, false] {
        let mut story = Story::new();
        before(&mut story);
        let flush = story.ask(Action::Flush, 0, 0, false);
        if honest {
            story.failed(flush, Status::FlushLost);
            story.flushed();
        } else {
            story.done(flush);
        }
        story.reads(left);
        if honest { story.is_right() } else { story.is_wrong() }
    }
}

#[test]
fn a_flush_does_not_succeed_for_writes_that_a_power_cut_has_eaten() {
    flush_must_own_up(
        |story| {
            story.written(1);
            story.flushed();
            story.written(2);
            story.power_cut();
        },
        1,
    );
}

#[test]
fn a_new_session_does_not_answer_for_what_the_old_one_lost() {
    let mut story = Story::new();
    story.written(2);
    story.power_cut();
    story.open();
    story.flushed();
    story.reads(0);
    story.is_right();
}

#[test]
fn a_session_answers_for_what_it_found_and_a_power_cut_then_ate() {
    flush_must_own_up(
        |story| {
            story.written(2);
            story.open();
            story.reads(2);
            story.power_cut();
        },
        0,
    );
}

#[test]
fn a_process_crash_loses_nothing_acknowledged() {
    let mut story = Story::new();
    story.written(1);
    story.reads(0);
    story.is_wrong();
}

#[test]
fn a_hole_reads_zero() {
    let mut story = Story::new();
    story.reads(0);
    let status = story.ask(Action::Status, 0, BLOCK, false);
    let now = story.tick();
    story.history.answer(now, status, Answer::Holes(vec![0]));
    story.is_right();
    story.written(1);
    let status = story.ask(Action::Status, 0, BLOCK, false);
    let now = story.tick();
    story.history.answer(now, status, Answer::Holes(vec![0]));
    story.is_wrong();
}

#[test]
fn an_error_needs_a_cause() {
    let mut story = Story::new();
    story.written(1);
    let read = story.ask(Action::Read, 0, BLOCK, false);
    story.failed(read, Status::Corrupt);
    story.is_wrong();

    let mut story = Story::new();
    story.written(1);
    story.mark(Mark::Damaged { volume: VOLUME, lba: 0 });
    let read = story.ask(Action::Read, 0, BLOCK, false);
    story.failed(read, Status::Corrupt);
    story.is_right();
}

#[test]
fn a_damaged_block_may_fail_but_not_lie() {
    let mut story = Story::new();
    story.written(1);
    story.mark(Mark::Damaged { volume: VOLUME, lba: 0 });
    story.reads(2);
    story.is_wrong();
}

#[test]
fn fenced_needs_a_take_over() {
    let mut story = Story::new();
    story.written(1);
    let write = story.write(2);
    story.failed(write, Status::Fenced);
    story.is_wrong();

    let mut story = Story::new();
    story.written(1);
    let write = story.write(2);
    story.mark(Mark::TakeOver { volume: VOLUME, client: 1 });
    story.failed(write, Status::Fenced);
    story.is_right();
}

#[test]
fn a_refused_first_write_changed_nothing() {
    let allowance = Allowance { no_space: true, ..Allowance::default() };
    let mut story = Story::new();
    let write = story.write(1);
    story.failed(write, Status::NoSpace);
    story.reads(0);
    assert_eq!(check(&story.history, allowance, |_, _| Some(0)).violations, []);
    story.reads(1);
    assert_eq!(check(&story.history, allowance, |_, _| Some(0)).violations.len(), 1);
    story.is_wrong_without(allowance);
}

impl Story {
    #[track_caller]
    fn is_wrong_without(&self, allowance: Allowance) {
        let strict = check(&self.history, Allowance::default(), |_, _| Some(0)).violations.len();
        let lenient = check(&self.history, allowance, |_, _| Some(0)).violations.len();
        assert_eq!(strict, lenient + 1, "an error that was not allowed is a violation of its own");
    }
}
