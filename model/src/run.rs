//! Runs scenarios, with all rules or without one, and says what came of it.

use crate::model::{Action, Bell, Protocol};
use crate::rule::Rule;
use crate::scenario::Scenario;
use crate::state::State;
use stateright::{Checker, HasDiscoveries, Model};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a run found.
pub struct Report {
    /// Different states seen.
    pub states: usize,
    /// Steps of the longest history explored.
    pub depth: usize,
    /// It ended because there was no more, not because of a bound.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// A property that fails, and the events that lead there.
    pub counterexample: Option<Counterexample>,
}

/// How a property fails.
pub struct Counterexample {
    /// Which.
    pub property: &'static str,
    /// The events.
    pub actions: Vec<Action>,
    /// Where it ends.
    pub end: State,
}

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Threads.
    pub threads: usize,
    /// Most states.
    pub states: usize,
    /// Longest.
    pub time: Duration,
}

/// Explores a scenario breadth first.
#[must_use]
pub fn explore(scenario: &Scenario, dropped: Option<Rule>, bounds: Bounds) -> Report {
    pass(scenario, dropped, bounds, None)
}

/// Explores until the shortest counterexample is found: a run ends with one of the first batch that has any, so it is
/// repeated below the length of what it found, until nothing is.
#[must_use]
pub fn shortest(scenario: &Scenario, dropped: Option<Rule>, bounds: Bounds) -> Report {
    let mut best = pass(scenario, dropped, bounds, None);
    while let Some(found) = &best.counterexample {
        let steps = found.actions.len();
        let shorter = pass(scenario, dropped, bounds, Some(steps + 1));
        best.took += shorter.took;
        if shorter.counterexample.as_ref().is_none_or(|found| found.actions.len() >= steps) {
            break;
        }
        best = Report { took: best.took, ..shorter };
    }
    best
}

/// Histories of `depth_max` states and more are not explored.
fn pass(scenario: &Scenario, dropped: Option<Rule>, bounds: Bounds, depth_max: Option<usize>) -> Report {
    let start = Instant::now();
    let bell = Arc::new(Bell::new(start + bounds.time));
    let model = Protocol { scenario: scenario.clone(), dropped, bell: Arc::clone(&bell) };
    let mut builder = model.checker().threads(bounds.threads).finish_when(HasDiscoveries::Any).target_state_count(bounds.states);
    if let Some(depth) = depth_max {
        builder = builder.target_max_depth(depth);
    }
    let checker = builder.spawn_bfs().join();
    let took = start.elapsed();
    bell.disarm();
    let counterexample = checker
        .discoveries()
        .into_iter()
        .min_by_key(|(property, path)| (path.clone().into_actions().len(), *property))
        .map(|(property, path)| Counterexample { property, end: path.last_state().clone(), actions: path.into_actions() });
    let complete = counterexample.is_none() && checker.state_count() < bounds.states && took < bounds.time;
    Report { states: checker.unique_state_count(), depth: checker.max_depth(), complete, took, counterexample }
}
