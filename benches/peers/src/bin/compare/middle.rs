//! What many turns say together.

use serde::Serialize;

/// The middle of all turns, and between what the middle half of them lies.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Middle {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    turns: usize,
}

impl Middle {
    /// None of no values. What is not a number was not measured.
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

    /// How far off the median may be, as the notch of a box plot says: another run's lies within in
    /// nineteen of twenty cases (McGill, Tukey and Larsen, 1978). Two turns say nothing of that.
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
        let middle = Middle::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((middle.low, middle.median, middle.high), (1.75, 2.5, 3.25));
        assert!(Middle::of(Vec::new()).is_none());
        assert!(Middle::of(vec![f64::NAN]).is_none());
    }

    #[test]
    fn is_less_in_doubt_the_more_turns_there_were() {
        let doubt = |values: Vec<f64>| Middle::of(values).and_then(|middle| middle.doubt());
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        let few = doubt(values.to_vec()).unwrap();
        let many = doubt(values.repeat(16)).unwrap();
        assert!(many < few / 3.0);
        assert_eq!(doubt(vec![1.0; 9]), Some(0.0));
        assert_eq!(doubt(vec![1.0; 2]), None);
    }
}
