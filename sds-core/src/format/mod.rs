//! What is on a device, byte by byte. See `docs/on-disk-format.md`.
