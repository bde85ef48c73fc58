//! Limits the total size of buffered request bodies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// The total size; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyBudget(Arc<AtomicUsize>);

/// The part of one body in the total, given back when dropped.
#[derive(Debug)]
pub(super) struct BodyPermit {
    budget: BodyBudget,
    bytes: usize,
}

/// A body that counts until its last clone is dropped: a retry needs it that long.
struct BudgetedBody {
    data: Bytes,
    _permit: BodyPermit,
}

// === impl BodyBudget ===

impl BodyBudget {
    pub(super) fn reserve(&self) -> BodyPermit {
        BodyPermit {
            budget: self.clone(),
            bytes: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl BodyPermit ===

impl BodyPermit {
    /// Adds `bytes`, unless the total would exceed `most`.
    #[must_use]
    pub(super) fn add(&mut self, bytes: usize, most: usize) -> bool {
        let sum = self.budget.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum > most {
            self.budget.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// `data`, which counts as long as a clone of it exists.
    pub(super) fn attach(self, data: Bytes) -> Bytes {
        Bytes::from_owner(BudgetedBody {
            data,
            _permit: self,
        })
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for BudgetedBody {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_budget_can_be_reserved() {
        let budget = BodyBudget::default();
        let (mut one, mut two) = (budget.reserve(), budget.reserve());
        assert!(one.add(6, 10) && two.add(4, 10));
        assert!(!two.add(1, 10));
        assert_eq!(budget.used(), 10);
        drop(one);
        assert!(two.add(6, 10));
    }

    #[test]
    fn a_body_counts_until_its_last_clone_is_dropped() {
        let budget = BodyBudget::default();
        let mut permit = budget.reserve();
        assert!(permit.add(3, 10));
        let body = permit.attach(Bytes::from_static(b"abc"));
        let clone = body.clone();
        drop(body);
        assert_eq!((&clone[..], budget.used()), (&b"abc"[..], 3));
        drop(clone);
        assert_eq!(budget.used(), 0);
    }
}
