//! Stream of the lines of a row list. It holds neither the file nor an overlong line in memory.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::annotations::is_blank;
use crate::error::Result;

/// Longest line that is read. Rows are annotations, and at most codes.
pub(super) const MAX_LINE_BYTES: usize = 32 << 20;

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Number in the file, from 0, with blank lines counted.
    pub(super) number: u64,
    /// Offset of the line's first byte.
    pub(super) start: u64,
    /// Offset behind the line's end.
    pub(super) end: u64,
    /// Content without the line end; `None` if it is longer than [`MAX_LINE_BYTES`].
    pub(super) text: Option<Vec<u8>>,
}

/// Splitter of a stream of bytes into lines.
pub(super) struct Lines {
    body: BoxStream<'static, Result<Bytes>>,
    chunk: Bytes,
    offset: u64,
    number: u64,
    max_bytes: usize,
}

impl Lines {
    /// Reads `body`, which begins at byte `offset` of the file with line `number`.
    pub(super) fn new(body: BoxStream<'static, Result<Bytes>>, offset: u64, number: u64) -> Self {
        Self { body, chunk: Bytes::new(), offset, number, max_bytes: MAX_LINE_BYTES }
    }

    /// Returns the next line that is not blank.
    pub(super) async fn next(&mut self) -> Result<Option<Line>> {
        while let Some(line) = self.next_of_any_kind().await? {
            if line.text.as_ref().is_none_or(|text| !is_blank(text)) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    async fn next_of_any_kind(&mut self) -> Result<Option<Line>> {
        let start = self.offset;
        let mut text = Some(Vec::new());
        loop {
            if self.chunk.is_empty() {
                match self.body.next().await {
                    Some(chunk) => self.chunk = chunk?,
                    None if self.offset == start => return Ok(None),
                    None => break,
                }
                continue;
            }
            let newline = self.chunk.iter().position(|byte| *byte == b'\n');
            let part = self.chunk.split_to(newline.map_or(self.chunk.len(), |at| at + 1));
            self.offset += part.len() as u64;
            text = text.filter(|text| text.len() + part.len() <= self.max_bytes);
            if let Some(text) = &mut text {
                text.extend_from_slice(&part);
            }
            if newline.is_some() {
                break;
            }
        }
        if let Some(text) = text.as_mut().filter(|text| text.last() == Some(&b'\n')) {
            text.pop();
        }
        self.number += 1;
        Ok(Some(Line { number: self.number - 1, start, end: self.offset, text }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conformance::block_on;

    fn lines(text: &'static [u8], chunk_bytes: usize, max_bytes: usize) -> Vec<Line> {
        let chunks: Vec<Result<Bytes>> = text.chunks(chunk_bytes).map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        let mut lines = Lines { max_bytes, ..Lines::new(futures::stream::iter(chunks).boxed(), 100, 7) };
        block_on(async move {
            let mut found = Vec::new();
            while let Some(line) = lines.next().await.expect("in memory") {
                found.push(line);
            }
            found
        })
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_where_the_bytes_were_cut(chunk_bytes in 1_usize..12) {
            let text = b"ab\n\n  \r\ncd\xff\r\nlast";
            let line = |number, start: u64, text: &[u8], length: u64| {
                Line { number, start, end: start + length, text: Some(text.to_vec()) }
            };
            let expected = [line(7, 100, b"ab", 3), line(10, 108, b"cd\xff\r", 5), line(11, 113, b"last", 4)];
            prop_assert_eq!(lines(text, chunk_bytes, 100), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_but_counted() {
        let found = lines(b"short\nlonger than ten bytes\nshort", 4, 10);
        let texts: Vec<Option<&[u8]>> = found.iter().map(|line| line.text.as_deref()).collect();
        assert_eq!(texts, [Some(&b"short"[..]), None, Some(b"short")]);
        assert_eq!((found[1].number, found[2].number, found[2].start), (8, 9, 128));
        assert!(lines(b"", 4, 10).is_empty());
    }
}
