//! The problems of a configuration, each with its place and a hint.

use std::fmt;

use super::provenance::Provenance;

/// Why a configuration cannot be used: all problems found, in the order of the file.
///
/// The text has a line `where: key: what` and a line `hint: …` for each problem, and holds no
/// secret.
#[derive(Debug)]
pub struct Error {
    problems: Vec<Problem>,
}

/// One problem.
#[derive(Debug)]
pub(super) struct Problem {
    provenance: Option<Provenance>,
    path: String,
    message: String,
    hint: Option<String>,
}

/// The known word that `word` was probably meant to be, or all of them.
pub(crate) fn suggestion(word: &str, known: &[&str]) -> String {
    /// Below this the words have no more in common than any two; clap draws the line there, too.
    const ALIKE: f64 = 0.7;
    let likeness = |known: &str| strsim::jaro(word, known);
    match known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
    {
        Some(best) if likeness(best) > ALIKE => format!("did you mean \"{best}\"?"),
        Some(_) => format!("known are: {}", known.join(", ")),
        None => "nothing may stand here".into(),
    }
}

// === impl Error ===

impl From<Vec<Problem>> for Error {
    fn from(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.provenance.as_ref().and_then(Provenance::line));
        Self { problems }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

// === impl Problem ===

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            provenance: None,
            path: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn at(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    pub(super) fn key(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(provenance) = &self.provenance {
            write!(f, "{provenance}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_word_or_lists_them_all() {
        let known = ["header-align", "retry-on-429"];
        assert_eq!(
            suggestion("header-allign", &known),
            "did you mean \"header-align\"?"
        );
        assert_eq!(
            suggestion("zzz", &known),
            "known are: header-align, retry-on-429"
        );
    }

    #[test]
    fn shows_every_problem_on_lines_of_its_own() {
        let error = Error::from(vec![
            Problem::new("missing").key("a").hint("write it"),
            Problem::new("unknown key").key("b"),
        ]);
        assert_eq!(
            error.to_string(),
            "a: missing\n  hint: write it\nb: unknown key"
        );
    }
}
