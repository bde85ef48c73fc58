//! The layers of a pipeline and the laws about their order.

use super::{LayerName, cursor::Cursor};

/// The first has to stand before the second, because.
const LAWS: [(LayerName, LayerName, &str); 4] = [
    (
        LayerName::HeaderAlign,
        LayerName::BearerAuth,
        "header-align strips the client's Authorization and would strip the token as well",
    ),
    (
        LayerName::RetryOn429,
        LayerName::JitterThrottle,
        "every retry has to pass the gate again",
    ),
    (
        LayerName::TokenRefresh,
        LayerName::BearerAuth,
        "the second try has to get the new token",
    ),
    (
        LayerName::JitterThrottle,
        LayerName::BearerAuth,
        "a token that was read before the wait may be stale after it",
    ),
];

/// Reads a pipeline; the order laws hold in what it returns.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Vec<LayerName>> {
    let names = LayerName::ALL.map(|layer| (layer.name(), layer));
    let pipeline = cursor.list(|item| item.choice(&names))?;
    let broken = broken_laws(&pipeline);
    for (message, hint) in &broken {
        cursor.note(message, hint);
    }
    broken.is_empty().then_some(pipeline)
}

/// What is wrong with the order, and what to do about it.
fn broken_laws(pipeline: &[LayerName]) -> Vec<(String, String)> {
    let place = |layer| pipeline.iter().position(|other| *other == layer);
    let mut broken = Vec::new();
    for (index, layer) in pipeline.iter().enumerate() {
        if pipeline[..index].contains(layer) {
            let name = layer.name();
            broken.push((
                format!("{name} is listed twice"),
                format!("delete one {name}"),
            ));
        }
    }
    for (first, second, reason) in LAWS {
        if let (Some(here), Some(there)) = (place(first), place(second))
            && here > there
        {
            let (first, second) = (first.name(), second.name());
            broken.push((
                format!("{first} must stand before {second}: {reason}"),
                format!("move {first} in front of {second}"),
            ));
        }
    }
    if place(LayerName::TokenRefresh).is_some() && place(LayerName::BearerAuth).is_none() {
        broken.push((
            "token-refresh needs bearer-auth: nothing else sends the token that it renews".into(),
            "add bearer-auth after token-refresh, or delete token-refresh".into(),
        ));
    }
    broken
}

// === impl LayerName ===

impl LayerName {
    /// All of them, in the usual order.
    pub const ALL: [Self; 5] = [
        Self::HeaderAlign,
        Self::RetryOn429,
        Self::TokenRefresh,
        Self::JitterThrottle,
        Self::BearerAuth,
    ];

    /// How a pipeline names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeaderAlign => "header-align",
            Self::RetryOn429 => "retry-on-429",
            Self::TokenRefresh => "token-refresh",
            Self::JitterThrottle => "jitter-throttle",
            Self::BearerAuth => "bearer-auth",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_usual_order_and_every_part_of_it_that_keeps_its_token() {
        assert!(broken_laws(&LayerName::ALL).is_empty());
        assert!(broken_laws(&[]).is_empty());
        for without in LayerName::ALL {
            let mut rest = LayerName::ALL.to_vec();
            rest.retain(|layer| *layer != without);
            let expected = usize::from(without == LayerName::BearerAuth);
            assert_eq!(broken_laws(&rest).len(), expected, "without {without:?}");
        }
    }

    #[test]
    fn names_both_layers_of_each_broken_law() {
        for (first, second, reason) in LAWS {
            // token-refresh without bearer-auth would be a second problem.
            let broken = broken_laws(&[second, first]);
            assert_eq!(broken.len(), 1, "{first:?} {second:?}");
            for part in [first.name(), second.name(), reason] {
                assert!(broken[0].0.contains(part), "{}", broken[0].0);
            }
        }
    }

    #[test]
    fn refuses_a_layer_listed_twice() {
        let twice = [LayerName::HeaderAlign, LayerName::HeaderAlign];
        assert_eq!(broken_laws(&twice)[0].0, "header-align is listed twice");
    }
}
