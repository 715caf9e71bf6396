//! What a name may look like: 1 to 63 characters, a letter or digit first, then also `.`, `_`, `-`.
//!
//! So a name fits a URL path, an NBD export name, a shell word and a file name as it is. A label (of a
//! server or fault set) is never part of a path: there any visible ASCII character will do.

use super::outcome::{NameFault, Refusal};
use crate::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};

/// Checks a name.
pub(super) fn check(what: &'static str, name: &str) -> Result<(), Refusal> {
    refuse(what, name, fault(name))
}

/// Checks a label.
pub(super) fn check_label(what: &'static str, label: &str) -> Result<(), Refusal> {
    let odd = label.chars().find(|character| !character.is_ascii_graphic()).map(NameFault::Character);
    let empty = label.is_empty().then_some(NameFault::Empty);
    refuse(what, label, odd.or(empty).or((label.len() > NAME_BYTES_MAX).then_some(NameFault::TooLong(label.len()))))
}

fn refuse(what: &'static str, name: &str, fault: Option<NameFault>) -> Result<(), Refusal> {
    fault.map_or(Ok(()), |fault| Err(Refusal::Name { what, name: name.chars().take(NAME_BYTES_MAX).collect(), fault }))
}

fn fault(name: &str) -> Option<NameFault> {
    let Some(first) = name.chars().next() else { return Some(NameFault::Empty) };
    if !first.is_ascii_alphanumeric() {
        return Some(NameFault::Start(first));
    }
    let odd = name.chars().find(|character| !(character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')));
    if let Some(odd) = odd {
        return Some(NameFault::Character(odd));
    }
    (name.len() > NAME_BYTES_MAX).then_some(NameFault::TooLong(name.len()))
}

/// Checks a text that only people read.
pub(super) fn check_text(what: &'static str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::TextTooLong { what, bytes: text.len() });
    }
    Ok(())
}
