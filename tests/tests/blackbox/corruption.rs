//! Bytes flipped by hand on a device: noticed, named, never handed out as data.
