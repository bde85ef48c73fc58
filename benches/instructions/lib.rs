//! Empty: a package of its own for the bench, so that tests do not build gungraun and the bench does
//! not build the program.
