//! The median of many turns, and its error.

use serde::Serialize;

/// The median of all turns, and the quartiles around it.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Quartiles {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    turns: usize,
}

impl Quartiles {
    /// `None` without values. NaN was not measured and is left out.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| !value.is_nan());
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (
                values[place.floor() as usize],
                values[place.ceil() as usize],
            );
            below + (above - below) * place.fract()
        };
        Some(Self {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
            turns: values.len(),
        })
    }

    /// The error of the median, by the notch of a box plot: the median of another run is within it with
    /// a probability of 95 % (McGill, Tukey and Larsen, 1978). `None` for fewer than three turns.
    pub(crate) fn doubt(&self) -> Option<f64> {
        let doubt = 1.57 * (self.high - self.low) / (self.turns as f64).sqrt();
        (self.turns > 2).then_some(doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_between_two_values_where_there_is_no_middle_one() {
        let quartiles = Quartiles::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (quartiles.low, quartiles.median, quartiles.high),
            (1.75, 2.5, 3.25)
        );
        assert!(Quartiles::of(Vec::new()).is_none());
        assert!(Quartiles::of(vec![f64::NAN]).is_none());
    }

    #[test]
    fn is_less_in_doubt_the_more_turns_there_were() {
        let doubt =
            |values: Vec<f64>| Quartiles::of(values).and_then(|quartiles| quartiles.doubt());
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        let few = doubt(values.to_vec()).unwrap();
        let many = doubt(values.repeat(16)).unwrap();
        assert!(many < few / 3.0);
        assert_eq!(doubt(vec![1.0; 9]), Some(0.0));
        assert_eq!(doubt(vec![1.0; 2]), None);
    }
}
