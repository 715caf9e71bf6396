//! With all rules no property fails; without any one of them some property does.

use sds_model::rule::Rule;
use sds_model::run::{Bounds, explore};
use sds_model::scenario::{self, Scenario};
use std::time::Duration;

const BOUNDS: Bounds = Bounds { threads: 1, states: 100_000_000, time: Duration::from_secs(280) };

fn named(name: &str) -> Scenario {
    scenario::all().into_iter().find(|scenario| scenario.name == name).expect("the scenario exists")
}

fn nothing_fails(scenarios: impl Iterator<Item = Scenario>) {
    for scenario in scenarios {
        let report = explore(&scenario, None, BOUNDS);
        if let Some(found) = report.counterexample {
            found.actions.iter().for_each(|action| println!("{action}"));
            panic!("{}: not so: {}", scenario.name, found.property);
        }
        assert!(report.complete, "{} was not explored to its end", scenario.name);
    }
}

fn something_fails(rules: impl Iterator<Item = Rule>) {
    for rule in rules {
        let report = explore(&named(rule.witness()), Some(rule), BOUNDS);
        assert!(report.counterexample.is_some(), "nothing fails in {} without {}", rule.witness(), rule.name());
    }
}

#[test]
fn nothing_fails_while_processes_die() {
    nothing_fails(scenario::all().into_iter().filter(|scenario| scenario.power_cuts == 0));
}

#[test]
fn nothing_fails_while_power_is_cut() {
    nothing_fails(scenario::all().into_iter().filter(|scenario| scenario.power_cuts > 0));
}

#[test]
fn each_rule_is_needed_while_processes_die() {
    something_fails(Rule::ALL.iter().copied().filter(|rule| named(rule.witness()).power_cuts == 0));
}

#[test]
fn each_rule_is_needed_while_power_is_cut() {
    something_fails(Rule::ALL.iter().copied().filter(|rule| named(rule.witness()).power_cuts > 0));
}
