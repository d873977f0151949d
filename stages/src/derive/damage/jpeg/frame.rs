//! Frame header of a JPEG: size and components of its picture.

/// Side of a block in samples.
const BLOCK: u32 = 8;

/// Frame header.
///
/// # Source
/// ITU-T T.81, B.2.2 and A.1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    /// `true` if coefficients come in several scans, band by band and bit by bit.
    pub(super) is_progressive: bool,
    /// Components in header order, 1 to 4.
    pub(super) components: Vec<Component>,
}

/// One component: samples of one kind, such as luminance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    /// Id in scan headers.
    pub(super) id: u8,
    /// Blocks side by side in a unit of all components, 1 to 4.
    pub(super) across: u32,
    /// Blocks one above the other in such a unit, 1 to 4.
    pub(super) down: u32,
}

impl Frame {
    /// Parses the header's content, without its length.
    pub(super) fn parse(is_progressive: bool, content: &[u8]) -> Option<Self> {
        let (&[precision, h1, h0, w1, w0, count], rest) = content.split_first_chunk::<6>()?;
        let (height, width) = (u32::from(u16::from_be_bytes([h1, h0])), u32::from(u16::from_be_bytes([w1, w0])));
        let component = |&[id, factors, _]: &[u8; 3]| Component { id, across: u32::from(factors >> 4), down: u32::from(factors & 15) };
        let components: Vec<Component> = rest.as_chunks::<3>().0.iter().map(component).collect();
        let factors = 1..=4;
        let is_sound = precision == 8
            && width > 0
            && height > 0
            && (1..=4).contains(&components.len())
            && components.len() == usize::from(count)
            && components.iter().all(|component| factors.contains(&component.across) && factors.contains(&component.down));
        is_sound.then_some(Self { width, height, is_progressive, components })
    }

    /// Returns the numbers of units of all components, across and down.
    pub(super) fn units(&self) -> (u32, u32) {
        let (across, down) = self.most();
        (self.width.div_ceil(BLOCK * across), self.height.div_ceil(BLOCK * down))
    }

    /// Returns the numbers of blocks of a component that is coded alone, across and down.
    pub(super) fn blocks(&self, component: &Component) -> (u32, u32) {
        let (across, down) = self.most();
        ((self.width * component.across).div_ceil(BLOCK * across), (self.height * component.down).div_ceil(BLOCK * down))
    }

    /// Returns the number of blocks of all components, with those that fill up the last units.
    pub(super) fn all_blocks(&self) -> u64 {
        let (across, down) = self.units();
        let in_unit: u32 = self.components.iter().map(|component| component.across * component.down).sum();
        u64::from(across) * u64::from(down) * u64::from(in_unit)
    }

    fn most(&self) -> (u32, u32) {
        let most = |factor: fn(&Component) -> u32| self.components.iter().map(factor).max().unwrap_or(1);
        (most(|component| component.across), most(|component| component.down))
    }
}

/// Checks whether a frame with this marker is progressive; `None` for other markers, and for frames that are not read here (arithmetic,
/// lossless, hierarchical).
pub(super) const fn progressive(code: u8) -> Option<bool> {
    match code {
        0xC0 | 0xC1 => Some(false),
        0xC2 => Some(true),
        _ => None,
    }
}
