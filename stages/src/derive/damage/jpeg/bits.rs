//! Bits of the coded data between two markers.
//!
//! Behind the last bit the reader supplies zeros and counts them, so that a caller that read one of them is detected.

/// Number of bits available after a [`Bits::fill`]: a code of 16 and a value of 16, or two chains of codes.
pub(super) const AT_LEAST: u32 = 56;

/// Coded data up to the next marker, without stuffed bytes.
#[derive(Default)]
pub(super) struct Segment {
    data: Vec<u8>,
}

impl Segment {
    /// Replaces the data by those that begin at `position` of `jpeg`. Returns the position of the next marker, or the end of the file.
    ///
    /// # Source
    /// ITU-T T.81, B.1.1.5: 0x00 follows a data byte 0xFF; 0xFF and another code is a marker. libjpeg also takes any number of 0xFF before
    /// the 0x00.
    pub(super) fn take(&mut self, jpeg: &[u8], position: usize) -> usize {
        self.data.clear();
        let mut rest = &jpeg[position..];
        loop {
            let (plain, behind) = rest.split_at(before_ff(rest));
            self.data.extend_from_slice(plain);
            let fill = behind.iter().take_while(|byte| **byte == 0xFF).count();
            if behind.get(fill) != Some(&0) || fill == 0 {
                return jpeg.len() - behind.len();
            }
            self.data.push(0xFF);
            rest = &behind[fill + 1..];
        }
    }

    pub(super) fn bits(&self) -> Bits<'_> {
        Bits { data: &self.data, buffer: 0, count: 0, made_up: 0 }
    }
}

/// Returns the number of bytes before the first 0xFF, or of all bytes.
fn before_ff(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let plain = 8 * words.iter().take_while(|word| !has_ff(u64::from_ne_bytes(**word))).count();
    plain + bytes[plain..].iter().take_while(|byte| **byte != 0xFF).count()
}

/// Checks whether a byte of `word` is 0xFF.
///
/// # Source
/// "Determine if a word has a zero byte", <https://graphics.stanford.edu/~seander/bithacks.html>, of the complement.
const fn has_ff(word: u64) -> bool {
    let zeros = !word;
    zeros.wrapping_sub(0x0101_0101_0101_0101) & !zeros & 0x8080_8080_8080_8080 != 0
}

/// Reader of bits, the highest of each byte first.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    /// Bytes that are not in the buffer yet.
    data: &'a [u8],
    /// Next bits, the first one on top.
    buffer: u64,
    /// Number of counted bits in the buffer.
    count: u32,
    /// Number of zeros supplied behind the data.
    made_up: u32,
}

impl Bits<'_> {
    /// Makes [`AT_LEAST`] bits available.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        let Some(word) = self.data.first_chunk::<8>() else {
            *self = self.filled_at_the_end();
            return;
        };
        // Bits below the counted ones equal those that come next, so setting them twice does no harm.
        self.buffer |= u64::from_be_bytes(*word) >> self.count;
        let taken = (63 - self.count) / 8;
        self.data = &self.data[taken as usize..];
        self.count += taken * 8;
    }

    /// Fills the buffer from the last few bytes. It takes the reader by value, so that the bits can stay in registers elsewhere.
    #[cold]
    #[inline(never)]
    fn filled_at_the_end(mut self) -> Self {
        self.buffer &= !(u64::MAX >> self.count);
        while self.count < AT_LEAST {
            match self.data.split_off_first() {
                Some(byte) => self.buffer |= u64::from(*byte) << (AT_LEAST - self.count),
                None => self.made_up += 8,
            }
            self.count += 8;
        }
        self
    }

    /// Returns the next `count` bits, 1 to 32, without consuming them.
    #[inline(always)]
    pub(super) const fn peek(&self, count: u32) -> u32 {
        (self.buffer >> (64 - count)) as u32
    }

    /// Consumes `count` bits, at most [`AT_LEAST`] since the last [`Self::fill`].
    #[inline(always)]
    pub(super) const fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count -= count;
    }

    /// Consumes any number of bits.
    pub(super) fn skip_many(&mut self, mut count: u32) {
        while count > 0 {
            self.fill();
            let step = count.min(AT_LEAST);
            self.skip(step);
            count -= step;
        }
    }

    /// Checks whether bits behind the data were consumed.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.count < self.made_up
    }

    /// Counts the unread bytes. The rest of a byte and bytes of ones are padding, which does not count.
    pub(super) fn left_over(self) -> usize {
        let unread = self.count.saturating_sub(self.made_up);
        let buffer = self.buffer << (unread % 8);
        let in_buffer = (0..unread / 8).map(|index| (buffer >> (56 - 8 * index)) as u8);
        in_buffer.chain(self.data.iter().copied()).filter(|byte| *byte != 0xFF).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(jpeg: &[u8]) -> (Segment, usize) {
        let mut segment = Segment::default();
        let end = segment.take(jpeg, 0);
        (segment, end)
    }

    #[test]
    fn bits_come_in_order_whatever_is_stuffed_between_them() {
        let data: Vec<u8> = (0..=255_u8).flat_map(|byte| if byte == 255 { vec![255, 255, 0] } else { vec![byte] }).collect();
        let (segment, end) = segment(&[data.repeat(3), vec![0xFF, 0xD9]].concat());
        assert_eq!(end, 3 * data.len());
        let mut bits = segment.bits();
        for byte in (0..=255_u32).cycle().take(768) {
            bits.fill();
            assert_eq!(bits.peek(8), byte);
            bits.skip(3);
            assert_eq!(bits.peek(5), byte & 31);
            bits.skip_many(5);
            assert!(!bits.is_exhausted());
        }
        assert_eq!(bits.left_over(), 0);
        bits.skip_many(1);
        assert!(bits.is_exhausted());
    }

    #[test]
    fn data_end_before_a_marker_and_at_the_end_of_the_file() {
        let end = |jpeg: &[u8]| segment(jpeg).1;
        assert_eq!([end(&[1, 2, 0xFF, 0xD9]), end(&[1, 2]), end(&[]), end(&[1, 0xFF]), end(&[1, 0xFF, 0xFF, 0xDA])], [2, 2, 0, 1, 1]);
        let (long, end) = segment(&[[7; 1001].as_slice(), &[0xFF, 0, 8, 0xFF, 0xD0]].concat());
        assert_eq!((long.data.len(), end), (1003, 1004));
    }

    #[test]
    fn what_is_left_over_is_counted_without_padding() {
        let left_over = |read: u32, data: &[u8]| {
            let (segment, _) = segment(data);
            let mut bits = segment.bits();
            bits.skip_many(read);
            bits.left_over()
        };
        assert_eq!(left_over(3, &[1]), 0);
        assert_eq!(left_over(3, &[1, 2]), 1);
        assert_eq!(left_over(8, &[1, 2]), 1);
        assert_eq!(left_over(8, &[1, 0xFF, 0]), 0, "a byte of ones");
        assert_eq!(left_over(9, &[0; 40]), 38);
        assert_eq!(left_over(0, &[]), 0);
    }
}
