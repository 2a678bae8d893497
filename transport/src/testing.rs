//! A transport in memory.
