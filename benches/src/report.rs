//! Results as Markdown for people and JSON for programs. Losses are listed, not left out.

use crate::counters::{Count, Idle};
use crate::goals::verdicts;
use crate::measure::{Figure, SampleSet};
use crate::statistics::{median, range, ratios};
use crate::system::SystemKind;
use crate::workload::Workload;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Ratios are to this one.
pub const BASELINE: SystemKind = SystemKind::QemuNbd;

/// Everything a run came to.
#[derive(Clone, Debug)]
pub struct Results {
    /// Lines about machine, versions and parameters.
    pub head: Vec<(String, String)>,
    /// What was measured, in the order of the tables.
    pub systems: Vec<SystemKind>,
    /// Which jobs, in the order of the tables.
    pub workloads: Vec<Workload>,
    /// One per job and round.
    pub sets: Vec<SampleSet>,
    /// What was counted.
    pub counts: Vec<Count>,
    /// What idling costs.
    pub idle: Vec<Idle>,
}

impl Results {
    fn sets_of(&self, workload: &str) -> impl Iterator<Item = &SampleSet> {
        let name = workload.to_owned();
        self.sets.iter().filter(move |set| set.workload.name == name)
    }

    /// A figure of every round.
    #[must_use]
    pub fn values(&self, workload: &str, system: SystemKind, figure: Figure) -> Vec<f64> {
        self.sets_of(workload).filter_map(|set| set.figure(system, figure)).collect()
    }

    /// Its median.
    #[must_use]
    pub fn median(&self, workload: &str, system: SystemKind, figure: Figure) -> Option<f64> {
        median(&self.values(workload, system, figure))
    }

    /// Ratios to the baseline, one a round.
    #[must_use]
    pub fn ratios(&self, workload: &str, system: SystemKind, figure: Figure) -> Vec<f64> {
        let pair = |set: &SampleSet| Some((set.figure(system, figure)?, set.figure(BASELINE, figure)?));
        ratios(&self.sets_of(workload).filter_map(pair).collect::<Vec<_>>())
    }

    /// Median of the ratios.
    #[must_use]
    pub fn ratio(&self, workload: &str, system: SystemKind, figure: Figure) -> Option<f64> {
        median(&self.ratios(workload, system, figure))
    }

    /// The figure a job is about.
    #[must_use]
    pub const fn main_figure(workload: &Workload) -> Figure {
        if workload.is_bandwidth() { Figure::Bandwidth } else { Figure::Iops }
    }
}

/// The whole report; `plot` is the file name of the picture.
#[must_use]
pub fn markdown(results: &Results, plot: &str) -> String {
    let mut text = String::from("# Results\n\nMade by `compare` (see CONTRIBUTING.md, \"Measuring\"); do not edit by hand.\n\n");
    for (name, value) in &results.head {
        line(&mut text, &format!("- {name}: {value}"));
    }
    line(&mut text, "\nFigures are medians over the rounds. Ratios in parentheses are medians of the ratios to qemu-nbd taken round by");
    line(&mut text, "round. CPU is microseconds per request: of the server processes, of fio, and of the whole machine. Loopback TCP,");
    line(&mut text, "one connection, one copy of each block; ours checksums every block end to end, the others do not.");
    line(
        &mut text,
        "Before each job of random writes, a second of deep random writes over the same bytes makes it steady state, for every",
    );
    line(&mut text, "system alike, except where the job says \"after a pause\".");
    line(&mut text, &format!("\n![throughput and CPU relative to qemu-nbd]({plot})"));
    goals(&mut text, results);
    losses(&mut text, results);
    line(&mut text, "\n## Every job");
    for workload in &results.workloads {
        job(&mut text, results, workload);
    }
    counted(&mut text, results);
    text
}

fn line(text: &mut String, add: &str) {
    text.push_str(add);
    text.push('\n');
}

fn goals(text: &mut String, results: &Results) {
    let verdicts = verdicts(results);
    if verdicts.is_empty() {
        return;
    }
    line(text, "\n## Goals\n\n| goal | system | bound | measured | |\n| --- | --- | --- | ---: | --- |");
    for verdict in verdicts {
        let word = if verdict.met { "met" } else { "**missed**" };
        line(text, &format!("| {} | {} | {} | {:.3} | {word} |", verdict.title, verdict.system.title(), verdict.bound, verdict.measured));
    }
}

