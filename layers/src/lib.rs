//! Tower layers for requests to a rate-limited upstream: pacing, retries, headers and tokens.
//!
//! ```text
//! request ─► RetryOn429 ─► TokenRefresh ─► JitterThrottle ─► HeaderAlign ─► BearerAuth ─► client
//!            waits and     401: one        waits for its     the headers    the token
//!            retries       refresh, one    turn              of the list    valid now
//!                          replay                            and no others
//! ```
//!
//! Each layer works alone and knows no other. Together they work in this order only:
//!
//! - [`RetryOn429Layer`] and [`TokenRefreshLayer`] outside [`JitterThrottleLayer`]: every attempt
//!   takes its turn, retries and replays too.
//! - [`RetryOn429Layer`] outside [`TokenRefreshLayer`]: a replay may be refused with 429 as well.
//! - [`HeaderAlignLayer`] and [`BearerAuthLayer`] inside [`JitterThrottleLayer`]: headers and token
//!   are set when the request leaves. A token that was read before the wait may be stale after it.
//! - [`BearerAuthLayer`] innermost: [`HeaderAlignLayer`] strips `Authorization`, and
//!   [`TokenRefreshLayer`] replaces the token that this layer used, so it does nothing without it.
//!
//! The crate knows no configuration, no JSON, no provider, no HTTP client and no TLS. A layer takes
//! what it needs from outside as a trait or a value: a [`token::TokenSource`], a
//! [`retry_on_429::Classify`], a [`pacing::Feedback`], a [`pacing::Ledger`].
//!
//! # Examples
//!
//! The whole path, with an API key and the default classification:
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use pacegate_layers::{
//!     BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
//!     pacing::{Gate, Pacing},
//!     token::StaticToken,
//! };
//! use rand::{SeedableRng, rngs::StdRng};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let token = StaticToken::new("sk-example")?;
//! let pacing = Pacing::new().min_interval(Duration::from_secs(1));
//! let gate = Gate::new(pacing, StdRng::seed_from_u64(1));
//!
//! let service = ServiceBuilder::new()
//!     .layer(RetryOn429Layer::default().feedback(gate.clone()))
//!     .layer(TokenRefreshLayer::new(token.clone()))
//!     .layer(JitterThrottleLayer::new(gate).feedback_from_outside())
//!     .layer(HeaderAlignLayer::default())
//!     .layer(BearerAuthLayer::new(token))
//!     .service(service_fn(|request: Request<Full<&'static [u8]>>| async move {
//!         assert_eq!(request.headers()["authorization"], "Bearer sk-example");
//!         Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
//!     }));
//!
//! let response = service.oneshot(Request::new(Full::new(&b"{}"[..]))).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```

pub mod bearer_auth;
pub mod context;
pub mod error;
pub mod header_align;
pub mod jitter_throttle;
pub mod pacing;
pub mod retry_on_429;
pub mod token;
pub mod token_refresh;

pub use self::{
    bearer_auth::BearerAuthLayer, header_align::HeaderAlignLayer,
    jitter_throttle::JitterThrottleLayer, retry_on_429::RetryOn429Layer,
    token_refresh::TokenRefreshLayer,
};
