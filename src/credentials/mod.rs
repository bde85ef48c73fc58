//! Who holds the tokens.
