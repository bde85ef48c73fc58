//! The requests of a coding agent, with the structure and times of recordings of OpenCode.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};

use super::pattern::Request;

/// Delay of the main request of a first prompt after the one for a title.
const MAIN_AFTER_TITLE: Duration = Duration::from_micros(700);

/// Delay of a sub-agent's first request after the response that starts it, in ms.
const SUB_AGENTS: RangeInclusive<u64> = 180..=960;

/// Run time of a tool, in ms.
const TOOL: RangeInclusive<u64> = 100..=260;

/// Delay of a window's first request, in ms.
const SESSIONS_APART: RangeInclusive<u64> = 0..=22;

/// Pause of the user before the next prompt, in ms.
const READING: RangeInclusive<u64> = 10_000..=60_000;

/// Requests after the first, of a sub-agent and of a window without sub-agents.
const TOOL_STEPS: usize = 4;

/// Windows beside the one with sub-agents.
const OTHER_WINDOWS: usize = 4;

/// One prompt in each window, one of which has `agents` sub-agents, and more prompts until there
/// are at least `wanted` requests.
pub(super) fn prompts(agents: usize, wanted: Option<usize>, rng: &mut StdRng) -> Vec<Request> {
    let mut prompts = Prompts {
        requests: Vec::new(),
        sessions: 0,
        rng,
    };
    let windows: Vec<_> = (0..=OTHER_WINDOWS).map(|_| prompts.session()).collect();
    let mut latest = vec![None; windows.len()];
    loop {
        for (number, (window, latest)) in windows.iter().zip(&mut latest).enumerate() {
            let first = prompts.open(window, *latest);
            *latest = Some(if number == 0 {
                prompts.delegate(window, first, agents)
            } else {
                prompts.steps(window, None, first)
            });
        }
        if wanted.is_none_or(|wanted| prompts.requests.len() >= wanted) {
            return prompts.requests;
        }
    }
}

/// Builds the requests of agents.
struct Prompts<'a> {
    requests: Vec<Request>,
    sessions: usize,
    rng: &'a mut StdRng,
}

// === impl Prompts ===

impl Prompts<'_> {
    /// The first request of a prompt, with one for a title if it is the first prompt.
    fn open(&mut self, window: &Arc<str>, latest: Option<usize>) -> usize {
        if let Some(latest) = latest {
            let pause = self.pause(&READING);
            return self.push(window, None, vec![latest], pause);
        }
        let start = self.pause(&SESSIONS_APART);
        self.push(window, None, Vec::new(), start);
        self.push(window, None, Vec::new(), start + MAIN_AFTER_TITLE)
    }

    /// Sub-agents that start after `first`, and the request that uses their results.
    fn delegate(&mut self, window: &Arc<str>, first: usize, agents: usize) -> usize {
        let last: Vec<_> = (0..agents)
            .map(|_| {
                let agent = self.session();
                let pause = self.pause(&SUB_AGENTS);
                let main = self.push(&agent, Some(window), vec![first], pause);
                self.steps(&agent, Some(window), main)
            })
            .collect();
        let pause = self.pause(&TOOL);
        self.push(window, None, last, pause)
    }

    /// One request after each tool call.
    fn steps(&mut self, session: &Arc<str>, parent: Option<&Arc<str>>, first: usize) -> usize {
        (0..TOOL_STEPS).fold(first, |before, _| {
            let pause = self.pause(&TOOL);
            self.push(session, parent, vec![before], pause)
        })
    }

    fn push(
        &mut self,
        session: &Arc<str>,
        parent: Option<&Arc<str>>,
        after: Vec<usize>,
        pause: Duration,
    ) -> usize {
        self.requests.push(Request {
            after,
            pause,
            session: Arc::clone(session),
            parent: parent.cloned(),
        });
        self.requests.len() - 1
    }

    fn session(&mut self) -> Arc<str> {
        self.sessions += 1;
        format!("s{}", self.sessions).into()
    }

    fn pause(&mut self, millis: &RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(millis.clone()))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_prompt_is_a_title_a_main_request_and_sub_agents_that_work_for_it() {
        let requests = prompts(8, None, &mut StdRng::seed_from_u64(1));
        let starts = requests.iter().filter(|request| request.after.is_empty());
        assert_eq!(starts.count(), 2 * (1 + OTHER_WINDOWS));
        let agents = requests.iter().filter(|request| request.parent.is_some());
        assert_eq!(agents.count(), 8 * (1 + TOOL_STEPS));
        let answer = requests.iter().find(|request| request.after.len() == 8);
        assert_eq!(&*answer.unwrap().session, "s1");
    }

    #[test]
    fn nobody_waits_for_what_comes_later() {
        let requests = prompts(3, Some(500), &mut StdRng::seed_from_u64(1));
        assert!(requests.len() >= 500);
        for (index, request) in requests.iter().enumerate() {
            assert!(request.after.iter().all(|needed| *needed < index));
        }
    }
}
