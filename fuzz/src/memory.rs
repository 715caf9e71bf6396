//! How much memory a decoder asked for.
//!
//! Invariant: counted is what is held at once, at its peak, by this whole process: nothing else may run meanwhile.

use crate::MEMORY;

/// What a decoder may ask for, as a function of its input's length.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// For each byte of input.
    pub per_byte: usize,
    /// Whatever the input.
    pub fixed: usize,
}

/// Nothing at all.
pub const NOTHING: Allowance = Allowance { per_byte: 0, fixed: 0 };
/// A text parser's: a tree of the text (a table with one entry takes some hundred bytes) and an error that quotes it.
pub const TEXT: Allowance = Allowance { per_byte: 1024, fixed: 64 << 10 };
/// What [`sds_core::codec`] promises.
pub const CODEC: Allowance = Allowance { per_byte: sds_core::codec::DECODE_MEMORY_PER_BYTE, fixed: sds_core::codec::DECODE_MEMORY_FIXED };

/// Runs a decoder over `input` and holds its peak of memory against an allowance.
///
/// # Panics
/// If it asked for more.
pub fn bounded<T>(input: &[u8], allowance: Allowance, decode: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let value = decode();
    let took = MEMORY.peak_usage().saturating_sub(before);
    let allowed = allowance.fixed + allowance.per_byte * input.len();
    assert!(took <= allowed, "{} bytes of input made the decoder take {took} bytes of memory; {allowed} are allowed", input.len());
    value
}
