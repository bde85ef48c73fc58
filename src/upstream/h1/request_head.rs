//! The head of a request, as it goes over the wire.

use std::mem::replace;

use http::Request;
use pacegate_layers::header_align::{Part, fields};

use crate::upstream::{proxy::Route, target::Target};

/// What most heads fit into, and the allocator keeps at hand.
const USUAL_SIZE: usize = 1024;

/// The head of `request` to `target`, whose body has `length` bytes.
///
/// The fields are the [`fields`] of the request, in their order. `host` and `content-length`, where they are there,
/// keep their places and are replaced, else they follow the others.
pub(super) fn write<B>(request: &Request<B>, target: &Target, length: usize) -> Vec<u8> {
    let proxy = match &target.connections.connector.route {
        Route::Forward(proxy) => Some(proxy),
        Route::Direct | Route::Tunnel(_) => None,
    };
    let host = target.base.host.as_bytes();
    let mut head = Vec::with_capacity(USUAL_SIZE);
    head.extend_from_slice(request.method().as_str().as_bytes());
    head.push(b' ');
    if proxy.is_some() {
        // The whole URL: what is forwarded is plain HTTP.
        head.extend_from_slice(b"http://");
        head.extend_from_slice(host);
    }
    target.base.write_path(request.uri(), &mut head);
    head.extend_from_slice(b" HTTP/1.1\r\n");

    let (mut host_there, mut length_there) = (false, false);
    let digits = length.to_string();
    fields(request).parts(|part| {
        let (name, value) = match part {
            Part::Lines(lines) => return head.extend_from_slice(lines),
            Part::Field(name, value) => (name.as_str(), value.as_bytes()),
        };
        match name {
            "content-length" if replace(&mut length_there, true) => {}
            "content-length" => write_field(name, digits.as_bytes(), &mut head),
            "host" if replace(&mut host_there, true) => {}
            "host" => write_field(name, host, &mut head),
            // The body is complete, so it ends by its length.
            "transfer-encoding" => {}
            name => write_field(name, value, &mut head),
        }
    });
    if length > 0 && !length_there {
        write_field("content-length", digits.as_bytes(), &mut head);
    }
    if !host_there {
        write_field("host", host, &mut head);
    }
    if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        write_field("proxy-authorization", authorization.as_bytes(), &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn write_field(name: &str, value: &[u8], head: &mut Vec<u8>) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}
