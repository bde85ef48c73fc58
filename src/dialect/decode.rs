//! Decodes compressed response bodies, as far as they have to be read.

use std::{borrow::Cow, io::Read};

use brotli_decompressor::Decompressor;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

/// An error document is a few KiB; the rest of a larger one is not read.
const MAX_DECODED: u64 = 64 * 1024;

/// The buffer size of the brotli decoder.
const BUFFER: usize = 4096;

/// The beginning of `body`, decoded if its content coding is known. The bytes for the client stay
/// unchanged.
pub(crate) fn decoded_prefix<'a>(headers: &HeaderMap, body: &'a [u8]) -> Cow<'a, [u8]> {
    let coding = headers.get(header::CONTENT_ENCODING);
    let coding = coding.and_then(|coding| coding.to_str().ok()).unwrap_or("");
    let reader: Box<dyn Read + 'a> = match coding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Box::new(GzDecoder::new(body)),
        "br" => Box::new(Decompressor::new(body, BUFFER)),
        "deflate" => Box::new(ZlibDecoder::new(body)),
        _ => return Cow::Borrowed(body),
    };
    let mut decoded = Vec::new();
    // A beginning ends somewhere in the data; the output up to there is valid.
    let _cut_off = reader.take(MAX_DECODED).read_to_end(&mut decoded);
    if decoded.is_empty() {
        // The body is not in the coding that the header names.
        return Cow::Borrowed(body);
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn headers(coding: &'static str) -> HeaderMap {
        let value = http::HeaderValue::from_static(coding);
        HeaderMap::from_iter([(header::CONTENT_ENCODING, value)])
    }

    pub(in super::super) fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn decodes_gzip_deflate_and_brotli_and_leaves_the_rest() {
        // RFC 7932: an uncompressed block of the nine bytes, then an empty last one.
        let brotli = [&[0x80, 0x00, 0x10][..], b"slow down", &[0x03]].concat();
        assert_eq!(*decoded_prefix(&headers("br"), &brotli), *b"slow down");
        assert_eq!(
            *decoded_prefix(&headers("GZIP"), &gzip(b"slow down")),
            *b"slow down"
        );
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"slow down").unwrap();
        let deflated = encoder.finish().unwrap();
        assert_eq!(
            *decoded_prefix(&headers("deflate"), &deflated),
            *b"slow down"
        );
        assert_eq!(*decoded_prefix(&headers("br"), b"?"), *b"?");
        assert_eq!(*decoded_prefix(&HeaderMap::new(), b"{}"), *b"{}");
        assert_eq!(*decoded_prefix(&headers("gzip"), b"no gzip"), *b"no gzip");
    }

    #[test]
    fn decodes_a_prefix_and_limits_its_size() {
        let text: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
        let whole = gzip(&text);
        let half = decoded_prefix(&headers("gzip"), &whole[..whole.len() / 2]).into_owned();
        assert!(!half.is_empty() && text.starts_with(&half));
        let bomb = gzip(&vec![0; 100_000_000]);
        assert_eq!(decoded_prefix(&headers("gzip"), &bomb).len(), 64 * 1024);
    }
}
