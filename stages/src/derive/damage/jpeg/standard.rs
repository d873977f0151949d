//! Standard codes, for JPEGs without tables, such as the frames of Motion JPEG.

use std::sync::LazyLock;

use super::huffman::Codes;

/// Counts of DC symbols by length; the symbols are all sizes in order.
const DC_COUNTS: [[u8; 16]; 2] = [[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]];
const AC_COUNTS: [[u8; 16]; 2] = [[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125], [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119]];
/// AC symbols with codes of fewer than 16 bits. All others, of sizes 1 to 10, follow in order.
const AC_SYMBOLS: [&[u8]; 2] = [
    b"\x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08\x23\x42\xb1\xc1\x15\x52\xd1\xf0\x24\x33\x62\x72\x82",
    b"\x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91\xa1\xb1\xc1\x09\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\xe1\x25\xf1",
];

/// Codes of DC coefficients, then of AC coefficients; each of luminance, then of chrominance.
///
/// # Source
/// ITU-T T.81, tables K.3 to K.6.
static CODES: LazyLock<[[Codes; 2]; 2]> = LazyLock::new(|| {
    let codes = |counts, symbols: &[u8]| Codes::try_new(counts, symbols).expect("the tables are sound");
    let ac = |of: usize| codes(&AC_COUNTS[of], &symbols(AC_SYMBOLS[of]));
    let dc = |of: usize| codes(&DC_COUNTS[of], &(0..12).collect::<Vec<u8>>());
    [[dc(0), dc(1)], [ac(0), ac(1)]]
});

/// Returns the codes of a class (0 for DC, 1 for AC) and a number (0 or 1).
pub(super) fn codes(class: usize, number: usize) -> Option<&'static Codes> {
    CODES.get(class)?.get(number)
}

/// Returns the standard codes that equal a table, so that their chains are built only once.
pub(super) fn known(counts: &[u8; 16], symbols: &[u8]) -> Option<&'static Codes> {
    CODES.iter().flatten().find(|codes| codes.is_of(counts, symbols))
}

/// Returns all AC symbols: the `first` ones, then the others.
fn symbols(first: &[u8]) -> Vec<u8> {
    let others = (0..=0xFF_u8).filter(|symbol| (1..=10).contains(&(symbol & 15)) && !first.contains(symbol));
    first.iter().copied().chain(others).collect()
}