/// Every figure in which we are behind the baseline, the worst first.
fn losses(text: &mut String, results: &Results) {
    let mut found = Vec::new();
    for system in results.systems.iter().copied().filter(|system| system.is_ours()) {
        for workload in &results.workloads {
            for figure in [Results::main_figure(workload), Figure::P50, Figure::P99, Figure::P999, Figure::ServerCpu] {
                let Some(ratio) = results.ratio(workload.name, system, figure) else { continue };
                let behind = if figure.more_is_better() { 1.0 / ratio } else { ratio };
                if behind > 1.0 {
                    found.push((behind, format!("| {} | {} | {} | {ratio:.2} |", workload.title, system.title(), words(figure))));
                }
            }
        }
    }
    found.sort_by(|left, right| right.0.total_cmp(&left.0));
    if results.systems.iter().any(|system| system.is_ours()) {
        line(text, "\n## Where we lose to qemu-nbd\n");
        if found.is_empty() {
            line(text, "In nothing that was measured.");
        } else {
            line(text, "| job | system | figure | ratio |\n| --- | --- | --- | ---: |");
            found.iter().for_each(|(_, row)| line(text, row));
        }
    }
}

const fn words(figure: Figure) -> &'static str {
    match figure {
        Figure::Iops => "requests per second",
        Figure::Bandwidth => "bandwidth",
        Figure::Mean => "mean latency",
        Figure::P50 => "p50",
        Figure::P99 => "p99",
        Figure::P999 => "p99.9",
        Figure::ServerCpu => "server CPU per request",
        Figure::FioCpu => "fio CPU per request",
        Figure::TotalCpu => "server and fio CPU per request",
        Figure::MachineCpu => "machine CPU per request",
        Figure::Faults => "page faults per request",
    }
}

fn job(text: &mut String, results: &Results, workload: &Workload) {
    let sets: Vec<&SampleSet> = results.sets_of(workload.name).collect();
    let stolen: Vec<f64> = sets.iter().map(|set| set.stolen_share() * 100.0).collect();
    let repeated = sets.iter().filter(|set| set.attempt > 1).count();
    line(text, &format!("\n### {} (`{}`)\n", workload.title, workload.name));
    line(text, "| system | IOPS | MB/s | mean µs | p50 µs | p99 µs | p99.9 µs | CPU server | CPU fio | CPU machine |");
    line(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for system in &results.systems {
        let cell = |figure: Figure, scale: f64, digits: usize, with_ratio: bool| {
            let Some(value) = results.median(workload.name, *system, figure) else { return "–".to_owned() };
            let ratio = if with_ratio && *system != BASELINE { results.ratio(workload.name, *system, figure) } else { None };
            let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2})"));
            format!("{:.digits$}{ratio}", value / scale)
        };
        let row = [
            cell(Figure::Iops, 1.0, 0, !workload.is_bandwidth()),
            cell(Figure::Bandwidth, 1e6, 1, workload.is_bandwidth()),
            cell(Figure::Mean, 1.0, 0, false),
            cell(Figure::P50, 1.0, 0, true),
            cell(Figure::P99, 1.0, 0, true),
            cell(Figure::P999, 1.0, 0, false),
            cell(Figure::ServerCpu, 1.0, 1, true),
            cell(Figure::FioCpu, 1.0, 1, false),
            cell(Figure::MachineCpu, 1.0, 1, true),
        ];
        line(text, &format!("| {} | {} |", system.title(), row.join(" | ")));
    }
    if let (Some(middle), Some((_, most))) = (median(&stolen), range(&stolen)) {
        line(text, &format!("\n{} rounds, {repeated} of them repeated; stolen time median {middle:.1} %, most {most:.1} %.", sets.len()));
    }
}

