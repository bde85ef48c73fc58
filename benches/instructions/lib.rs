//! Nothing: this package is its bench, apart from the others, so that no test builds what counts
//! instructions, and what counts them builds no program.
