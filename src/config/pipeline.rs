//! The layers of a pipeline: which of them run, and their fixed order.
//!
//! The config's list is a set. Any other order breaks something: [`LayerName::ALL`] says what.

use super::{
    LayerName,
    cursor::Cursor,
    tree::{Node, Value},
};

/// Puts the pipeline of `upstream` into the fixed order, and returns whether it was in another one.
///
/// A list with any item that is no layer's name stays as it is, for the reader to refuse.
pub(super) fn arrange(upstream: &mut Node) -> bool {
    let Some(Value::Array(items)) = upstream.get_mut("pipeline").map(|node| &mut node.value) else {
        return false;
    };
    let place = |item: &Node| {
        let mut layers = LayerName::ALL.iter();
        layers.position(|layer| item.as_str() == Some(layer.name()))
    };
    let arranged = items.is_sorted_by_key(place) || !items.iter().all(|item| place(item).is_some());
    if !arranged {
        items.sort_by_key(place);
    }
    !arranged
}

/// Reads an ordered pipeline: no layer twice, and `token-refresh` only with `bearer-auth`.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Vec<LayerName>> {
    let names = LayerName::ALL.map(|layer| (layer.name(), layer));
    let pipeline = cursor.list(|item| item.choice(&names))?;
    let problems = problems(&pipeline);
    for (message, hint) in &problems {
        cursor.note(message, hint);
    }
    problems.is_empty().then_some(pipeline)
}

/// The problems of the list, each with a hint.
fn problems(pipeline: &[LayerName]) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (index, layer) in pipeline.iter().enumerate() {
        if pipeline[..index].contains(layer) {
            let name = layer.name();
            problems.push((
                format!("{name} is listed twice"),
                format!("delete one {name}"),
            ));
        }
    }
    let listed = |layer| pipeline.contains(&layer);
    if listed(LayerName::TokenRefresh) && !listed(LayerName::BearerAuth) {
        problems.push((
            "token-refresh needs bearer-auth: nothing else sends the token that it refreshes"
                .into(),
            "add bearer-auth, or delete token-refresh".into(),
        ));
    }
    problems
}

// === impl LayerName ===

impl LayerName {
    /// All layers, in the order in which a request passes them:
    ///
    /// - `retry-on-429` and `token-refresh` before `jitter-throttle`: every attempt, also a retry
    ///   or a replay, waits for its turn. `retry-on-429` first, so that a replay which gets a 429
    ///   is retried as well.
    /// - `header-align` after `jitter-throttle`: the headers are built when the request leaves, and
    ///   no layer in between copies them.
    /// - `bearer-auth` last: a token read before the wait may be stale after it, `header-align`
    ///   would remove it, and a replay needs the new one.
    pub const ALL: [Self; 5] = [
        Self::RetryOn429,
        Self::TokenRefresh,
        Self::JitterThrottle,
        Self::HeaderAlign,
        Self::BearerAuth,
    ];

    /// Its name in a pipeline.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RetryOn429 => "retry-on-429",
            Self::TokenRefresh => "token-refresh",
            Self::JitterThrottle => "jitter-throttle",
            Self::HeaderAlign => "header-align",
            Self::BearerAuth => "bearer-auth",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};

    use super::*;
    use crate::config::provenance::Provenance;

    fn upstream(list: &[&str]) -> Node {
        let text = |name: &&str| Node::text(Provenance::BuiltIn, name);
        let list = Node {
            provenance: Provenance::BuiltIn,
            value: Value::Array(list.iter().map(text).collect()),
        };
        let mut upstream = Node::table(Provenance::BuiltIn);
        upstream.set("pipeline", list);
        upstream
    }

    proptest! {
        #[test]
        fn any_order_becomes_the_one_that_runs(
            listed in subsequence(LayerName::ALL.to_vec(), 0..=5)
                .prop_flat_map(|listed| (Just(listed.clone()), Just(listed).prop_shuffle())),
        ) {
            let (running, written) = listed;
            let [running, written] = [running, written]
                .map(|layers| layers.into_iter().map(LayerName::name).collect::<Vec<_>>());
            let mut node = upstream(&written);
            prop_assert_eq!(arrange(&mut node), written != running);
            prop_assert_eq!(node.to_string(), upstream(&running).to_string());
            prop_assert!(!arrange(&mut node));
        }
    }

    #[test]
    fn a_list_with_an_unknown_name_stays_as_it_is_written() {
        let written = ["header-align", "retry", "retry-on-429"];
        let mut node = upstream(&written);
        assert!(!arrange(&mut node));
        assert_eq!(node.to_string(), upstream(&written).to_string());
    }

    #[test]
    fn any_layer_may_be_left_out_but_token_refresh_keeps_its_partner() {
        assert!(problems(&LayerName::ALL).is_empty());
        assert!(problems(&[]).is_empty());
        for without in LayerName::ALL {
            let mut rest = LayerName::ALL.to_vec();
            rest.retain(|layer| *layer != without);
            let expected = usize::from(without == LayerName::BearerAuth);
            assert_eq!(problems(&rest).len(), expected, "without {without:?}");
        }
    }

    #[test]
    fn refuses_a_layer_listed_twice() {
        let twice = [LayerName::HeaderAlign, LayerName::HeaderAlign];
        assert_eq!(problems(&twice)[0].0, "header-align is listed twice");
    }
}
