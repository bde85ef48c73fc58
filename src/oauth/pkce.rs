//! Proof that the client that polls for a token is the one that began the login ([RFC 7636], method
//! S256).
//!
//! [RFC 7636]: https://www.rfc-editor.org/rfc/rfc7636

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::CryptoRng;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The secret of one login.
pub struct Verifier(SecretString);

/// As much as RFC 7636 §4.1 recommends: 43 characters of base64url.
const RANDOM_BYTES: usize = 32;

// === impl Verifier ===

impl Verifier {
    /// A new verifier, drawn from `random`.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; RANDOM_BYTES];
        random.fill_bytes(&mut bytes);
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// The challenge for the first request; it does not reveal the verifier.
    pub fn challenge(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.expose()))
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.0
    }

    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_appendix_b() {
        let verifier = Verifier("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into());
        assert_eq!(
            verifier.challenge(),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        assert_eq!(format!("{verifier:?}"), "Verifier { .. }");
    }

    #[test]
    fn no_two_verifiers_are_equal_and_each_has_43_characters() {
        let [one, other] = [(); 2].map(|()| Verifier::generate(&mut rand::rng()));
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), other.expose());
    }
}
