//! Packs lengths, for comparisons of packers: `pack_lengths LENGTHS CAPACITY`, where LENGTHS is a file of little-endian u32.
//!
//! Prints one JSON line: seconds of packing alone, number of packs, and the lower bound of their number.

use std::time::Instant;

use cm3flow_stages::pack::{fit, least_bins};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, capacity] = arguments.as_slice() else { panic!("usage: pack_lengths LENGTHS CAPACITY") };
    let capacity: usize = capacity.parse().expect("a number of tokens");
    let bytes = std::fs::read(file).expect("a file of lengths");
    let lengths = bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize);
    let lengths: Vec<usize> = lengths.collect();
    let began = Instant::now();
    let bins = fit(&lengths, capacity);
    let seconds = began.elapsed().as_secs_f64();
    let placed: usize = bins.iter().map(<[u32]>::len).sum();
    let (packs, least) = (bins.len(), least_bins(&lengths, capacity));
    println!("{{\"seconds\": {seconds}, \"packs\": {packs}, \"least\": {least}, \"placed\": {placed}}}");
}
