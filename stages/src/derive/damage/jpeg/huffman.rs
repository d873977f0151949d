//! Huffman codes, looked up by their first bits: one by one, or in chains with their values.

use std::sync::OnceLock;

use super::bits::Bits;

/// Number of bits that index the tables; nearly all codes are at most so long.
const FIRST_BITS: u32 = 9;
/// Number of bits of the longest code.
const LONGEST: usize = 16;
/// Flag of an entry that ends a block.
pub(super) const END: u32 = 1 << 31;

/// Codes of one table.
///
/// # Source
/// ITU-T T.81, annex C, and F.2.2.3.
#[derive(Clone)]
pub(super) struct Codes {
    counts: [u8; LONGEST],
    symbols: Vec<u8>,
    /// Entries by the first bits; 0 for longer codes and for bits that are no code.
    first: Box<[Entry; 1 << FIRST_BITS]>,
    /// By length, in 16 bits: exclusive upper bound of the codes up to this length.
    below: [u32; LONGEST + 1],
    /// By length: index of the first symbol less its code.
    offset: [i32; LONGEST + 1],
    chains: OnceLock<Chains>,
}

/// A code. Bits 0..8 hold its length, bits 8..16 the length of code and value, bits 16..24 the symbol. Bits 24..31 hold the number of
/// coefficients that it covers, and bit 31 is [`END`].
type Entry = u32;

/// Returns the length of the code.
pub(super) const fn length(entry: Entry) -> u32 {
    entry & 0xFF
}

/// Returns the length of the code and its value.
pub(super) const fn whole_length(entry: Entry) -> u32 {
    entry >> 8 & 0xFF
}

/// Returns the symbol: run and size of an AC coefficient, or size of a DC one.
pub(super) const fn symbol(entry: Entry) -> u8 {
    (entry >> 16) as u8
}

/// Returns the number of coefficients that the code covers.
pub(super) const fn step(entry: Entry) -> u32 {
    entry >> 24 & 0x7F
}

impl Codes {
    /// Builds the codes from the number of symbols of each length and the symbols; `None` if no such code exists.
    pub(super) fn try_new(counts: &[u8; LONGEST], symbols: &[u8]) -> Option<Self> {
        let mut first = Box::new([0; 1 << FIRST_BITS]);
        let (mut below, mut offset) = ([0; LONGEST + 1], [0; LONGEST + 1]);
        let (mut code, mut index) = (0_u32, 0_usize);
        for (length, count) in (1..).zip(counts.iter().copied().map(usize::from)) {
            offset[length as usize] = index as i32 - code as i32;
            for symbol in symbols.get(index..index + count)? {
                if length <= FIRST_BITS {
                    let start = (code << (FIRST_BITS - length)) as usize;
                    first.get_mut(start..start + (1 << (FIRST_BITS - length)))?.fill(entry(length, *symbol));
                }
                code += 1;
            }
            index += count;
            if code > 1 << length {
                return None;
            }
            below[length as usize] = code << (LONGEST as u32 - length);
            code <<= 1;
        }
        Some(Self { counts: *counts, symbols: symbols[..index].to_vec(), first, below, offset, chains: OnceLock::new() })
    }

    /// Checks whether these are the codes of a table.
    pub(super) fn is_of(&self, counts: &[u8; LONGEST], symbols: &[u8]) -> bool {
        self.counts == *counts && symbols.starts_with(&self.symbols)
    }

    /// Returns the next code without consuming it; `None` if the bits are no code. The caller has filled the bits.
    #[inline(always)]
    pub(super) fn peek(&self, bits: &Bits<'_>) -> Option<Entry> {
        let entry = self.first[bits.peek(FIRST_BITS) as usize];
        if entry == 0 { self.longer(bits.peek(LONGEST as u32)) } else { Some(entry) }
    }

    #[cold]
    #[inline(never)]
    fn longer(&self, code: u32) -> Option<Entry> {
        let length = (FIRST_BITS + 1..=LONGEST as u32).find(|length| code < self.below[*length as usize])?;
        let index = (code >> (LONGEST as u32 - length)) as i32 + self.offset[length as usize];
        Some(entry(length, *self.symbols.get(usize::try_from(index).ok()?)?))
    }

    /// Returns these codes as chains, which only codes of AC coefficients have.
    pub(super) fn chains(&self) -> &Chains {
        self.chains.get_or_init(|| Chains::of(self))
    }
}

fn entry(length: u32, symbol: u8) -> Entry {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    let end = match (run, size) {
        (0..15, 0) => END,
        _ => (run + 1) << 24,
    };
    length | (length + size) << 8 | u32::from(symbol) << 16 | end
}

/// Chains of AC codes with their values, by the next bits: each chain has as many codes as fit in these bits.
#[derive(Clone)]
pub(super) struct Chains(Box<[Chain; 1 << FIRST_BITS]>);

/// A chain. Bits 0..5 hold its length, at most 27. Bits 5..12 hold the number of coefficients that it covers, plus one if it ends the
/// block. Bit 15 tells whether it ends the block. 0 if the bits hold no whole code.
type Chain = u16;

/// Flag of a chain that ends the block.
const CHAIN_END: Chain = 1 << 15;

