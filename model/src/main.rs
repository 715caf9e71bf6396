//! `model`: explores the protocol model. Without arguments: every scenario with all rules, then each rule off.

use clap::Parser;
use sds_model::rule::Rule;
use sds_model::run::{Bounds, Counterexample, Report, explore, shortest};
use sds_model::scenario::{self, Scenario};
use sds_model::table;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(
    about = "Explores the protocol model: every scenario with all rules on, where nothing may fail, and then with each rule off, where something must."
)]
struct Arguments {
    /// Switch this rule off, look for a counterexample in all scenarios, and tell it.
    #[arg(long, value_name = "RULE")]
    drop: Option<String>,
    /// Only this scenario.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Name the rules and the scenarios.
    #[arg(long)]
    list: bool,
    /// Give the adversary more of everything; for hours, not for CI.
    #[arg(long)]
    deep: bool,
    /// Threads. With more than one a counterexample need not be the shortest.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Give a scenario up, as a failure, after so many generated states.
    #[arg(long, default_value_t = 100_000_000)]
    states: usize,
    /// Give a scenario up, as a failure, after so many seconds.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Compare the table in this document with what was found, and fail if it differs.
    #[arg(long, value_name = "FILE")]
    check_docs: Option<PathBuf>,
    /// Write the table into this document.
    #[arg(long, value_name = "FILE", conflicts_with = "check_docs")]
    write_docs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("model: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let started = Instant::now();
    if arguments.list {
        Rule::ALL.iter().for_each(|rule| println!("{:20} {:8} {}", rule.name(), rule.invariant(), rule.says()));
        scenario::all().iter().for_each(|scenario| println!("{:20} {}", scenario.name, scenario.about));
        return Ok(true);
    }
    let scenarios = scenarios(arguments)?;
    let bounds = Bounds { threads: arguments.threads, states: arguments.states, time: Duration::from_secs(arguments.seconds) };
    if let Some(name) = &arguments.drop {
        let rule = Rule::ALL
            .iter()
            .copied()
            .find(|rule| rule.name() == name)
            .ok_or_else(|| format!("no rule is named {name}; --list names them"))?;
        return Ok(look(rule, &scenarios, bounds));
    }
    let (mut states, mut failed) = (0, 0);
    println!("all rules on: nothing may fail");
    for scenario in &scenarios {
        let report = explore(scenario, None, bounds);
        line(scenario.name, &report);
        states += report.states;
        if let Some(found) = &report.counterexample {
            tell(found);
        }
        failed += usize::from(!report.complete);
    }
    let mut found = Vec::new();
    if arguments.scenario.is_none() && !arguments.deep {
        println!("each rule off: something must fail");
        for rule in Rule::ALL.iter().copied() {
            let scenario = scenarios.iter().find(|scenario| scenario.name == rule.witness()).ok_or("a rule names no scenario")?;
            let report = shortest(scenario, Some(rule), bounds);
            line(&format!("{} in {}", rule.name(), scenario.name), &report);
            states += report.states;
            match report.counterexample {
                Some(counterexample) => found.push((rule, counterexample)),
                None => failed += 1,
            }
        }
        failed += documents(arguments, &found)?;
    }
    println!(
        "model: {} scenarios, {} rules off, {states} states, {:.0} s, {failed} failures",
        scenarios.len(),
        found.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

fn scenarios(arguments: &Arguments) -> Result<Vec<Scenario>, String> {
    let mut scenarios = scenario::all();
    if let Some(name) = &arguments.scenario {
        scenarios.retain(|scenario| scenario.name == name);
        if scenarios.is_empty() {
            return Err(format!("no scenario is named {name}; --list names them"));
        }
    }
    if arguments.deep {
        scenarios.iter_mut().for_each(Scenario::deepen);
    }
    Ok(scenarios)
}

/// Looks for the first scenario that fails without a rule.
fn look(rule: Rule, scenarios: &[Scenario], bounds: Bounds) -> bool {
    println!("without {} ({}): {}", rule.name(), rule.invariant(), rule.says());
    for scenario in scenarios {
        let report = shortest(scenario, Some(rule), bounds);
        line(scenario.name, &report);
        if let Some(found) = &report.counterexample {
            tell(found);
            return true;
        }
    }
    println!("nothing fails without {}", rule.name());
    false
}

fn line(name: &str, report: &Report) {
    let end = match (&report.counterexample, report.complete) {
        (Some(found), _) => format!("fails after {} steps: {}", found.actions.len(), found.property),
        (None, true) => String::from("holds"),
        (None, false) => String::from("GIVEN UP: a bound was reached"),
    };
    println!("  {name:36} {:9} states, depth {:3}, {:6.1} s  {end}", report.states, report.depth, report.took.as_secs_f64());
}

fn tell(found: &Counterexample) {
    println!("    not so: {}", found.property);
    found.actions.iter().enumerate().for_each(|(at, action)| println!("    {:2}. {action}", at + 1));
}

/// Writes or compares the table; how many faults.
fn documents(arguments: &Arguments, found: &[(Rule, Counterexample)]) -> Result<usize, String> {
    let Some(path) = arguments.write_docs.as_ref().or(arguments.check_docs.as_ref()) else { return Ok(0) };
    let read = |reason: std::io::Error| format!("cannot read or write {}: {reason}", path.display());
    let document = std::fs::read_to_string(path).map_err(read)?;
    let wanted =
        table::replace(&document, &table::render(found)).ok_or_else(|| format!("{} has no place for the table", path.display()))?;
    if wanted == document {
        return Ok(0);
    }
    if arguments.write_docs.is_some() {
        std::fs::write(path, wanted).map_err(read)?;
        return Ok(0);
    }
    println!("the table in {} is not what was found: write it with --write-docs", path.display());
    Ok(1)
}
