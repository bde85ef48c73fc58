//! Values with their unit.

use std::time::Duration;

/// `1s`, `500ms`, `5m`, `5h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    // humantime accepts a bare 0; here it needs a unit as well.
    text.ends_with(char::is_alphabetic)
        .then(|| humantime::parse_duration(text).ok())?
}

/// `500ms..1500ms`, both inclusive, in any order.
pub(super) fn range(text: &str) -> Option<(Duration, Duration)> {
    let (from, to) = text.split_once("..")?;
    Some((duration(from.trim())?, duration(to.trim())?))
}

/// `32MiB`, in bytes.
pub(super) fn size(text: &str) -> Option<usize> {
    // bytesize reads a bare number as bytes; here it is more likely a forgotten unit.
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    text.parse::<bytesize::ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
}

/// `20%`, as a fraction from 0 to 1.
pub(super) fn percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number / 100.0)
}

/// Formats a duration as it is written in a config.
pub(crate) fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_or_refuses_any_text(text in "\\PC{0,12}", number in any::<u64>(), unit in "[a-zA-Zµ%]{0,3}") {
            for text in [text, format!("{number}{unit}"), format!("{number}.{number}{unit}..1s")] {
                let _read = (duration(&text), range(&text), size(&text), percent(&text));
            }
        }

        #[test]
        fn reads_every_duration_that_it_shows(millis in 0..u64::MAX / 1_000_000) {
            let shown = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show(shown)), Some(shown));
        }
    }

    #[test]
    fn reads_values_with_units() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("5h"), Some(Duration::from_secs(5 * 3600)));
        let half_to_three_halves = (Duration::from_millis(500), Duration::from_millis(1500));
        assert_eq!(range("500ms..1500ms"), Some(half_to_three_halves));
        assert_eq!(size("32MiB"), Some(32 << 20));
        assert_eq!(percent("20%"), Some(0.2));
    }

    #[test]
    fn refuses_values_without_units_and_nonsense() {
        for text in ["", "0", "5", "-1s", "1.5", "1 fortnight"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["", "1s", "1s..", "1s-2s", "1..2"] {
            assert_eq!(range(text), None, "{text}");
        }
        for text in ["", "32", "32 apples", "-1MiB"] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["", "20", "120%", "-1%", "NaN%"] {
            assert_eq!(percent(text), None, "{text}");
        }
    }
}
