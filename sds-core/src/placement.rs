//! Placement of shards over devices: a pure planner.
