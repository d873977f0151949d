//! Walk through the segments of a JPEG and the blocks of its scans.

use std::borrow::Cow;

use super::frame::{Frame, progressive};
use super::huffman::Codes;
use super::scan::{Coding, Fault, Part, Scan};
use super::standard;
use crate::error::DecodeError;

/// End of a whole JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::derive) enum Ending {
    /// Its end marker, or other data behind the picture.
    Marked,
    /// End of the file in place of the end marker.
    Unmarked,
    /// Unknown: only the decoder can judge this kind of JPEG.
    Unknown,
}

/// State of a coefficient that no scan has coded yet.
const UNCODED: i8 = -1;

/// Checks the coded data of a JPEG.
///
/// # Errors
/// `truncated_image` where blocks are missing, `damaged_image` where codes are invalid or bytes are left over.
pub(in crate::derive) fn look(jpeg: &[u8]) -> Result<Ending, DecodeError> {
    let mut walk =
        Walk { jpeg, position: 2, frame: None, tables: Default::default(), interval: 0, bits: Vec::new(), nonzero: Vec::new(), scans: 0 };
    loop {
        if let Some(ending) = walk.step()? {
            return Ok(ending);
        }
    }
}

/// Returns the JPEG with an end marker appended.
pub(in crate::derive) fn closed(jpeg: &[u8]) -> Vec<u8> {
    [jpeg, &[0xFF, 0xD9]].concat()
}

/// Returns the bytes of the coefficients that a decoder keeps until the last scan, and of the bits that [`look`] keeps: 64 times 16 bits
/// and 64 bits a block. 0 if one scan has all components.
pub(in crate::derive) fn coefficient_bytes(jpeg: &[u8]) -> u64 {
    let (mut position, mut frame) = (2, None);
    while let Some((code, content, behind)) = segment(jpeg, position) {
        match code {
            0xDA => {
                let frame = frame.filter(|frame: &Frame| {
                    frame.is_progressive || content.first().map(|count| *count as usize) != Some(frame.components.len())
                });
                return frame.map_or(0, |frame| frame.all_blocks() * (64 * 2 + 64 / 8));
            }
            _ => frame = frame.or_else(|| Frame::parse(progressive(code)?, content)),
        }
        position = behind;
    }
    0
}

/// Returns the first segment at or behind `position`: the code of its marker, its content, and the position of its end. A marker without
/// length has empty content. `None` if no whole segment is left.
///
/// # Source
/// ITU-T T.81, B.1.1.3 and B.1.1.4: any number of 0xFF may stand before the code; only 0x01 and 0xD0 to 0xD9 have no length.
pub(super) fn segment(jpeg: &[u8], mut position: usize) -> Option<(u8, &[u8], usize)> {
    loop {
        position += jpeg.get(position..)?.iter().position(|byte| *byte == 0xFF)?;
        position += jpeg[position..].iter().take_while(|byte| **byte == 0xFF).count();
        let code = *jpeg.get(position)?;
        position += 1;
        match code {
            0x00 => {}
            0x01 | 0xD0..=0xD9 => return Some((code, &[], position)),
            _ => {
                let length = usize::from(u16::from_be_bytes(*jpeg[position..].first_chunk::<2>()?));
                return Some((code, jpeg.get(position + 2..position + length)?, position + length));
            }
        }
    }
}

