//! The config of each gateway: connections are kept alive, nothing is buffered, no log is written.

use std::{fs, net::SocketAddr, path::Path};

use super::gateway::{Scheme, TestBed};

pub(crate) fn nginx(bed: &TestBed, scheme: Scheme, listen: SocketAddr, bulk: SocketAddr) -> String {
    let folder = bed.folder.display();
    let upstream = bed.upstream(scheme);
    let (scheme, tls) = match scheme {
        Scheme::Http => ("http", String::new()),
        Scheme::Https | Scheme::Http2 => (
            "https",
            format!(
                "proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on; \
                 proxy_ssl_trusted_certificate {};",
                bed.ca().display()
            ),
        ),
    };
    let server = |listen: SocketAddr, more: &str| {
        format!(
            "server {{ listen {listen}; location / {{ {more} proxy_pass {scheme}://up; \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; \
             proxy_request_buffering off; {tls} }} }}\n"
        )
    };
    let servers = server(listen, "") + &server(bulk, "proxy_buffer_size 64k; proxy_buffers 8 64k;");
    let pid = listen.port();
    format!(
        "daemon off; worker_processes 1; pid {folder}/{pid}.pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0; tcp_nodelay on;\n\
         client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         upstream up {{ server {upstream}; keepalive 512; keepalive_requests 100000000; }}\n\
         {servers}}}\n"
    )
}

pub(crate) fn haproxy(bed: &TestBed, scheme: Scheme, listen: SocketAddr) -> String {
    let upstream = bed.upstream(scheme);
    let tls = match scheme {
        Scheme::Http => String::new(),
        Scheme::Https | Scheme::Http2 => format!(
            "ssl verify required sni str(localhost) verifyhost localhost ca-file {}",
            bed.ca().display()
        ),
    };
    format!(
        "global\n nbthread 1\n maxconn 9000\n\
         defaults\n mode http\n timeout connect 10s\n timeout client 300s\n timeout server 300s\n \
         http-reuse always\n option http-keep-alive\n option http-no-delay\n\
         frontend f\n bind {listen}\n default_backend b\n\
         backend b\n server s {upstream} {tls}\n"
    )
}

/// Any number of requests in flight.
pub(crate) const WIDE_OPEN: &str = "concurrency = 100000";

/// The built-in config without pacing delays, with the upstreams' HTTP `version` and more `settings`
/// of the gate.
pub(crate) fn pacegate(
    urls: &[String],
    version: &str,
    layers: &[&str],
    settings: &str,
    folder: &Path,
) -> String {
    let folder = folder.display();
    let has = |layer: &str| layers.contains(&layer);
    let mut config =
        String::from("log = { level = \"warn\" }\nlimits = { max-connections = 20000 }\n");
    for (number, url) in urls.iter().enumerate() {
        let model = if number == 0 {
            "m".to_owned()
        } else {
            format!("m{number}")
        };
        config += &format!(
            "[[upstream]]\nname = \"u{number}\"\npreset = \"qwen-oauth\"\nbase-url = \"{url}/v1\"\n\
             models = [{{ id = \"{model}\" }}]\npipeline = {layers:?}\nhttp = \"{version}\"\n\
             tls = {{ roots = \"bundled\", ca-file = \"{folder}/ca.pem\" }}\n\
             [upstream.credentials]\n"
        );
        config += &if has("bearer-auth") {
            format!("kind = \"oauth\"\nfile = \"{folder}/credentials.json\"\n")
        } else {
            "kind = \"none\"\n".to_owned()
        };
        if has("jitter-throttle") {
            config += &format!(
                "[upstream.jitter-throttle]\nmin-interval = \"0s\"\njitter = \"0s..0s\"\nquotas = []\n\
                 max-queue = 100000\n{settings}\n"
            );
        }
    }
    config
}

/// Credentials with a token that is valid for the whole run.
pub(crate) fn write_credentials(folder: &Path) -> anyhow::Result<()> {
    let text = r#"{"access_token":"a-token-of-a-usual-length-0123456789","refresh_token":"r","token_type":"Bearer","expiry_date":99999999999999}"#;
    Ok(fs::write(folder.join("credentials.json"), text)?)
}
