//! Front-ends, well-behaved and not.
