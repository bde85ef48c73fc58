//! Settings of `jitter-throttle`.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{
    Busy, JitterThrottle, Order, Per, Quota,
    cursor::{Cursor, Fields},
    data::Folder,
    tree::Node,
    units,
};

/// The table of a layer's settings.
const TABLE: &str = "jitter-throttle";

/// Puts what the profile named in `upstream` says under the keys that stand beside the name.
pub(super) fn expand_profile(upstream: &mut Node) {
    let Some(table) = upstream.get_mut(TABLE) else {
        return;
    };
    let profile = table.get("profile").and_then(Node::as_str);
    // The reader names an unknown profile, and where it stands.
    if let Some(Ok(mut profile)) = profile.and_then(|name| Folder::Throttle.read(name)) {
        profile.merge(table.clone());
        *table = profile;
    }
}

/// Reads the settings.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<JitterThrottle> {
    let mut fields = cursor.fields()?;
    let profiles: Vec<_> = Folder::Throttle
        .names()
        .into_iter()
        .map(|name| (name, name))
        .collect();
    let profile = fields
        .required("profile")
        .and_then(|profile| profile.choice(&profiles));
    let min_interval = fields
        .required("min-interval")
        .and_then(|interval| interval.duration());
    let jitter = fields.required("jitter").and_then(|range| jitter(&range));
    let busy = fields.maybe("busy", busy);
    let idle_jitter = fields.required("idle-jitter").and_then(|idle| idle.bool());
    let quotas = fields
        .required("quotas")
        .and_then(|quotas| quotas.list(quota));
    let concurrency = fields.maybe("concurrency", Cursor::count);
    let max_queue = fields
        .required("max-queue")
        .and_then(|most| most.integer(0, 1_000_000));
    let max_wait = fields.required("max-wait").and_then(|wait| wait.duration());
    let order = fields
        .required("order")
        .and_then(|order| order.choice(&[("fair", Order::Fair), ("fifo", Order::Fifo)]));
    fields.finish();

    Some(JitterThrottle {
        profile: profile?.into(),
        min_interval: min_interval?,
        jitter: jitter?,
        busy: busy?,
        idle_jitter: idle_jitter?,
        quotas: quotas?,
        concurrency: concurrency?,
        max_queue: max_queue?,
        max_wait: max_wait?,
        order: order?,
    })
}

fn jitter(cursor: &Cursor<'_>) -> Option<(Duration, Duration)> {
    let (from, to) = cursor.parse(
        "a range of durations with their units",
        "500ms..1500ms",
        units::range,
    )?;
    if from > to {
        let text = cursor.str()?;
        let turned = text
            .split_once("..")
            .map(|(from, to)| format!("{to}..{from}"));
        return cursor.expected(
            "a range with the smaller end first",
            format!("write \"{}\"", turned.unwrap_or_default()),
        );
    }
    Some((from, to))
}

fn busy(cursor: &Cursor<'_>) -> Option<Busy> {
    let mut fields = cursor.fields()?;
    let from = fields.required("from").and_then(|from| from.count());
    let within = fields
        .required("within")
        .and_then(|within| within.duration());
    let range = fields.required("jitter").and_then(|range| jitter(&range));
    fields.finish();
    Some(Busy {
        from: from?,
        within: within?,
        jitter: range?,
    })
}

fn quota(cursor: &Cursor<'_>) -> Option<Quota> {
    let mut fields = cursor.fields()?;
    let requests = fields
        .required("requests")
        .and_then(|requests| requests.count());
    let per = fields
        .required("per")
        .and_then(|word| per(&word, &mut fields));
    fields.finish();
    Some(Quota {
        requests: requests?,
        per: per?,
    })
}

/// Only calendar times have a zone, and only a month begins on a day of one's own.
fn per(word: &Cursor<'_>, fields: &mut Fields<'_>) -> Option<Per> {
    Some(match word.str()? {
        "day" => Per::Day {
            zone: zone(fields)?,
        },
        "week" => Per::Week {
            zone: zone(fields)?,
        },
        "month" => Per::Month {
            zone: zone(fields)?,
            // Every month has 28 days.
            anchor_day: fields
                .maybe("anchor-day", |day| day.integer(1, 28))?
                .unwrap_or(1),
        },
        _ => Per::Window(word.parse(
            "a duration above 0s, or \"day\", \"week\", \"month\"",
            "60s",
            |text| units::duration(text).filter(|window| !window.is_zero()),
        )?),
    })
}

fn zone(fields: &mut Fields<'_>) -> Option<String> {
    let known = |name: &str| TimeZone::get(name).is_ok().then(|| name.to_owned());
    let zone = fields.maybe("zone", |zone| {
        zone.parse("the name of a time zone", "Asia/Shanghai", known)
    })?;
    Some(zone.unwrap_or_else(|| "UTC".into()))
}
