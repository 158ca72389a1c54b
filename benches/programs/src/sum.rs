//! The checksum of a job's results: it must be the same with every allocator.

/// FNV-1a, over what a job computes.
pub(crate) struct Sum(u64);

impl Sum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}

/// The sum of one text.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    let mut sum = Sum::new();
    sum.bytes(bytes);
    sum.value()
}
