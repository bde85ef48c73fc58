//! Bearer tokens and where they come from.
//!
//! [`BearerAuth`](crate::BearerAuthLayer) asks a [`TokenSource`] for a token just before a request
//! leaves. If the response is no success, [`BearerAuth`](crate::BearerAuthLayer) puts the token
//! used into the *response's* extensions; [`TokenRefresh`](crate::TokenRefreshLayer) finds it there
//! when the upstream responds 401, and asks the source to replace exactly that token. A response
//! without a token passes unchanged.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::HeaderValue;

use crate::error::BoxError;

/// A bearer token as the value of an `Authorization` header ([RFC 6750 §2.1]).
///
/// The value is marked sensitive and `Debug` shows only the generation.
///
/// [RFC 6750 §2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
#[derive(Clone)]
pub struct BearerToken {
    header: HeaderValue,
    generation: u64,
}

/// A token with characters that no HTTP header can carry.
#[derive(Debug, thiserror::Error)]
#[error("the token has characters that an HTTP header cannot carry")]
pub struct InvalidToken;

/// Why a [`TokenSource`] has no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Only a new login helps. The text says what is wrong and what to do, and contains no secret.
    #[error("login required: {0}")]
    LoginRequired(String),
    /// A later attempt may succeed.
    #[error("no token to be had for now")]
    Unavailable(#[source] BoxError),
}

/// A source of tokens for one account.
///
/// # Cancel safety
///
/// Futures returned by both methods may be dropped at any time: an implementation whose refresh
/// must not be interrupted runs it in a task of its own.
pub trait TokenSource: Send + Sync + 'static {
    /// A token to send now. Ready at once while the source has a valid one.
    fn token(&self) -> TokenFuture;

    /// A token that replaces `stale`, which the upstream has just refused.
    ///
    /// Callers that name the same generation share one refresh; a caller whose `stale` has already
    /// been replaced gets the newer token at once. A source that cannot refresh, or that declines to
    /// because the upstream refuses new tokens as well, returns its current token: the same
    /// generation tells the caller that nothing changed.
    fn refresh(&self, stale: &BearerToken) -> TokenFuture;

    /// The upstream has accepted `token`, which [`refresh`](Self::refresh) returned for a request.
    ///
    /// Lets a source tell an upstream that refuses every token from one that ended a token before
    /// its time. Does nothing by default.
    fn accepted(&self, _token: &BearerToken) {}
}

/// The future of a [`TokenSource`]: usually ready at once, sometimes a wait.
#[must_use = "futures do nothing unless polled"]
pub struct TokenFuture(Inner);

enum Inner {
    Ready(Option<Result<BearerToken, TokenError>>),
    Wait(Pin<Box<dyn Future<Output = Result<BearerToken, TokenError>> + Send>>),
}

/// A token that never changes, such as an API key.
#[derive(Clone, Debug)]
pub struct StaticToken(BearerToken);

// === impl BearerToken ===

impl BearerToken {
    /// The token `token`, the `generation`-th of its source.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if `token` has bytes that a header value cannot carry.
    pub fn new(token: &str, generation: u64) -> Result<Self, InvalidToken> {
        let mut header =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| InvalidToken)?;
        header.set_sensitive(true);
        Ok(Self { header, generation })
    }

    /// The whole header value, `Bearer …`, marked sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// The number of this token at its source; a different number is a different token.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

// === impl TokenSource ===

impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    fn token(&self) -> TokenFuture {
        (**self).token()
    }

    fn refresh(&self, stale: &BearerToken) -> TokenFuture {
        (**self).refresh(stale)
    }

    fn accepted(&self, token: &BearerToken) {
        (**self).accepted(token);
    }
}

// === impl TokenFuture ===

impl TokenFuture {
    /// A future that is ready with `result`.
    pub fn ready(result: Result<BearerToken, TokenError>) -> Self {
        Self(Inner::Ready(Some(result)))
    }

    /// A future that waits for `future`.
    pub fn wait(
        future: impl Future<Output = Result<BearerToken, TokenError>> + Send + 'static,
    ) -> Self {
        Self(Inner::Wait(Box::pin(future)))
    }

    /// Takes the token if it is ready; afterwards the future must not be polled.
    pub(crate) fn take_ready(&mut self) -> Option<BearerToken> {
        match &mut self.0 {
            Inner::Ready(result @ Some(Ok(_))) => result.take()?.ok(),
            Inner::Ready(_) | Inner::Wait(_) => None,
        }
    }
}

impl Future for TokenFuture {
    type Output = Result<BearerToken, TokenError>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            #[expect(clippy::expect_used, reason = "the contract of Future")]
            Inner::Ready(result) => Poll::Ready(result.take().expect("polled after ready")),
            Inner::Wait(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for TokenFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenFuture")
    }
}

// === impl StaticToken ===

impl StaticToken {
    /// A source that always returns `token`.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if `token` has bytes that a header value cannot carry.
    pub fn new(token: &str) -> Result<Self, InvalidToken> {
        BearerToken::new(token, 0).map(Self)
    }
}

impl TokenSource for StaticToken {
    fn token(&self) -> TokenFuture {
        TokenFuture::ready(Ok(self.0.clone()))
    }

    fn refresh(&self, _stale: &BearerToken) -> TokenFuture {
        self.token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_part_of_the_token() {
        let token = BearerToken::new("canary-secret", 7).unwrap();
        assert_eq!(format!("{token:?}"), "BearerToken { generation: 7, .. }");
        assert_eq!(format!("{:?}", token.header()), "Sensitive");
        assert!(!format!("{:?}", StaticToken(token)).contains("canary"));
    }

    #[test]
    fn a_token_with_a_line_break_is_refused() {
        assert!(BearerToken::new("a\r\nb", 0).is_err());
    }
}
