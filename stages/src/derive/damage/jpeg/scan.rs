//! Check of the blocks of one scan: every code must be valid, every block must have its codes, and no byte may be left over.

use std::fmt;
use std::ops::RangeInclusive;

use super::bits::{Bits, Segment};
use super::huffman::{Chains, Codes, END, chain_ends, chain_length, chain_step, length, step, symbol, whole_length};

/// Number of coefficients in a block.
const COEFFICIENTS: u32 = 64;

/// Coding of blocks in a scan.
pub(super) enum Coding<'t> {
    /// All coefficients at once.
    Whole { dc: &'t Codes, ac: &'t Codes },
    /// High bits of the first coefficient.
    DcFirst(&'t Codes),
    /// One more bit of the first coefficient.
    DcNext,
    /// High bits of a band of the other coefficients.
    AcFirst(&'t Codes),
    /// One more bit of a band of the other coefficients.
    AcNext(&'t Codes),
}

/// Blocks of one component in each unit of a scan.
pub(super) struct Part<'t> {
    pub(super) coding: Coding<'t>,
    pub(super) blocks: u32,
}

/// A scan: its coding and extent.
pub(super) struct Scan<'t> {
    pub(super) parts: Vec<Part<'t>>,
    /// Number of units in the scan.
    pub(super) units: u32,
    /// Number of units between two restart markers; 0 if there are none.
    pub(super) interval: u32,
    /// Range of coefficients, for a progressive scan.
    pub(super) band: RangeInclusive<u32>,
}

/// Reason why coded data are no whole scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data end before the last block.
    Short,
    /// Bits are no code.
    Code,
    /// A coefficient follows the last one.
    Coefficient,
    /// Empty blocks follow the last one.
    Run,
    /// Bytes before a marker belong to no block.
    LeftOver(usize),
    /// The restart marker of this number is missing.
    Restart(u8),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => out.write_str("the coded data end"),
            Self::Code => out.write_str("the coded data hold an invalid code"),
            Self::Coefficient => out.write_str("the coded data hold a coefficient behind the last one"),
            Self::Run => out.write_str("the coded data hold empty blocks behind the last one"),
            Self::LeftOver(bytes) => write!(out, "{bytes} bytes of coded data are left over"),
            Self::Restart(number) => write!(out, "restart marker {number} is missing"),
        }
    }
}

/// A fault, and the number of units before it.
pub(super) type Found = (Fault, u32);

impl Scan<'_> {
    /// Reads the scan whose coded data begin at `position`, and returns the position of their end. `nonzero` has 64 bits a block of the
    /// component; a bit is set where an earlier scan coded a coefficient other than 0. Only refinements of progressive pictures use it.
    pub(super) fn read(&self, jpeg: &[u8], position: usize, nonzero: &mut [u64]) -> Result<usize, Found> {
        let mut segment = Segment::default();
        let mut end = segment.take(jpeg, position);
        let mut bits = segment.bits();
        let mut restarts = 0;
        let mut run = 0;
        for unit in 0..self.units {
            if self.interval > 0 && unit > 0 && unit.is_multiple_of(self.interval) {
                ended(bits, run).map_err(|fault| (fault, unit))?;
                let behind = restarted(jpeg, end, restarts).ok_or((Fault::Restart(restarts), unit))?;
                end = segment.take(jpeg, behind);
                bits = segment.bits();
                restarts = (restarts + 1) % 8;
            }
            self.read_unit(&mut bits, &mut run, nonzero.get_mut(unit as usize)).map_err(|fault| (fault, unit))?;
            if bits.is_exhausted() {
                return Err((Fault::Short, unit));
            }
        }
        ended(bits, run).map_err(|fault| (fault, self.units))?;
        Ok(end)
    }

    fn read_unit(&self, bits: &mut Bits<'_>, run: &mut u32, nonzero: Option<&mut u64>) -> Result<(), Fault> {
        let mut none = 0;
        let nonzero = nonzero.unwrap_or(&mut none);
        for part in &self.parts {
            for _ in 0..part.blocks {
                match &part.coding {
                    Coding::Whole { dc, ac } => *bits = whole(*bits, dc, ac)?,
                    Coding::DcFirst(codes) => dc_first(bits, codes)?,
                    Coding::DcNext => bits.skip_many(1),
                    Coding::AcFirst(codes) => ac_first(bits, codes, &self.band, run, nonzero)?,
                    Coding::AcNext(codes) => ac_next(bits, codes, &self.band, run, nonzero)?,
                }
            }
        }
        Ok(())
    }
}

/// Ends a run of units between markers. `run` is the number of announced empty blocks that are still due.
fn ended(bits: Bits<'_>, run: u32) -> Result<(), Fault> {
    match (run, bits.left_over()) {
        (0, 0) => Ok(()),
        (0, bytes) => Err(Fault::LeftOver(bytes)),
        _ => Err(Fault::Run),
    }
}

/// Returns the position behind the restart marker of this number, if it stands at `position`.
fn restarted(jpeg: &[u8], position: usize, number: u8) -> Option<usize> {
    let fill = jpeg[position..].iter().take_while(|byte| **byte == 0xFF).count();
    let behind = position + fill;
    (fill > 0 && jpeg.get(behind) == Some(&(0xD0 + number))).then_some(behind + 1)
}

