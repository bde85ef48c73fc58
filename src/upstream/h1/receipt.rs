//! When the upstream learns that what it sent has come.

/// Sees to it that what has come goes on to the client first and is acknowledged then, and at once.
///
/// Left alone the system does either within the read, which takes as long as passing a small event on,
/// or, on a connection that has gone to and fro a while, up to 40 ms later ([RFC 9293 §3.8.6.3]). Until
/// then an upstream without `TCP_NODELAY` holds its next event back ([RFC 896]).
///
/// [RFC 896]: https://www.rfc-editor.org/rfc/rfc896
/// [RFC 9293 §3.8.6.3]: https://www.rfc-editor.org/rfc/rfc9293#section-3.8.6.3
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Receipt {
    Due,
    /// Due when the stream is waited for once more: the first time, a server looks whether there is
    /// more to write beside what it has just been given.
    DueAfterNextWait,
    /// Or carried by the next request.
    Given,
}

// === impl Receipt ===

impl Receipt {
    /// Something has been read.
    pub(super) fn on_read(&mut self) {
        *self = Self::Due;
    }

    /// Some of it goes on to the client.
    pub(super) fn on_passed_on(&mut self) {
        if *self == Self::Due {
            *self = Self::DueAfterNextWait;
        }
    }

    /// Nothing more is there. True if the receipt is to be given now.
    pub(super) fn on_wait(&mut self) -> bool {
        let is_due = *self == Self::Due;
        *self = match *self {
            Self::DueAfterNextWait => Self::Due,
            Self::Due | Self::Given => Self::Given,
        };
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_acknowledged_at_the_first_wait_and_once() {
        let mut receipt = Receipt::Given;
        assert!(!receipt.on_wait());
        receipt.on_read();
        assert!(receipt.on_wait());
        assert!(!receipt.on_wait());
    }

    #[test]
    fn what_goes_on_is_acknowledged_behind_that() {
        let mut receipt = Receipt::Given;
        receipt.on_read();
        receipt.on_passed_on();
        assert!(!receipt.on_wait());
        // The rest of it, of the same read.
        receipt.on_passed_on();
        assert!(!receipt.on_wait());
        assert!(receipt.on_wait());
        receipt.on_passed_on();
        assert!(!receipt.on_wait());
    }
}
