//! The server's one source of randomness: ids, secrets, lease tokens and jitter.

use std::fmt;

/// Fills bytes with randomness. Tests and the simulation bring a seeded one.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Overwrites all of `bytes`. Never fails and never blocks for long.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Entropy + '_ {
    /// A fixed number of random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// The operating system's generator, fit for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system's generator does not fail once seeded");
    }
}
