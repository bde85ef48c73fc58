//! Dialects: files that say what an upstream's answers mean.

use http::StatusCode;

use super::{Dialect, DialectRule, Verdict, cursor::Cursor, data::Folder, error::suggestion};

/// Reads the dialect whose name stands here.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Dialect> {
    let name = cursor.str()?;
    match Folder::Dialects.read(name) {
        None => cursor.refuse(
            format!("unknown dialect \"{name}\""),
            suggestion(name, &Folder::Dialects.names()),
        ),
        Some(Err(problem)) => {
            cursor.scope.note(problem);
            None
        }
        Some(Ok(node)) => dialect(name, &Cursor::root(&node, cursor.scope)),
    }
}

fn dialect(name: &str, cursor: &Cursor<'_>) -> Option<Dialect> {
    let mut fields = cursor.fields()?;
    let refresh_on = fields
        .required("refresh-on")
        .and_then(|statuses| statuses.list(status));
    let rules = fields.required("rule").and_then(|rules| rules.list(rule));
    fields.finish();
    Some(Dialect {
        name: name.into(),
        rules: rules?,
        refresh_on: refresh_on?,
    })
}

fn rule(cursor: &Cursor<'_>) -> Option<DialectRule> {
    let mut fields = cursor.fields()?;
    let statuses = fields.maybe("status", |statuses| statuses.list(status));
    let code = fields.maybe("code", Cursor::strings);
    let message = fields.maybe("message", Cursor::string);
    let with_retry_after = fields.maybe("with-retry-after", Cursor::bool);
    let verdict = fields
        .required("verdict")
        .and_then(|verdict| verdict.choice(&[("pass", Verdict::Pass), ("retry", Verdict::Retry)]));
    fields.finish();
    Some(DialectRule {
        status: statuses?.unwrap_or_default(),
        code: code?.unwrap_or_default(),
        message: message?,
        with_retry_after: with_retry_after?.unwrap_or_default(),
        verdict: verdict?,
    })
}

fn status(cursor: &Cursor<'_>) -> Option<StatusCode> {
    StatusCode::from_u16(cursor.integer(100, 599)?).ok()
}
