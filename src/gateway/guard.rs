//! Who may talk: every check that needs only a request's head.
//!
//! A local port is open to every program and every web page on the machine. A page can name any
//! path and send some kinds of body, but it cannot choose `Host` (which gives a rebound name away),
//! cannot leave out `Origin`, and cannot send JSON without a preflight that nobody answers.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderMap, Method, Request, header, request::Parts};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tower::{BoxError, filter::Predicate};

mod denied;

pub(super) use self::denied::Denied;

use super::{
    route::{HEALTHZ, READYZ},
    target,
    wire::{REFUSED_AS, Violation},
};
use crate::config::{Config, Listen};

/// Lets a request pass or says why not.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    hosts: Vec<String>,
    origins: Vec<String>,
    keys: Vec<SecretString>,
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = vec!["localhost".to_owned()];
        let unbracketed = |host: &String| host.trim_matches(['[', ']']).to_owned();
        hosts.extend(config.allowed_hosts.iter().map(unbracketed));
        if let Listen::Tcp(address) = config.listen
            && !address.ip().is_unspecified()
        {
            hosts.push(address.ip().to_string());
        }
        Self(Arc::new(Rules {
            hosts,
            origins: config.allowed_origins.clone(),
            keys: config.client_keys.clone(),
        }))
    }

    fn check(&self, head: &Parts) -> Result<(), Denied> {
        if let Some(which) = head.headers.get(REFUSED_AS) {
            let violation = Violation::from_stand_in(which.as_bytes());
            return Err(violation.map_or(Denied::Method, Denied::Malformed));
        }
        self.check_host(head)?;
        self.check_origin(&head.headers)?;
        check_method(&head.method)?;
        if !target::is_plain(&head.uri) {
            return Err(Denied::Target);
        }
        // A probe has no key and learns nothing.
        if !matches!(head.uri.path(), HEALTHZ | READYZ) {
            self.check_key(&head.headers)?;
        }
        if head.method == Method::POST && !is_json(&head.headers) {
            return Err(Denied::ContentType);
        }
        Ok(())
    }

    fn check_host(&self, head: &Parts) -> Result<(), Denied> {
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Denied::HostMissing);
        };
        if self.answers_for(host.as_bytes()) {
            Ok(())
        } else {
            Err(Denied::Host)
        }
    }

    /// Reads `Host` as what it should be and nothing more: a name or an address, perhaps a port.
    fn answers_for(&self, host: &[u8]) -> bool {
        let Ok(host) = str::from_utf8(host) else {
            return false;
        };
        let (name, rest) = match host.strip_prefix('[') {
            None => host.split_at(host.find(':').unwrap_or(host.len())),
            Some(inner) => match inner.split_once(']') {
                Some((address, rest)) if address.parse::<Ipv6Addr>().is_ok() => (address, rest),
                _ => return false,
            },
        };
        if !(rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)) {
            return false;
        }
        if let Ok(address) = name.parse::<IpAddr>() {
            // An IPv6 address without brackets was cut at its first colon, and is none here.
            return address.is_loopback() || self.lists(name);
        }
        self.lists(name)
    }

    fn lists(&self, name: &str) -> bool {
        let mut hosts = self.0.hosts.iter();
        hosts.any(|known| known.eq_ignore_ascii_case(name))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => {}
            (Some(origin), None) if self.is_listed(origin.as_bytes()) => return Ok(()),
            _ => return Err(Denied::Origin),
        }
        // A browser's word on who asks, in requests that carry no Origin. A page of ours does not
        // exist, but neither does another one that could say it were.
        let mut sites = headers.get_all("sec-fetch-site").iter();
        if sites.all(|site| matches!(site.as_bytes(), b"none" | b"same-origin")) {
            Ok(())
        } else {
            Err(Denied::Origin)
        }
    }

    fn is_listed(&self, origin: &[u8]) -> bool {
        let mut origins = self.0.origins.iter();
        origins.any(|known| known.as_bytes() == origin)
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Denied> {
        if self.0.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_first_chunk::<7>())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key);
        let sent = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        let sent = sent.ok_or(Denied::ClientKey)?;
        // Compares with all of them in constant time, so that the time says nothing.
        let matches = self.0.keys.iter().fold(0, |found, key| {
            found | key.expose_secret().as_bytes().ct_eq(sent).unwrap_u8()
        });
        if matches == 1 {
            Ok(())
        } else {
            Err(Denied::ClientKey)
        }
    }
}

impl<B> Predicate<Request<B>> for Guard {
    type Request = Request<B>;

    fn check(&mut self, request: Request<B>) -> Result<Request<B>, BoxError> {
        let (mut head, body) = request.into_parts();
        Guard::check(self, &head)?;
        if !self.0.keys.is_empty() {
            // Ours, and nobody else's business.
            head.headers.remove(header::AUTHORIZATION);
            head.headers.remove("x-api-key");
        }
        Ok(Request::from_parts(head, body))
    }
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

/// Any but those for proxies and, in a browser's hands, for asking what a web page may do.
fn check_method(method: &Method) -> Result<(), Denied> {
    match *method {
        Method::CONNECT | Method::TRACE => Err(Denied::Method),
        Method::OPTIONS => Err(Denied::Preflight),
        _ => Ok(()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    kind.to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests;
