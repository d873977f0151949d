//! Datasets with given codes: without pictures and a fit of a codebook, runs of them take little time.

use std::fmt::Write;

use cm3flow_schemas::random::Draws;

/// Settings of a run with given codes: 16 codes an image.
pub const GIVEN: &str = r#"
[runtime]
workers = 2
threads = 1
[window]
units = 2
[tokenize.image]
kind = "given"
side_px = 64
grid = 4
codebook_size = 256
[tokenize.text]
vocabulary_size = 300
[split]
held_out = 0.2
[pack]
seq_len = 256
"#;

/// Returns the codes of sample `number`: 16, below 256, unique to the sample.
#[must_use]
pub fn codes(number: u64) -> Vec<u32> {
    let mut draws = Draws::new(1, "given codes", &number.to_le_bytes());
    (0..16).map(|_| draws.below(256) as u32).collect()
}

/// Returns the caption of sample `number`.
#[must_use]
pub fn caption(number: u64) -> String {
    const COLOURS: [&str; 5] = ["red", "green", "blue", "grey", "yellow"];
    const THINGS: [&str; 7] = ["kite", "boat", "door", "clock tower", "bowl of plums", "lamp", "meadow"];
    format!("a {} {}, number {number}", COLOURS[(number % 5) as usize], THINGS[(number % 7) as usize])
}

/// Returns the lines of a list, one for each of the samples `numbers`.
#[must_use]
pub fn rows(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().fold(String::new(), |mut rows, number| {
        let _ = writeln!(rows, "{{\"codes\": {:?}, \"caption\": \"{}\"}}", codes(number), caption(number));
        rows
    })
}

/// Returns a NumPy file of `codes` as u16, as NumPy writes it.
#[must_use]
pub fn npy(codes: &[u32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({},), }}", codes.len());
    header += &" ".repeat(117 - header.len());
    header.push('\n');
    let mut file = [b"\x93NUMPY\x01\x00".as_slice(), &118_u16.to_le_bytes(), header.as_bytes()].concat();
    file.extend(codes.iter().flat_map(|code| (*code as u16).to_le_bytes()));
    file
}
