//! The decisions of Levee, without I/O.