/// Reads a block, by chains of codes where possible. It takes the bits by value, so that they can stay in registers.
///
/// # Source
/// ITU-T T.81, F.2.2.1 and F.2.2.2.
#[inline]
fn whole<'a>(mut bits: Bits<'a>, dc: &Codes, ac: &Codes) -> Result<Bits<'a>, Fault> {
    dc_first(&mut bits, dc)?;
    let chains = ac.chains();
    let mut at = 1;
    loop {
        bits.fill();
        if let Some(is_done) = chained(&mut bits, chains, &mut at) {
            // The bits last for two chains.
            if is_done || chained(&mut bits, chains, &mut at) == Some(true) {
                return Ok(bits);
            }
            continue;
        }
        let entry = ac.peek(&bits).ok_or(Fault::Code)?;
        bits.skip(whole_length(entry));
        at += step(entry);
        if at > COEFFICIENTS && symbol(entry) & 15 != 0 {
            return Err(Fault::Coefficient);
        }
        if entry & END != 0 || at >= COEFFICIENTS {
            return Ok(bits);
        }
    }
}

/// Consumes a chain that lies within the block, and returns whether the block is done; `None` if there is no such chain.
#[inline(always)]
fn chained(bits: &mut Bits<'_>, chains: &Chains, at: &mut u32) -> Option<bool> {
    let chain = chains.peek(bits);
    let next = *at + chain_step(chain);
    if chain == 0 || next > COEFFICIENTS {
        return None;
    }
    bits.skip(chain_length(chain));
    *at = next;
    Some(chain_ends(chain) || next == COEFFICIENTS)
}

#[inline(always)]
fn dc_first(bits: &mut Bits<'_>, codes: &Codes) -> Result<(), Fault> {
    bits.fill();
    let entry = codes.peek(bits).ok_or(Fault::Code)?;
    bits.skip(whole_length(entry));
    Ok(())
}

/// Reads the high bits of a band.
///
/// # Source
/// ITU-T T.81, G.1.2.2.
fn ac_first(bits: &mut Bits<'_>, codes: &Codes, band: &RangeInclusive<u32>, run: &mut u32, nonzero: &mut u64) -> Result<(), Fault> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut at = *band.start();
    while at <= *band.end() {
        bits.fill();
        let entry = codes.peek(bits).ok_or(Fault::Code)?;
        bits.skip(whole_length(entry));
        if entry & END != 0 {
            *run = run_length(bits, entry) - 1;
            return Ok(());
        }
        at += step(entry);
        if symbol(entry) & 15 != 0 {
            if at - 1 > *band.end() {
                return Err(Fault::Coefficient);
            }
            *nonzero |= 1 << (at - 1);
        }
    }
    Ok(())
}

/// Reads the number of blocks that end here, this one included.
fn run_length(bits: &mut Bits<'_>, entry: u32) -> u32 {
    let size = u32::from(symbol(entry) >> 4);
    if size == 0 {
        return 1;
    }
    bits.fill();
    let more = bits.peek(size);
    bits.skip(size);
    (1 << size) + more
}

/// Reads one more bit of a band.
///
/// # Source
/// ITU-T T.81, G.1.2.3.
fn ac_next(bits: &mut Bits<'_>, codes: &Codes, band: &RangeInclusive<u32>, run: &mut u32, nonzero: &mut u64) -> Result<(), Fault> {
    let earlier = *nonzero;
    let mut at = *band.start();
    while *run == 0 && at <= *band.end() {
        bits.fill();
        let entry = codes.peek(bits).ok_or(Fault::Code)?;
        bits.skip(length(entry));
        if entry & END != 0 {
            *run = run_length(bits, entry);
            break;
        }
        let is_new = match symbol(entry) & 15 {
            0 => false,
            1 => true,
            _ => return Err(Fault::Code),
        };
        bits.skip_many(u32::from(is_new));
        let (reached, passed) = behind_zeros(earlier, at..=*band.end(), u32::from(symbol(entry) >> 4));
        bits.skip_many(passed);
        if is_new {
            if reached > *band.end() {
                return Err(Fault::Coefficient);
            }
            *nonzero |= 1 << reached;
        }
        at = reached + 1;
    }
    if *run > 0 {
        let rest = if at <= *band.end() { (earlier >> at << at & (u64::MAX >> (63 - band.end()))).count_ones() } else { 0 };
        bits.skip_many(rest);
        *run -= 1;
    }
    Ok(())
}

/// Returns the place of the zero in `band` with `zeros` other zeros before it, and the number of nonzero coefficients before it. Without
/// such a zero the place is one past the band.
fn behind_zeros(nonzero: u64, band: RangeInclusive<u32>, mut zeros: u32) -> (u32, u32) {
    let mut passed = 0;
    for at in band.clone() {
        match (nonzero >> at & 1, zeros) {
            (1, _) => passed += 1,
            (_, 0) => return (at, passed),
            _ => zeros -= 1,
        }
    }
    (*band.end() + 1, passed)
}
