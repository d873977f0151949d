//! Given image codes: NumPy files of whole numbers that a source has instead of pictures.
//!
//! `ingest` carries them as the bytes of an image, `filter` and `derive` let them through, and `tokenize` reads and checks them. No format
//! of pictures begins with the same bytes.
//!
//! # Source
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Its header is a Python literal. NumPy writes the
//! header of plain arrays in one way, which is read here without recursion into untrusted input.

use cm3flow_schemas::Grid;

/// First bytes of a NumPy file.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Codes of one image, as a file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenCodes {
    /// Length, or rows and columns.
    pub(crate) shape: Vec<usize>,
    /// Indices into the codebook, row-major.
    pub(crate) codes: Vec<u32>,
}

/// Checks whether `bytes` are given codes and no picture.
pub(crate) fn is_given(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Returns the file of `codes` in one row. The same codes give the same bytes, since ids are computed from them.
pub(crate) fn to_file(codes: &[u32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({},), }}", codes.len());
    // Ten bytes precede the header, and NumPy ends it at a multiple of 64.
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    file.extend(codes.iter().flat_map(|code| code.to_le_bytes()));
    file
}

/// Returns rows and columns of the codes in a file, if it has two dimensions. Problems of the file are left to [`from_file`].
pub(crate) fn grid_of(bytes: &[u8]) -> Option<Grid> {
    let shape = dimensions(field(split_header(bytes)?.0, "shape").ok()?)?;
    match shape[..] {
        [rows, columns] => Some(Grid { rows: u32::try_from(rows).ok()?, columns: u32::try_from(columns).ok()? }),
        _ => None,
    }
}

/// Reads a file: whole numbers of 1 to 8 bytes, little-endian, in C order, of one or two dimensions.
///
/// # Errors
/// The problem of the file, as text for a refusal.
pub(crate) fn from_file(bytes: &[u8]) -> Result<GivenCodes, String> {
    let (header, content) = split_header(bytes).ok_or("it is no NumPy file, or cut within its header")?;
    let number_type = quoted(field(header, "descr")?).ok_or("its numbers are no plain type")?;
    let (is_signed, width) = match number_type.as_bytes() {
        [b'<' | b'|', sign @ (b'i' | b'u'), width @ (b'1' | b'2' | b'4' | b'8')] => (*sign == b'i', usize::from(width - b'0')),
        _ => return Err(format!("its numbers are {number_type:?}; little-endian whole numbers are taken, such as <u2 or <i8")),
    };
    let shape = dimensions(field(header, "shape")?).filter(|shape| matches!(shape.len(), 1 | 2)).ok_or("its shape is not [n] or [h, w]")?;
    if shape.len() == 2 && !field(header, "fortran_order")?.starts_with("False") {
        return Err("it is in Fortran order; numpy.ascontiguousarray gives C order".into());
    }
    let bytes_expected = shape.iter().try_fold(width, |product, length| product.checked_mul(*length));
    if bytes_expected != Some(content.len()) {
        return Err(format!("{} bytes do not hold {shape:?} numbers of {width} bytes", content.len()));
    }
    let codes = content.chunks_exact(width).map(|number| code_of(number, is_signed));
    Ok(GivenCodes { codes: codes.collect::<Result<_, _>>()?, shape })
}

/// Returns the text of the header, and the bytes behind it.
fn split_header(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let ([major, _minor], rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(length, rest)| (u32::from(u16::from_le_bytes(*length)), rest))?,
        2 | 3 => rest.split_first_chunk::<4>().map(|(length, rest)| (u32::from_le_bytes(*length), rest))?,
        _ => return None,
    };
    let (header, content) = rest.split_at_checked(length as usize)?;
    Some((std::str::from_utf8(header).ok()?, content))
}

/// Returns the rest of the header behind the key `name`.
fn field<'h>(header: &'h str, name: &str) -> Result<&'h str, String> {
    let (_, value) = header.split_once(&format!("'{name}':")).ok_or_else(|| format!("its header has no {name}"))?;
    Ok(value.trim_start())
}

fn quoted(value: &str) -> Option<&str> {
    value.strip_prefix('\'')?.split_once('\'').map(|(text, _)| text)
}

fn dimensions(value: &str) -> Option<Vec<usize>> {
    let (inner, _) = value.strip_prefix('(')?.split_once(')')?;
    inner.split(',').map(str::trim).filter(|length| !length.is_empty()).map(|length| length.parse().ok()).collect()
}

