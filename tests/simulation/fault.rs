//! Ways to break a promise, by wiring the real gate wrongly.

use std::time::Duration;

use pacegate_layers::jitter_throttle::{Order, Pacing};

use crate::{check::Promise, scenario::Scenario};

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    CancelTakesASlot,
    ChildrenAreStrangers,
    NoBound,
    NoConcurrencyLimit,
    NoJitter,
    NoOrder,
    NoPause,
    NoProbe,
    NoShrink,
    NoWakeOnDrop,
    NoWindow,
    PermitLeaks,
    Race,
    RetryQueuesAnew,
    ShortGap,
    ShortPause,
    ShortWindow,
    TooSlow,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::CancelTakesASlot,
        Self::ChildrenAreStrangers,
        Self::NoBound,
        Self::NoConcurrencyLimit,
        Self::NoJitter,
        Self::NoOrder,
        Self::NoPause,
        Self::NoProbe,
        Self::NoShrink,
        Self::NoWakeOnDrop,
        Self::NoWindow,
        Self::PermitLeaks,
        Self::Race,
        Self::RetryQueuesAnew,
        Self::ShortGap,
        Self::ShortPause,
        Self::ShortWindow,
        Self::TooSlow,
    ];

    /// What it may be found as: whichever of them a scenario shows first.
    pub(crate) fn breaks(self) -> &'static [Promise] {
        use Promise as P;

        match self {
            Self::CancelTakesASlot => &[P::Accounting, P::WorkConserving, P::Ends],
            Self::ChildrenAreStrangers | Self::NoOrder => &[P::Order],
            Self::NoBound => &[P::Bound],
            Self::NoConcurrencyLimit => &[P::Concurrency],
            Self::NoJitter | Self::ShortGap => &[P::Gap],
            Self::NoPause | Self::ShortPause => &[P::Closing],
            Self::NoProbe => &[P::Probe],
            Self::NoShrink => &[P::Shrink],
            Self::NoWakeOnDrop => &[P::Ends, P::WorkConserving, P::Bound],
            Self::NoWindow | Self::ShortWindow => &[P::Window, P::Shrink],
            Self::PermitLeaks => &[P::Ends, P::WorkConserving, P::Probe],
            Self::Race => &[
                P::Bound,
                P::Gap,
                P::Accounting,
                P::Window,
                P::Concurrency,
                P::Order,
                P::Closing,
                P::WorkConserving,
            ],
            Self::RetryQueuesAnew => &[P::Order, P::Bound],
            Self::TooSlow => &[P::WorkConserving],
        }
    }

    /// The settings of a gate that has the fault.
    pub(crate) fn pacing(self, scenario: &Scenario) -> Pacing {
        let pacing = scenario.pacing();
        match self {
            Self::NoBound => pacing
                .max_queue(usize::MAX)
                .max_wait(Duration::from_secs(86_400)),
            Self::NoConcurrencyLimit => pacing.concurrency(None),
            Self::NoJitter => pacing.jitter(Duration::ZERO..=Duration::ZERO).unwrap(),
            Self::NoOrder => pacing.order(match scenario.order {
                Order::Fair => Order::Fifo,
                Order::Fifo => Order::Fair,
            }),
            Self::ShortGap => pacing.min_interval(scenario.min_interval / 2),
            Self::TooSlow => pacing.min_interval(scenario.min_interval * 3),
            _ => pacing,
        }
    }
}