/// Returns the length of a chain.
pub(super) const fn chain_length(chain: Chain) -> u32 {
    chain as u32 & 0x1F
}

/// Returns the number of coefficients that a chain covers, plus one if it ends the block.
pub(super) const fn chain_step(chain: Chain) -> u32 {
    chain as u32 >> 5 & 0x7F
}

/// Checks whether a chain ends the block.
pub(super) const fn chain_ends(chain: Chain) -> bool {
    chain & CHAIN_END != 0
}

impl Chains {
    fn of(codes: &Codes) -> Self {
        let mut chains = Box::new([0; 1 << FIRST_BITS]);
        for (start, found) in chains.iter_mut().enumerate() {
            *found = chain(codes, start as u32);
        }
        Self(chains)
    }

    /// Returns the chain that begins here. The caller has filled the bits.
    #[inline(always)]
    pub(super) fn peek(&self, bits: &Bits<'_>) -> Chain {
        self.0[bits.peek(FIRST_BITS) as usize]
    }
}

/// Returns the chain of the bits `start`. Every code in it lies within these bits; the value behind the last code may not.
fn chain(codes: &Codes, start: u32) -> Chain {
    let (mut length, mut steps) = (0, 0);
    while length < FIRST_BITS {
        let entry = codes.first[(start << length & ((1 << FIRST_BITS) - 1)) as usize];
        if entry == 0 || length + self::length(entry) > FIRST_BITS || steps + step(entry) > 63 {
            break;
        }
        length += whole_length(entry);
        if entry & END != 0 {
            return CHAIN_END | ((steps + 1) << 5 | length) as Chain;
        }
        steps += step(entry);
    }
    (steps << 5 | length) as Chain
}

#[cfg(test)]
mod tests {
    use super::super::bits::Segment;
    use super::*;

    /// Builds codes with one code of each length from 1 to 16: 0, 10, 110 and so on.
    fn staircase() -> Codes {
        Codes::try_new(&[1; 16], &(0x10..0x20).collect::<Vec<_>>()).expect("as many symbols as codes")
    }

    fn found(codes: &Codes, text: &str) -> Option<(u32, u8)> {
        let bytes: Vec<u8> = text.as_bytes().chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'))).collect();
        let stuffed: Vec<u8> = bytes.iter().flat_map(|byte| if *byte == 0xFF { vec![0xFF, 0] } else { vec![*byte] }).collect();
        let mut segment = Segment::default();
        segment.take(&stuffed, 0);
        let mut bits = segment.bits();
        bits.fill();
        codes.peek(&bits).map(|entry| (length(entry), symbol(entry)))
    }

    #[test]
    fn codes_of_every_length_are_found() {
        let codes = staircase();
        for ones in 0..16_usize {
            let text = format!("{:0<24}", "1".repeat(ones) + "0");
            assert_eq!(found(&codes, &text), Some((ones as u32 + 1, 0x10 + ones as u8)), "{text}");
        }
        assert_eq!(found(&codes, &"1".repeat(24)), None, "no code has ones alone");
    }

    #[test]
    fn an_entry_says_how_far_a_block_goes_on() {
        let of = |symbol| (whole_length(entry(4, symbol)), step(entry(4, symbol)), entry(4, symbol) & END != 0);
        assert_eq!(of(0x00), (4, 0, true), "the end of the block");
        assert_eq!(of(0xE0), (4, 0, true), "the end of many blocks");
        assert_eq!(of(0xF0), (4, 16, false), "sixteen zeros");
        assert_eq!(of(0x25), (9, 3, false), "two zeros and a value of five bits");
    }

    #[test]
    fn more_codes_than_there_can_be_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Codes::try_new(&counts, &[1, 2, 3]).is_none());
        counts = [0; 16];
        counts[15] = 2;
        assert!(Codes::try_new(&counts, &[1]).is_none(), "a symbol is missing");
    }

    #[test]
    fn a_chain_holds_the_codes_that_its_bits_hold() {
        // 0: a value of one bit behind no zero; 10: the end; 110: two zeros and a value of twelve bits; 111: sixteen zeros.
        let codes = Codes::try_new(&[1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x01, 0x00, 0x2C, 0xF0]).expect("a full table");
        let of = |text: &str| {
            let chain = chain(&codes, u32::from_str_radix(text, 2).expect("bits"));
            (chain_length(chain), chain_step(chain), chain_ends(chain))
        };
        assert_eq!(of("000000000"), (10, 5, false), "the value of the last one is not there");
        assert_eq!(of("010000000"), (10, 5, false));
        assert_eq!(of("001000000"), (4, 2, true), "a value, and the end");
        assert_eq!(of("100000000"), (2, 1, true));
        assert_eq!(of("110000000"), (15, 3, false));
        assert_eq!(of("001111000"), (7, 18, true), "a value, sixteen zeros, and the end");
        assert_eq!(of("001111100"), (20, 20, false), "1, 16, and the value of the third is not there");
        assert_eq!(of("111111111"), (9, 48, false));
    }

    #[test]
    fn codes_of_unused_bits_are_no_chain() {
        let codes = Codes::try_new(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x01]).expect("half a table");
        assert_eq!((chain(&codes, 0x100), chain_length(chain(&codes, 0x040))), (0, 2));
    }
}
