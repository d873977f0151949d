//! The buffer in which events wait, as lines of JSON, until somebody takes them.

use std::sync::{Arc, Mutex};

/// Bytes that wait at most; the buffer counts and drops events beyond them.
const MAX_BUFFER_BYTES: usize = 4 << 20;

/// Lines that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub(super) lines: String,
    pub(super) lost: u64,
}

impl Buffer {
    /// Takes all lines.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }

    pub(crate) fn push(&mut self, line: &str) {
        if self.lines.len() + line.len() < MAX_BUFFER_BYTES {
            self.lines.push_str(line);
            self.lines.push('\n');
        } else {
            self.lost += 1;
        }
    }
}

/// Buffer that [`Progress`](super::progress::Progress) and the recording share.
pub(crate) type SharedBuffer = Arc<Mutex<Buffer>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_counts_what_it_loses() {
        let mut buffer = Buffer::default();
        buffer.push(&"x".repeat(MAX_BUFFER_BYTES - 2));
        buffer.push("one too many");
        assert_eq!((buffer.lines.len(), buffer.lost), (MAX_BUFFER_BYTES - 1, 1));
    }
}