/// Returns the code that the little-endian `number` stands for.
fn code_of(number: &[u8], is_signed: bool) -> Result<u32, String> {
    let is_negative = is_signed && number.last().is_some_and(|high| high & 0x80 != 0);
    let mut wide = [if is_negative { 0xFF } else { 0 }; 8];
    wide[..number.len()].copy_from_slice(number);
    if is_negative {
        return Err(format!("{} is no code", i64::from_le_bytes(wide)));
    }
    let value = u64::from_le_bytes(wide);
    u32::try_from(value).map_err(|_| format!("{value} is no code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a file as NumPy writes it, from its fields.
    fn file(descr: &str, shape: &str, order: &str, content: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), content].concat()
    }

    fn problem(bytes: &[u8]) -> String {
        from_file(bytes).expect_err("a broken file")
    }

    #[test]
    fn codes_survive_their_file() {
        let codes = [0, 1, 65_536, u32::MAX];
        let file = to_file(&codes);
        assert!(is_given(&file) && (file.len() - 16).is_multiple_of(64));
        assert_eq!(from_file(&file), Ok(GivenCodes { shape: vec![4], codes: codes.to_vec() }));
        assert_eq!(from_file(&to_file(&[])), Ok(GivenCodes { shape: vec![0], codes: vec![] }));
    }

    #[test]
    fn whole_numbers_of_every_width_are_read() {
        for (descr, content) in [
            ("'|u1'", vec![7, 9]),
            ("'<u2'", vec![7, 0, 9, 0]),
            ("'<i4'", vec![7, 0, 0, 0, 9, 0, 0, 0]),
            ("'<u4'", vec![7, 0, 0, 0, 9, 0, 0, 0]),
            ("'<i8'", [7_i64.to_le_bytes(), 9_i64.to_le_bytes()].concat()),
        ] {
            assert_eq!(from_file(&file(descr, "(2,)", "False", &content)).map(|given| given.codes), Ok(vec![7, 9]), "{descr}");
        }
        let square = from_file(&file("'|u1'", "(2, 3)", "False", &[1, 2, 3, 4, 5, 6])).expect("two dimensions");
        assert_eq!((square.shape, square.codes), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        let bytes = file("'|u1'", "(2, 3)", "False", &[1, 2, 3, 4, 5, 6]);
        assert_eq!((grid_of(&bytes), grid_of(&to_file(&[1, 2]))), (Some(Grid { rows: 2, columns: 3 }), None));
    }

    #[test]
    fn a_longer_header_of_a_later_format_is_read() {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }";
        let bytes = [b"\x93NUMPY\x02\x00".as_slice(), &(header.len() as u32).to_le_bytes(), header.as_bytes(), &[5]].concat();
        assert_eq!(from_file(&bytes).map(|given| given.codes), Ok(vec![5]));
    }

    #[test]
    fn what_is_no_file_of_codes_says_why() {
        let whole = to_file(&[1, 2, 3]);
        for (bytes, expected) in [
            (whole[..20].to_vec(), "cut within its header"),
            (whole[..whole.len() - 1].to_vec(), "do not hold"),
            ([whole.as_slice(), &[0]].concat(), "do not hold"),
            (file("'<f4'", "(1,)", "False", &[0; 4]), "whole numbers"),
            (file("'>u2'", "(1,)", "False", &[0; 2]), "little-endian"),
            (file("[('a', '<u2')]", "(1,)", "False", &[0; 2]), "no plain type"),
            (file("'|u1'", "()", "False", &[0]), "shape"),
            (file("'|u1'", "(1, 1, 1)", "False", &[0]), "shape"),
            (file("'|u1'", "(-1,)", "False", &[]), "shape"),
            (file("'<u8'", "(4611686018427387904, 4)", "False", &[]), "do not hold"),
            (file("'|u1'", "(2, 2)", "True", &[0; 4]), "Fortran"),
            (file("'<i4'", "(1,)", "False", &(-3_i32).to_le_bytes()), "-3 is no code"),
            (file("'<i8'", "(1,)", "False", &(1_i64 << 40).to_le_bytes()), "1099511627776 is no code"),
            (b"\x93NUMPY\x01\x00\x02\x00{}".to_vec(), "no descr"),
            (b"\x93NUMPY\x09\x00\x02\x00{}".to_vec(), "no NumPy file"),
            (b"\xFF\xD8\xFF".to_vec(), "no NumPy file"),
        ] {
            assert!(problem(&bytes).contains(expected), "{expected}: {}", problem(&bytes));
        }
        // A header of nested brackets must not exhaust the stack.
        let nested = "(".repeat(60_000);
        let bytes = [b"\x93NUMPY\x01\x00".as_slice(), &(nested.len() as u16).to_le_bytes(), nested.as_bytes()].concat();
        assert!(problem(&bytes).contains("no descr"));
    }
}
