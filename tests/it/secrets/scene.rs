//! The upstreams, and a config with every kind of secret for them.

use std::{fs, path::Path};

use pacegate::simulator::{Access, Behaviour, Leaf, Options, RefreshFault, Simulator, TlsOptions};
use tokio::net::TcpListener;

use super::CLIENT_KEY;

/// The upstreams behind it.
pub(super) struct Scene {
    pub(super) oauth: Simulator,
    pub(super) plain: Simulator,
    strict: Simulator,
    pub(super) tls: Simulator,
    untrusted: Simulator,
    /// Nobody listens there.
    closed: String,
}

// === impl Scene ===

impl Scene {
    pub(super) async fn start() -> Self {
        let start = async |options: Options| Simulator::start(options).await.unwrap();
        let oauth = Options {
            access: Access::Issued,
            oauth: Behaviour {
                refresh_once: true,
                refresh_faults: vec![
                    RefreshFault::BadJson,
                    RefreshFault::Failure,
                    RefreshFault::InvalidGrant,
                ],
                refresh_token: Some("canary-refresh-good".to_owned()),
                ..Behaviour::default()
            },
            ..Options::default()
        };
        let strict = Options {
            access: Access::Tokens(vec!["another key".to_owned()]),
            ..Options::default()
        };
        let over_tls = |leaf| Options {
            access: Access::AnyToken,
            tls: Some(TlsOptions {
                leaf,
                ..TlsOptions::default()
            }),
            ..Options::default()
        };
        let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            oauth: start(oauth).await,
            plain: start(Options::default()).await,
            strict: start(strict).await,
            tls: start(over_tls(Leaf::Good)).await,
            untrusted: start(over_tls(Leaf::SelfSigned)).await,
            closed: format!("http://{}", place.local_addr().unwrap()),
        }
    }

    /// The config and the files that it names.
    pub(super) fn write(&self, folder: &Path) {
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        put("ca.pem", self.tls.ca_pem().unwrap());
        put("client-key", CLIENT_KEY);
        put("file-key", "canary-file-key\n");
        for case in [
            "bad-json",
            "closed",
            "failure",
            "good",
            "refused",
            "untrusted",
        ] {
            put(&format!("oauth-{case}.json"), &credentials(case, "1"));
        }
        put(
            "oauth-wrong.json",
            &credentials("wrong", "\"canary-refresh\""),
        );
        let whole = credentials("torn", "1");
        put("oauth-torn.json", &whole[..whole.len() - 9]);
        put(
            "pacegate.toml",
            &[SERVER, &self.with_keys(), &self.with_files()].concat(),
        );
    }

    /// Upstreams with API keys.
    fn with_keys(&self) -> String {
        let by_env = "env = \"KEY_OF_TEST\"";
        let by_file = "file = \"file-key\"";
        let closed = format!("{}/v1", self.closed);
        [
            ("closed", closed.as_str(), by_env, ""),
            ("h2", &self.tls.base_url(), by_env, ""),
            ("plain", &self.plain.base_url(), by_file, ""),
            ("proxied", "https://upstream.invalid/v1", by_env, ""),
            ("queue", &self.plain.base_url(), by_file, QUEUE),
            ("strict", &self.strict.base_url(), by_env, ""),
            ("untrusted", &self.untrusted.base_url(), by_file, ""),
        ]
        .map(|(name, base_url, key, throttle)| {
            let upstream = upstream(name, base_url, throttle);
            format!("{upstream}[upstream.credentials]\nkind = \"api-key\"\nkey = {{ {key} }}\n")
        })
        .concat()
    }

    /// Upstreams with credentials files, each of which is in another kind of trouble.
    fn with_files(&self) -> String {
        let oauth = self.oauth.origin();
        [
            ("bad-json", oauth.as_str()),
            ("closed", &self.closed),
            ("failure", &oauth),
            ("good", &oauth),
            ("missing", &oauth),
            ("refused", &oauth),
            ("torn", &oauth),
            ("untrusted", &self.untrusted.origin()),
            ("wrong", &oauth),
        ]
        .map(|(case, origin)| {
            let name = format!("oauth-{case}");
            let upstream = upstream(&name, &self.oauth.base_url(), "");
            format!(
                r#"{upstream}
[upstream.credentials]
kind = "oauth"
file = "{name}.json"
device-code-url = "{origin}/api/v1/oauth2/device/code"
token-url = "{origin}/api/v1/oauth2/token"
client-id = "test"
scope = "test"
resource-hosts = []
"#
            )
        })
        .concat()
    }
}

const SERVER: &str = r#"
listen = "127.0.0.1:0"
max-body = "16KiB"
log = { format = "json" }
client-keys = [{ file = "client-key" }]
"#;

const QUEUE: &str = r#"
min-interval = "300ms"
max-queue = 1
"#;

/// A credentials file's content; its token has expired.
pub(super) fn credentials(case: &str, expiry: &str) -> String {
    format!(
        r#"{{"access_token":"canary-access-{case}","token_type":"Bearer","refresh_token":"canary-refresh-{case}","expiry_date":{expiry}}}"#
    )
}

/// An upstream without its credentials; `more` belongs to its throttle.
fn upstream(name: &str, base_url: &str, more: &str) -> String {
    format!(
        r#"
[[upstream]]
name = "{name}"
preset = "local"
base-url = "{base_url}"
dialect = "openai"
pipeline = ["retry-on-429", "token-refresh", "jitter-throttle", "header-align", "bearer-auth"]
tls = {{ ca-file = "ca.pem" }}
[upstream.retry-on-429]
max-retries = 0
[upstream.jitter-throttle]
jitter = "0s..0s"
{more}"#
    )
}

/// The same where nobody is asked, over TLS or at all.
pub(super) fn idle_upstream(name: &str) -> String {
    upstream(name, "http://127.0.0.1:9/v1", "").replace("tls = { ca-file = \"ca.pem\" }\n", "")
}
