//! What this project promises itself, and whether a run kept it. A miss is printed as a miss.

use crate::measure::Figure;
use crate::report::Results;
use crate::system::SystemKind;

/// What a goal looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    /// Median ratio of a figure of a job to the baseline's.
    Ratio(&'static str, Figure),
    /// Operations of the first job over those of the second, of the same system.
    OwnRatio(&'static str, &'static str),
    /// Device bytes written per byte written.
    Amplification(&'static str),
    /// Page faults per request.
    Faults(&'static str),
    /// Percent of a core while idle.
    Idle,
}

/// A bound and what it bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Goal {
    title: &'static str,
    system: SystemKind,
    subject: Subject,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A goal and what a run came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What was asked.
    pub title: String,
    /// Of which system.
    pub system: SystemKind,
    /// The bound, in words.
    pub bound: String,
    /// What was measured.
    pub measured: f64,
    /// Whether it is within the bound.
    pub met: bool,
}

const fn five(title: &'static str, subject: Subject, bound: Bound) -> Goal {
    Goal { title, system: SystemKind::OursFive, subject, bound }
}

const fn one(title: &'static str, subject: Subject, bound: Bound) -> Goal {
    Goal { title, system: SystemKind::OursOne, subject, bound }
}

const fn five_two(title: &'static str, subject: Subject, bound: Bound) -> Goal {
    Goal { title, system: SystemKind::OursFiveTwo, subject, bound }
}

const fn one_two(title: &'static str, subject: Subject, bound: Bound) -> Goal {
    Goal { title, system: SystemKind::OursOneTwo, subject, bound }
}

const READ_CPU: Subject = Subject::Ratio("read-4k-qd32", Figure::ServerCpu);
const WRITE_CPU: Subject = Subject::Ratio("write-4k-qd32", Figure::ServerCpu);
const READ_P50: Subject = Subject::Ratio("read-4k-qd1", Figure::P50);
const WRITE_P50: Subject = Subject::Ratio("write-4k-qd1", Figure::P50);
const READ_BANDWIDTH: Subject = Subject::Ratio("read-1m-qd8", Figure::Bandwidth);
const WRITE_BANDWIDTH: Subject = Subject::Ratio("write-1m-qd8", Figure::Bandwidth);
const SPREAD: Subject = Subject::OwnRatio("write-4k-qd32", "write-4k-qd32-near");

const FLUSH_P50: Subject = Subject::Ratio("write-flush-4k-qd1", Figure::P50);

const GOALS: [Goal; 34] = [
    five("server CPU per 4 KiB random read, depth 32, ÷ qemu-nbd", READ_CPU, Bound::AtMost(1.2)),
    five("server CPU per 4 KiB random write, depth 32, ÷ qemu-nbd", WRITE_CPU, Bound::AtMost(1.3)),
    five("p50 of 4 KiB random read, depth 1, ÷ qemu-nbd", READ_P50, Bound::AtMost(1.6)),
    five("p50 of 4 KiB random write, depth 1, ÷ qemu-nbd", WRITE_P50, Bound::AtMost(1.6)),
    one("server CPU per 4 KiB random read, depth 32, ÷ qemu-nbd", READ_CPU, Bound::AtMost(1.0)),
    one("server CPU per 4 KiB random write, depth 32, ÷ qemu-nbd", WRITE_CPU, Bound::AtMost(1.1)),
    one("p50 of 4 KiB random read, depth 1, ÷ qemu-nbd", READ_P50, Bound::AtMost(1.2)),
    one("p50 of 4 KiB random write, depth 1, ÷ qemu-nbd", WRITE_P50, Bound::AtMost(1.2)),
    five("bandwidth of 1 MiB sequential read ÷ qemu-nbd", READ_BANDWIDTH, Bound::AtLeast(0.8)),
    five("bandwidth of 1 MiB sequential write ÷ qemu-nbd", WRITE_BANDWIDTH, Bound::AtLeast(0.8)),
    one("bandwidth of 1 MiB sequential read ÷ qemu-nbd", READ_BANDWIDTH, Bound::AtLeast(0.8)),
    one("bandwidth of 1 MiB sequential write ÷ qemu-nbd", WRITE_BANDWIDTH, Bound::AtLeast(0.8)),
    five("random writes over everything ÷ within the active extents", SPREAD, Bound::AtLeast(0.5)),
    one("random writes over everything ÷ within the active extents", SPREAD, Bound::AtLeast(0.5)),
    five("write amplification at 4 KiB, 32 outstanding a device", Subject::Amplification("write-4k-qd96"), Bound::AtMost(1.25)),
    one("write amplification at 4 KiB, 32 outstanding a device", Subject::Amplification("write-4k-qd96"), Bound::AtMost(1.25)),
    five("write amplification at 4 KiB, depth 1", Subject::Amplification("write-4k-qd1"), Bound::AtMost(2.1)),
    one("write amplification at 4 KiB, depth 1", Subject::Amplification("write-4k-qd1"), Bound::AtMost(2.1)),
    five("page faults per 4 KiB write, depth 32", Subject::Faults("write-4k-qd32"), Bound::AtMost(0.01)),
    one("page faults per 4 KiB write, depth 32", Subject::Faults("write-4k-qd32"), Bound::AtMost(0.01)),
    // Five daemons, each below one percent.
    five("idle daemons, percent of a core, five together", Subject::Idle, Bound::AtMost(5.0)),
    one("idle daemon, percent of a core", Subject::Idle, Bound::AtMost(1.0)),
    five_two("server CPU per 4 KiB random read, depth 32, ÷ qemu-nbd", READ_CPU, Bound::AtMost(1.2)),
    five_two("server CPU per 4 KiB random write, depth 32, ÷ qemu-nbd", WRITE_CPU, Bound::AtMost(1.8)),
    five_two("p50 of 4 KiB random read, depth 1, ÷ qemu-nbd", READ_P50, Bound::AtMost(1.6)),
    five_two("p50 of 4 KiB random write, depth 1, ÷ qemu-nbd", WRITE_P50, Bound::AtMost(2.2)),
    five_two("p50 of 4 KiB random write + flush, depth 1, ÷ qemu-nbd", FLUSH_P50, Bound::AtMost(2.5)),
    five_two("bandwidth of 1 MiB sequential read ÷ qemu-nbd", READ_BANDWIDTH, Bound::AtLeast(0.8)),
    five_two("bandwidth of 1 MiB sequential write ÷ qemu-nbd", WRITE_BANDWIDTH, Bound::AtLeast(0.6)),
    one_two("server CPU per 4 KiB random read, depth 32, ÷ qemu-nbd", READ_CPU, Bound::AtMost(1.0)),
    one_two("server CPU per 4 KiB random write, depth 32, ÷ qemu-nbd", WRITE_CPU, Bound::AtMost(1.4)),
    one_two("p50 of 4 KiB random read, depth 1, ÷ qemu-nbd", READ_P50, Bound::AtMost(1.2)),
    one_two("p50 of 4 KiB random write, depth 1, ÷ qemu-nbd", WRITE_P50, Bound::AtMost(1.6)),
    one_two("p50 of 4 KiB random write + flush, depth 1, ÷ qemu-nbd", FLUSH_P50, Bound::AtMost(2.5)),
];

/// What became of every goal that the results say something about.
#[must_use]
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let verdict = |goal: &Goal| {
        let measured = measured(goal, results)?;
        let (bound, met) = match goal.bound {
            Bound::AtMost(limit) => (format!("≤ {limit}"), measured <= limit),
            Bound::AtLeast(limit) => (format!("≥ {limit}"), measured >= limit),
        };
        Some(Verdict { title: goal.title.to_owned(), system: goal.system, bound, measured, met })
    };
    GOALS.iter().filter_map(verdict).collect()
}

fn measured(goal: &Goal, results: &Results) -> Option<f64> {
    let count = |name: &str| results.counts.iter().find(|count| count.system == goal.system && count.workload.name == name);
    match goal.subject {
        Subject::Ratio(workload, figure) => results.ratio(workload, goal.system, figure),
        Subject::OwnRatio(workload, base) => {
            let iops = |name| results.median(name, goal.system, Figure::Iops);
            Some(iops(workload)? / iops(base)?)
        }
        Subject::Amplification(workload) => count(workload)?.amplification,
        Subject::Faults(workload) => count(workload).map(|count| count.faults),
        Subject::Idle => results.idle.iter().find(|idle| idle.system == goal.system).map(|idle| idle.core_percent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::workload;

    #[test]
    fn every_goal_names_jobs_that_exist() {
        for goal in GOALS {
            let names: &[&str] = match &goal.subject {
                Subject::Ratio(name, _) | Subject::Amplification(name) | Subject::Faults(name) => &[*name],
                Subject::OwnRatio(name, base) => &[*name, *base],
                Subject::Idle => &[],
            };
            assert!(names.iter().all(|name| workload(name).is_some()), "{goal:?}");
        }
    }
}
