//! Settings of `jitter-throttle`.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{
    BusyJitter, JitterThrottleSettings, Per, QueueOrder, Quota,
    cursor::{Cursor, TableReader},
    data::Folder,
    tree::Node,
    units,
};

/// The key of the settings.
const TABLE: &str = "jitter-throttle";

/// Merges the profile that `upstream` names with the keys beside its name, which win.
pub(super) fn expand_profile(upstream: &mut Node) {
    let Some(table) = upstream.get_mut(TABLE) else {
        return;
    };
    let profile = table.get("profile").and_then(Node::as_str);
    // The reader reports an unknown profile and its place.
    if let Some(Ok(mut profile)) = profile.and_then(|name| Folder::Throttle.read(name)) {
        profile.merge(table.clone());
        *table = profile;
    }
}

/// Reads the settings.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<JitterThrottleSettings> {
    let mut table = cursor.table()?;
    let profiles: Vec<_> = Folder::Throttle
        .names()
        .into_iter()
        .map(|name| (name, name))
        .collect();
    let profile = table
        .required("profile")
        .and_then(|profile| profile.choice(&profiles));
    let min_interval = table
        .required("min-interval")
        .and_then(|interval| interval.duration());
    let jitter = table.required("jitter").and_then(|range| jitter(&range));
    let busy = table.optional_with("busy", busy);
    let idle_jitter = table.required("idle-jitter").and_then(|idle| idle.bool());
    let quotas = table
        .required("quotas")
        .and_then(|quotas| quotas.list(quota));
    let concurrency = table.optional_with("concurrency", Cursor::count);
    let max_queue = table
        .required("max-queue")
        .and_then(|most| most.integer(0, 1_000_000));
    let max_wait = table.required("max-wait").and_then(|wait| wait.duration());
    let order = table
        .required("order")
        .and_then(|order| order.choice(&[("fair", QueueOrder::Fair), ("fifo", QueueOrder::Fifo)]));
    table.finish();

    Some(JitterThrottleSettings {
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

fn busy(cursor: &Cursor<'_>) -> Option<BusyJitter> {
    let mut table = cursor.table()?;
    let from = table.required("from").and_then(|from| from.count());
    let within = table
        .required("within")
        .and_then(|within| within.duration());
    let range = table.required("jitter").and_then(|range| jitter(&range));
    table.finish();
    Some(BusyJitter {
        from: from?,
        within: within?,
        jitter: range?,
    })
}

fn quota(cursor: &Cursor<'_>) -> Option<Quota> {
    let mut table = cursor.table()?;
    let requests = table
        .required("requests")
        .and_then(|requests| requests.count());
    let per = table
        .required("per")
        .and_then(|word| per(&word, &mut table));
    table.finish();
    Some(Quota {
        requests: requests?,
        per: per?,
    })
}

/// Only calendar periods have a zone, and only months an anchor day.
fn per(word: &Cursor<'_>, table: &mut TableReader<'_>) -> Option<Per> {
    Some(match word.str()? {
        "day" => Per::Day { zone: zone(table)? },
        "week" => Per::Week { zone: zone(table)? },
        "month" => Per::Month {
            zone: zone(table)?,
            // Every month has 28 days.
            anchor_day: table
                .optional_with("anchor-day", |day| day.integer(1, 28))?
                .unwrap_or(1),
        },
        _ => Per::Window(word.parse(
            "a duration above 0s, or \"day\", \"week\", \"month\"",
            "60s",
            |text| units::duration(text).filter(|window| !window.is_zero()),
        )?),
    })
}

fn zone(table: &mut TableReader<'_>) -> Option<String> {
    let known = |name: &str| TimeZone::get(name).is_ok().then(|| name.to_owned());
    let zone = table.optional_with("zone", |zone| {
        zone.parse("the name of a time zone", "Asia/Shanghai", known)
    })?;
    Some(zone.unwrap_or_else(|| "UTC".into()))
}
