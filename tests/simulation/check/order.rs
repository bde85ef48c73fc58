//! Who goes first.

use pacegate_layers::pacing::Order;

use super::{Broken, Promise, Wait, Watch};

impl Watch<'_> {
    /// Retries first; then first come, first served within a line; and no session twice before
    /// another that waits once.
    pub(super) fn order(&mut self, request: usize, wait: &Wait) -> Result<(), Broken> {
        let fair = self.scenario.order == Order::Fair;
        let line = |index: usize| {
            let request = &self.scenario.requests[index];
            fair.then_some((request.session, request.is_child))
        };
        for (other, theirs) in &self.waiting {
            let earlier = match (wait.again, theirs.again) {
                // By who came first the first time.
                (true, true) => {
                    self.scenario.requests[*other].arrives < self.scenario.requests[request].arrives
                }
                (true, false) => false,
                (false, true) => true,
                (false, false) => {
                    let own_before_childrens = fair
                        && line(request).map(|line| line.0) == line(*other).map(|line| line.0)
                        && self.scenario.requests[request].is_child
                        && !self.scenario.requests[*other].is_child;
                    let before = theirs.number < wait.number && line(request) == line(*other);
                    own_before_childrens || before
                }
            };
            self.hold(Promise::Order, !earlier, || {
                format!("{request} left while {other} was first")
            })?;
        }
        if !fair || wait.again {
            return Ok(());
        }
        // The session's next turn comes after everybody else's.
        let session = self.scenario.requests[request].session;
        for (other, theirs) in &mut self.waiting {
            let other_session = self.scenario.requests[*other].session;
            if other_session == session {
                theirs.served.clear();
            } else if !theirs.again && !theirs.served.insert(session) {
                let twice = format!("session {session} was served twice while {other} waited");
                return Err(Broken {
                    promise: Promise::Order,
                    at: self.now,
                    what: twice,
                });
            }
        }
        Ok(())
    }
}
