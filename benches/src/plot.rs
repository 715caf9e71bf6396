//! The picture: throughput and CPU per request of every system, relative to the baseline, as an SVG.

use crate::measure::Figure;
use crate::report::{BASELINE, Results};
use crate::system::SystemKind;
use std::fmt::Write;

const LABEL_WIDTH: f64 = 300.0;
const PANEL_WIDTH: f64 = 380.0;
const GAP: f64 = 50.0;
const BAR: f64 = 11.0;
const ROW_GAP: f64 = 12.0;
const TOP: f64 = 84.0;
/// Ratios beyond this are cut off, with the number beside the bar.
const RATIO_MAX: f64 = 3.0;

const fn color(system: SystemKind) -> &'static str {
    match system {
        SystemKind::Bound => "#bab0ac",
        SystemKind::QemuNbd => "#4e79a7",
        SystemKind::Nbdkit => "#a0cbe8",
        SystemKind::OursFive => "#f28e2b",
        SystemKind::OursOne => "#e15759",
        SystemKind::OursFiveTwo => "#59a14f",
        SystemKind::OursOneTwo => "#b07aa1",
    }
}

/// The picture of all jobs.
#[must_use]
pub fn svg(results: &Results) -> String {
    let systems: Vec<SystemKind> = results.systems.iter().copied().filter(|system| *system != BASELINE).collect();
    let row = systems.len() as f64 * BAR + ROW_GAP;
    let (width, height) = (LABEL_WIDTH + 2.0 * PANEL_WIDTH + 2.0 * GAP, TOP + results.workloads.len() as f64 * row + 20.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut out, &systems);
    let throughput = LABEL_WIDTH;
    let cpu = LABEL_WIDTH + PANEL_WIDTH + GAP;
    text(&mut out, throughput, 52.0, "start", "throughput ÷ qemu-nbd (more is better)");
    text(&mut out, cpu, 52.0, "start", "CPU per request, server and fio, ÷ qemu-nbd (less is better)");
    axis(&mut out, throughput, height);
    axis(&mut out, cpu, height);
    for (index, workload) in results.workloads.iter().enumerate() {
        let top = TOP + index as f64 * row;
        text(&mut out, LABEL_WIDTH - 12.0, top + (row - ROW_GAP) / 2.0 + 4.0, "end", workload.title);
        for (place, system) in systems.iter().enumerate() {
            let y = top + place as f64 * BAR;
            bar(&mut out, throughput, y, *system, results.ratio(workload.name, *system, Results::main_figure(workload)));
            bar(&mut out, cpu, y, *system, results.ratio(workload.name, *system, Figure::TotalCpu));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, systems: &[SystemKind]) {
    let mut x = LABEL_WIDTH;
    for system in systems {
        let _infallible = writeln!(out, "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{}\"/>", color(*system));
        text(out, x + 17.0, 24.0, "start", system.title());
        x += 190.0;
    }
}

fn axis(out: &mut String, x: f64, height: f64) {
    for step in 0..=6_u32 {
        let ratio = f64::from(step) / 2.0;
        let at = x + ratio / RATIO_MAX * PANEL_WIDTH;
        let stroke = if step == 2 { "#333333" } else { "#dddddd" };
        let _infallible =
            writeln!(out, "<line x1=\"{at}\" y1=\"{}\" x2=\"{at}\" y2=\"{}\" stroke=\"{stroke}\"/>", TOP - 8.0, height - 12.0);
        text(out, at, TOP - 12.0, "middle", &format!("{ratio}"));
    }
}

fn bar(out: &mut String, x: f64, y: f64, system: SystemKind, ratio: Option<f64>) {
    let Some(ratio) = ratio else { return };
    let length = ratio.min(RATIO_MAX) / RATIO_MAX * PANEL_WIDTH;
    let (height, fill) = (BAR - 1.5, color(system));
    let _infallible = writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"{height}\" fill=\"{fill}\"/>");
    if ratio > RATIO_MAX {
        text(out, x + PANEL_WIDTH + 4.0, y + BAR - 2.5, "start", &format!("{ratio:.1}"));
    }
}

/// Only our own words come here, none of which needs escaping.
fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _infallible = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
