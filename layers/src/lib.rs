//! Tower layers that make HTTP requests acceptable to a rate-limited upstream and send them at the
//! right moment.
//!
//! ```text
//! request ─► HeaderAlign ─► RetryOn429 ─► TokenRefresh ─► JitterThrottle ─► BearerAuth ─► client
//!            its headers    waits and     401: one        waits for its     the token
//!            and no others  tries again   refresh, one    turn              valid now
//!                                         replay
//! ```
//!
//! Each layer works alone and knows no other; the order matters all the same:
//!
//! - [`HeaderAlignLayer`] outside [`BearerAuthLayer`]: it strips `Authorization`.
//! - [`RetryOn429Layer`] outside [`JitterThrottleLayer`]: every attempt takes its turn.
//! - [`TokenRefreshLayer`] outside [`BearerAuthLayer`], and never without it: it replaces the token
//!   that layer used.
//! - [`JitterThrottleLayer`] outside [`BearerAuthLayer`]: a token read before the wait may be stale
//!   after it.
//!
//! The crate knows no configuration, no JSON, no provider, no HTTP client and no TLS. What a layer
//! needs from outside it takes as a trait or a value: a [`token::TokenSource`], a
//! [`retry_on_429::Classify`], a [`cooldown::Cooldown`], a
//! [`jitter_throttle::Quota`].
//!
//! # Examples
//!
//! The whole path once, with an API key and the default classification:
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use pacegate_layers::{
//!     BearerAuthLayer, HeaderAlignLayer, JitterThrottleLayer, RetryOn429Layer, TokenRefreshLayer,
//!     jitter_throttle::{Gate, Pacing},
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
//!     .layer(HeaderAlignLayer::default())
//!     .layer(RetryOn429Layer::default().cooldown(gate.clone()))
//!     .layer(TokenRefreshLayer::new(token.clone()))
//!     .layer(JitterThrottleLayer::new(gate))
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
pub mod cooldown;
pub mod error;
pub mod header_align;
pub mod jitter_throttle;
pub mod progress;
pub mod retry_on_429;
pub mod session;
pub mod token;
pub mod token_refresh;

pub use self::{
    bearer_auth::BearerAuthLayer, header_align::HeaderAlignLayer,
    jitter_throttle::JitterThrottleLayer, retry_on_429::RetryOn429Layer,
    token_refresh::TokenRefreshLayer,
};
