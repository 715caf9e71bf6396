//! The table of `docs/model.md`: rule → scenario → shortest counterexample. Written by the program, checked by it.

use crate::rule::Rule;
use crate::run::Counterexample;
use std::fmt::Write;

const BEGIN: &str = "<!-- the table that `model --write-docs` writes -->\n";
const END: &str = "<!-- end of the table -->\n";

/// The rows of a run with each rule off in turn.
#[must_use]
pub fn render(found: &[(Rule, Counterexample)]) -> String {
    let mut text =
        String::from("| rule | for | says | without it: scenario, steps | what fails | story |\n| --- | --- | --- | --- | --- | --- |\n");
    for (rule, counterexample) in found {
        let steps = counterexample.actions.len();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {}, {steps} | {} | {} |",
            rule.name(),
            rule.invariant(),
            rule.says(),
            rule.witness(),
            counterexample.property,
            rule.story()
        );
    }
    text
}

/// The document with its table replaced; `None` if it has no place for one.
#[must_use]
pub fn replace(document: &str, table: &str) -> Option<String> {
    let start = document.find(BEGIN)? + BEGIN.len();
    let end = start + document[start..].find(END)?;
    Some(format!("{}{table}{}", &document[..start], &document[end..]))
}