fn counted(text: &mut String, results: &Results) {
    if !results.counts.is_empty() {
        line(
            text,
            "\n## Counted\n\nWrite amplification is bytes the server processes sent to the device per byte written: while the job ran, and from a pause\nbefore it until four seconds after it (with what comes first, and what comes after).\n",
        );
        line(
            text,
            "| job | system | write amplification | pause to pause | system calls per request | page faults per request | memory MiB |",
        );
        line(text, "| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    }
    for count in &results.counts {
        let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let (name, system) = (count.workload.title, count.system.title());
        let (written, whole) = (optional(count.amplification), optional(count.amplification_whole));
        let (calls, memory) = (optional(count.syscalls), count.resident_bytes >> 20);
        line(text, &format!("| {name} | {system} | {written} | {whole} | {calls} | {:.4} | {memory} |", count.faults));
    }
    if !results.idle.is_empty() {
        line(text, "\n## Idle\n\n| system | processes | percent of a core | memory MiB |\n| --- | ---: | ---: | ---: |");
    }
    for idle in &results.idle {
        let (title, memory) = (idle.system.title(), idle.resident_bytes >> 20);
        line(text, &format!("| {title} | {} | {:.2} | {memory} |", idle.processes, idle.core_percent));
    }
}

/// Everything, raw samples included.
#[must_use]
pub fn json(results: &Results) -> Value {
    let set = |set: &SampleSet| {
        let samples: Map<String, Value> = set
            .samples
            .iter()
            .map(|sample| {
                let figure = |figure: Figure| sample.figure(figure).map(|value| (figure.key().to_owned(), json!(value)));
                let mut figures: Map<String, Value> = Figure::ALL.into_iter().filter_map(figure).collect();
                figures.insert("stolen_share".into(), json!(sample.machine.stolen_share()));
                (sample.system.key().to_owned(), Value::Object(figures))
            })
            .collect();
        json!({"workload": set.workload.name, "round": set.round, "attempt": set.attempt, "samples": samples})
    };
    let count = |count: &Count| {
        json!({"workload": count.workload.name, "system": count.system.key(), "write_amplification": count.amplification,
            "write_amplification_pause_to_pause": count.amplification_whole,
            "syscalls_per_io": count.syscalls, "page_faults_per_io": count.faults, "resident_bytes": count.resident_bytes})
    };
    let idle = |idle: &Idle| json!({"system": idle.system.key(), "processes": idle.processes, "core_percent": idle.core_percent, "resident_bytes": idle.resident_bytes});
    let verdict = |verdict: &crate::goals::Verdict| json!({"goal": verdict.title, "system": verdict.system.key(), "bound": verdict.bound, "measured": verdict.measured, "met": verdict.met});
    json!({
        "head": results.head.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>(),
        "baseline": BASELINE.key(),
        "goals": verdicts(results).iter().map(verdict).collect::<Vec<_>>(),
        "sets": results.sets.iter().map(set).collect::<Vec<_>>(),
        "counts": results.counts.iter().map(count).collect::<Vec<_>>(),
        "idle": results.idle.iter().map(idle).collect::<Vec<_>>(),
    })
}

/// One line about a set, for whoever waits.
#[must_use]
pub fn progress(set: &SampleSet) -> String {
    let mut text = format!("  {:<20}", set.workload.name);
    for sample in &set.samples {
        let _infallible = write!(text, " {} {:.0}/s p50 {:.0} µs;", sample.system.key(), sample.fio.iops, sample.fio.p50_us);
    }
    let _infallible = write!(text, " stolen {:.1} %", set.stolen_share() * 100.0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::FioResult;
    use crate::host::MachineTime;
    use crate::measure::Sample;
    use crate::usage::Usage;
    use crate::workload::WORKLOADS;

    fn results() -> Results {
        let sample = |system, iops: f64, cpu_us| Sample {
            system,
            fio: FioResult { requests: iops, iops, p50_us: 1e6 / iops, ..FioResult::default() },
            server: Usage { cpu_us, ..Usage::default() },
            machine: MachineTime::default(),
            spinners: true,
        };
        let set = |round, ours: f64| SampleSet {
            workload: WORKLOADS[0],
            round,
            attempt: 1,
            samples: vec![sample(SystemKind::QemuNbd, 100.0, 1000.0), sample(SystemKind::OursOne, ours, 2000.0)],
        };
        Results {
            head: vec![("machine".into(), "a test".into())],
            systems: vec![SystemKind::QemuNbd, SystemKind::OursOne],
            workloads: vec![WORKLOADS[0]],
            sets: vec![set(0, 50.0), set(1, 200.0), set(2, 80.0)],
            counts: Vec::new(),
            idle: Vec::new(),
        }
    }

    #[test]
    fn the_quoted_ratio_is_the_median_of_the_rounds() {
        assert_eq!(results().ratio(WORKLOADS[0].name, SystemKind::OursOne, Figure::Iops), Some(0.8));
    }

    #[test]
    fn a_loss_is_printed_and_a_missed_goal_is_called_so() {
        let text = markdown(&results(), "plot.svg");
        let (_, after) = text.split_once("## Where we lose").expect("has the section");
        assert!(after.contains("| requests per second | 0.80 |"), "{text}");
        assert!(text.contains("**missed**"), "p50 1.25 is above 1.2:\n{text}");
    }

    #[test]
    fn json_holds_every_round() {
        assert_eq!(json(&results())["sets"].as_array().map(Vec::len), Some(3));
    }
}
