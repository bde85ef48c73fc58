//! Paths of the API: below `/v1/`, and below `/u/NAME/v1/` for one upstream.

use http::{
    Uri,
    uri::{InvalidUri, PathAndQuery},
};

/// A path that leads to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ApiPath<'a> {
    /// The upstream that the path names.
    pub(super) upstream: Option<&'a str>,
    /// The part that follows `/v1`, without the query.
    pub(super) below_v1: &'a str,
}

/// A path without a route.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRoute {
    #[error("nothing here; the API is under /v1/, and under /u/NAME/v1/ for one upstream")]
    Path,
    #[error("no upstream of that name is in the config; `pacegate check` lists them")]
    Upstream,
}

// === impl ApiPath ===

impl<'a> ApiPath<'a> {
    /// # Errors
    ///
    /// [`NoRoute::Path`] for any other path.
    pub(super) fn parse(path: &'a str) -> Result<Self, NoRoute> {
        let (upstream, api) = match path.strip_prefix("/u/") {
            None => (None, path),
            Some(rest) => {
                let slash = rest.find('/').ok_or(NoRoute::Path)?;
                let (name, api) = rest.split_at(slash);
                (Some(name), api)
            }
        };
        let below_v1 = api
            .strip_prefix("/v1")
            .filter(|rest| rest.len() > 1 && rest.starts_with('/'));
        Ok(Self {
            upstream,
            below_v1: below_v1.ok_or(NoRoute::Path)?,
        })
    }

    /// `uri`, to which this path belongs, without the part before [`below_v1`](Self::below_v1).
    pub(super) fn relative(&self, uri: &Uri) -> Result<Uri, InvalidUri> {
        let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let start = uri.path().len() - self.below_v1.len();
        whole[start..].parse::<PathAndQuery>().map(Uri::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstreams_part_of_a_path_keeps_its_query() {
        let relative = |uri: &'static str| {
            let uri = Uri::from_static(uri);
            let path = ApiPath::parse(uri.path()).unwrap();
            path.relative(&uri).unwrap().to_string()
        };
        assert_eq!(relative("/v1/models?a=/v1/"), "/models?a=/v1/");
        assert_eq!(relative("/u/x/v1/chat/completions"), "/chat/completions");
    }
}