struct Walk<'a> {
    jpeg: &'a [u8],
    position: usize,
    frame: Option<Frame>,
    /// Tables of DC coefficients, then of AC coefficients, by number.
    tables: [[Option<Cow<'static, Codes>>; 4]; 2],
    /// Number of units between restart markers.
    interval: u32,
    /// By component and coefficient: the lowest bit that a scan has coded, or [`UNCODED`].
    bits: Vec<[i8; 64]>,
    /// By component and block, for a progressive picture: bits of coefficients that are known to differ from 0.
    nonzero: Vec<Vec<u64>>,
    scans: u32,
}

/// Part of a scan header: the index of a component in the frame, and the numbers of its tables.
struct Chosen {
    component: usize,
    dc: usize,
    ac: usize,
}

/// Header of a scan.
struct Header {
    chosen: Vec<Chosen>,
    /// First and last coefficient, 0 to 63.
    first: u32,
    last: u32,
    /// Lowest bit before this scan, and after it.
    high: i8,
    low: i8,
}

impl Header {
    /// Parses the content of a scan header.
    ///
    /// # Source
    /// ITU-T T.81, B.2.3.
    fn parse(content: &[u8], frame: &Frame) -> Option<Self> {
        let (&count, rest) = content.split_first()?;
        let (chosen, &[first, last, bits]) = rest.split_last_chunk::<3>()?;
        let chosen = chosen.as_chunks::<2>().0.iter().map(|[id, tables]| {
            let component = frame.components.iter().position(|component| component.id == *id)?;
            Some(Chosen { component, dc: usize::from(tables >> 4), ac: usize::from(tables & 15) })
        });
        let chosen: Vec<Chosen> = chosen.collect::<Option<_>>()?;
        let (first, last) = if frame.is_progressive { (u32::from(first), u32::from(last)) } else { (0, 63) };
        let (high, low) = if frame.is_progressive { ((bits >> 4) as i8, (bits & 15) as i8) } else { (0, 0) };
        let is_of_one_kind = !frame.is_progressive || (first == 0) == (last == 0);
        let is_sound = !chosen.is_empty()
            && chosen.len() == usize::from(count)
            && first <= last
            && last < 64
            && is_of_one_kind
            && (first == 0 || chosen.len() == 1);
        is_sound.then_some(Self { chosen, first, last, high, low })
    }
}

impl Walk<'_> {
    /// Reads one segment, with the coded data behind it. Returns the ending once it is reached.
    fn step(&mut self) -> Result<Option<Ending>, DecodeError> {
        let start = self.position;
        let Some((code, content, behind)) = segment(self.jpeg, start) else { return self.ended().map(Some) };
        self.position = behind;
        match code {
            0xC4 => self.define(content).ok_or_else(|| damaged("a table of codes is damaged".into()))?,
            0xDD => self.interval = content.first_chunk::<2>().map_or(0, |interval| u16::from_be_bytes(*interval).into()),
            0xDA => return self.scan(content),
            0xD9 if self.scans > 0 => return self.is_complete().map(|()| Some(Ending::Marked)),
            _ if self.frame.is_none() && matches!(code, 0xC0..=0xCF) && !matches!(code, 0xC8 | 0xCC) => {
                self.frame = progressive(code).and_then(|is_progressive| Frame::parse(is_progressive, content));
                let Some(frame) = &self.frame else { return Ok(Some(Ending::Unknown)) };
                self.bits = vec![[UNCODED; 64]; frame.components.len()];
                self.nonzero = vec![Vec::new(); frame.components.len()];
            }
            _ => {}
        }
        Ok(None)
    }

    /// Reads the tables of a segment; `None` if one is damaged.
    ///
    /// # Source
    /// ITU-T T.81, B.2.4.2.
    fn define(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let symbols: usize = counts.iter().copied().map(usize::from).sum();
            let table = self.tables.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))?;
            *table = Some(match standard::known(counts, rest) {
                Some(codes) => Cow::Borrowed(codes),
                None => Cow::Owned(Codes::try_new(counts, rest)?),
            });
            content = rest.get(symbols..)?;
        }
        Some(())
    }

    fn scan(&mut self, content: &[u8]) -> Result<Option<Ending>, DecodeError> {
        let Some(frame) = self.frame.take() else { return Ok(Some(Ending::Unknown)) };
        let header = Header::parse(content, &frame).ok_or_else(|| damaged("a scan header is damaged".into()))?;
        self.count(&header)?;
        self.scans += 1;
        let component = header.chosen[0].component;
        let mut nonzero = std::mem::take(&mut self.nonzero[component]);
        let scan = self.scan_of(&header, &frame).ok_or_else(|| damaged(format!("scan {} names a table that is missing", self.scans)))?;
        if header.first > 0 {
            nonzero.resize(scan.units as usize, 0);
        }
        let units = scan.units;
        let read = scan.read(self.jpeg, self.position, &mut nonzero);
        self.position = read.map_err(|(fault, unit)| self.fault(fault, unit, units))?;
        self.nonzero[component] = nonzero;
        let is_done = !frame.is_progressive && self.is_complete().is_ok();
        self.frame = Some(frame);
        self.skip_restart()?;
        match is_done {
            true if self.marker().is_none() => Ok(Some(Ending::Unmarked)),
            true => Ok(Some(Ending::Marked)),
            false => Ok(None),
        }
    }

    /// Returns the scan of `header` with the present tables; `None` if it names a missing one.
    fn scan_of(&self, header: &Header, frame: &Frame) -> Option<Scan<'_>> {
        let table = |class: usize, number: usize| self.tables[class].get(number)?.as_deref().or_else(|| standard::codes(class, number));
        let coding = |chosen: &Chosen| {
            Some(match (frame.is_progressive, header.first, header.high) {
                (false, ..) => Coding::Whole { dc: table(0, chosen.dc)?, ac: table(1, chosen.ac)? },
                (true, 0, 0) => Coding::DcFirst(table(0, chosen.dc)?),
                (true, 0, _) => Coding::DcNext,
                (true, _, 0) => Coding::AcFirst(table(1, chosen.ac)?),
                (true, ..) => Coding::AcNext(table(1, chosen.ac)?),
            })
        };
        let (across, down) = match header.chosen[..] {
            [Chosen { component, .. }] => frame.blocks(&frame.components[component]),
            _ => frame.units(),
        };
        let blocks = |chosen: &Chosen| {
            let component = &frame.components[chosen.component];
            if header.chosen.len() == 1 { 1 } else { component.across * component.down }
        };
        let parts = header.chosen.iter().map(|chosen| Some(Part { coding: coding(chosen)?, blocks: blocks(chosen) }));
        Some(Scan { parts: parts.collect::<Option<_>>()?, units: across * down, interval: self.interval, band: header.first..=header.last })
    }

    /// Records the bits that a scan codes. A scan must refine those before it.
    ///
    /// # Source
    /// ITU-T T.81, G.1.1.1.
    fn count(&mut self, header: &Header) -> Result<(), DecodeError> {
        for chosen in &header.chosen {
            for coded in &mut self.bits[chosen.component][header.first as usize..=header.last as usize] {
                let before = (*coded).max(0);
                let is_next = before == header.high && (header.high == 0 || header.low == header.high - 1);
                if !is_next || *coded == 0 {
                    return Err(damaged(format!("scan {} does not follow from those before it", self.scans + 1)));
                }
                *coded = header.low;
            }
        }
        Ok(())
    }

    /// Checks that all coefficients were coded to the last bit.
    fn is_complete(&self) -> Result<(), DecodeError> {
        let missing = self.bits.iter().flatten().filter(|bits| **bits != 0).count();
        if missing == 0 && self.scans > 0 {
            return Ok(());
        }
        let of = self.bits.len() * 64;
        Err(truncated(format!("scans are missing: after {} of them, {missing} of {of} coefficients of a block lack bits", self.scans)))
    }

    /// Judges a file that ends without an end marker.
    fn ended(&self) -> Result<Ending, DecodeError> {
        let rest = self.jpeg.get(self.position..).unwrap_or_default();
        if rest.iter().any(|byte| *byte != 0xFF) {
            return Err(truncated(format!("the JPEG ends within a segment, after {} bytes", self.jpeg.len())));
        }
        self.is_complete().map(|()| Ending::Unmarked)
    }

    /// Skips a marker behind the last interval, which some programs write. No data may follow it.
    fn skip_restart(&mut self) -> Result<(), DecodeError> {
        if let Some((0xD0..=0xD7, behind)) = self.marker() {
            let left_over = self.jpeg[behind..].iter().take_while(|byte| **byte != 0xFF).count();
            if left_over > 0 {
                return Err(damaged(format!("{left_over} bytes of coded data are left over behind scan {}", self.scans)));
            }
            self.position = behind;
        }
        Ok(())
    }

    /// Returns the code of the marker at this position, and the position behind it.
    fn marker(&self) -> Option<(u8, usize)> {
        let fill = self.jpeg[self.position..].iter().take_while(|byte| **byte == 0xFF).count();
        let behind = self.position + fill;
        self.jpeg.get(behind).map(|code| (*code, behind + 1))
    }

    fn fault(&self, fault: Fault, unit: u32, units: u32) -> DecodeError {
        let detail = format!("{fault} after {unit} of {units} units of scan {}", self.scans);
        if fault == Fault::Short { truncated(detail) } else { damaged(detail) }
    }
}

fn truncated(detail: String) -> DecodeError {
    ("truncated_image", detail)
}

fn damaged(detail: String) -> DecodeError {
    ("damaged_image", detail)
}
