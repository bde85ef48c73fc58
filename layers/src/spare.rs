//! What is kept of a request for another try.

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

use crate::progress::Progress;

/// A copy of a request, boxed because it lies beside the request's future and would be moved with it.
///
/// Nearly every request goes without another try, so this is to be cheap to make: of the extensions
/// a lone [`Progress`] is kept by itself, because copying the map that it is in costs more than
/// everything else here.
#[derive(Clone, Debug)]
pub(crate) struct Spare<B>(Box<Copied<B>>);

#[derive(Clone, Debug)]
struct Copied<B> {
    method: Method,
    uri: Uri,
    version: Version,
    /// None is cheaper than an empty one.
    headers: Option<HeaderMap>,
    extensions: Kept,
    body: B,
}

#[derive(Clone, Debug)]
enum Kept {
    All(Extensions),
    Progress(Progress),
}

impl<B: Clone> Spare<B> {
    pub(crate) fn of(request: &Request<B>) -> Self {
        let extensions = request.extensions();
        Self(Box::new(Copied {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: Some(request.headers())
                .filter(|headers| !headers.is_empty())
                .cloned(),
            extensions: match extensions.get::<Progress>() {
                Some(progress) if extensions.len() == 1 => Kept::Progress(progress.clone()),
                _ => Kept::All(extensions.clone()),
            },
            body: request.body().clone(),
        }))
    }
}

impl<B> Spare<B> {
    pub(crate) fn progress(&self) -> Option<&Progress> {
        match &self.0.extensions {
            Kept::All(extensions) => extensions.get(),
            Kept::Progress(progress) => Some(progress),
        }
    }

    pub(crate) fn into_request(self) -> Request<B> {
        let copy = *self.0;
        let mut request = Request::new(copy.body);
        *request.method_mut() = copy.method;
        *request.uri_mut() = copy.uri;
        *request.version_mut() = copy.version;
        *request.headers_mut() = copy.headers.unwrap_or_default();
        match copy.extensions {
            Kept::All(extensions) => *request.extensions_mut() = extensions,
            Kept::Progress(progress) => {
                request.extensions_mut().insert(progress);
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, Uri, Version, header};

    use super::*;
    use crate::session::Session;

    #[derive(Clone, Debug, PartialEq)]
    struct Other(u8);

    fn request() -> Request<&'static str> {
        let mut request = Request::put("/path?query").body("body").unwrap();
        *request.version_mut() = Version::HTTP_2;
        let value = HeaderValue::from_static("value");
        request.headers_mut().insert(header::ACCEPT, value);
        request
    }

    #[test]
    fn it_is_the_whole_request() {
        let copy = Spare::of(&request()).into_request();
        assert_eq!(copy.method(), Method::PUT);
        assert_eq!(copy.uri(), &Uri::from_static("/path?query"));
        assert_eq!(copy.version(), Version::HTTP_2);
        assert_eq!(copy.headers(), request().headers());
        assert_eq!(*copy.body(), "body");
        assert!(copy.extensions().is_empty());
    }

    #[test]
    fn it_keeps_all_extensions_with_a_progress_and_without() {
        for progress in [None, Some(Progress::of(Session::new("s1")))] {
            for other in [None, Some(Other(1))] {
                let mut request = request();
                if let Some(progress) = progress.clone() {
                    request.extensions_mut().insert(progress);
                }
                if let Some(other) = other.clone() {
                    request.extensions_mut().insert(other);
                }
                let extensions = Spare::of(&request).into_request().extensions().clone();
                let session = extensions.get::<Progress>().and_then(Progress::session);
                let wanted = progress.as_ref().and_then(Progress::session);
                assert_eq!(session, wanted);
                assert_eq!(extensions.get(), other.as_ref());
            }
        }
    }
}
