//! Passes: one loop over the packs, to its end. Pass `n` of `e` epochs reads the epochs from `n * e` on. Passes follow each other in the
//! order of a reader without end, so a position alone determines its pass.

use super::mixed::MixReader;
use crate::error::{Result, StageError};

/// Place to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// The present position.
    Here,
    /// The present position, or the next pass if nothing is left of the present one.
    HereOrNext,
    /// The beginning of this pass, or the present position if that lies inside.
    Pass(u64),
    /// The present position, which belongs to this pass.
    Inside(u64),
}

/// Passes of `epochs` epochs over a mixture; a read needs at least `least` packs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passes {
    pub(super) epochs: u64,
    pub(super) least: u64,
}

impl Passes {
    /// Returns the first epoch behind `pass`.
    pub(super) const fn end(self, pass: u64) -> u64 {
        pass.saturating_add(1).saturating_mul(self.epochs)
    }

    /// Returns pass and position to begin at, for a reader at position `at`.
    ///
    /// # Errors
    /// [`StageError::ReaderState`] for a pass before the present one, and those of the feeds.
    pub(super) async fn find(self, mix: &mut MixReader, at: u64, begin: Begin) -> Result<(u64, u64)> {
        let here = match begin {
            Begin::Inside(pass) => return Ok((pass, at)),
            _ => self.pass_of(mix, at).await?,
        };
        let pass = match begin {
            Begin::Pass(pass) => pass,
            Begin::HereOrNext if !mix.holds(at.saturating_add(self.least), self.end(here)).await? => here + 1,
            _ => here,
        };
        if pass < here {
            let problem = format!("it stands in epoch {here}, and epoch {pass} was asked for, which lies before it; ask for epoch {here}");
            return Err(StageError::ReaderState { problem });
        }
        if pass == here {
            return Ok((pass, at));
        }
        Ok((pass, mix.total(pass.saturating_mul(self.epochs)).await?))
    }

    /// Returns the pass that contains `at` or ends with it: a state is behind a batch, never before the first one.
    async fn pass_of(self, mix: &mut MixReader, at: u64) -> Result<u64> {
        if mix.holds(at, self.end(0)).await? || mix.total(u64::MAX).await? == 0 {
            return Ok(0);
        }
        let mut above = 1;
        while above < u64::MAX && !mix.holds(at, self.end(above)).await? {
            above = above.saturating_mul(2);
        }
        let mut below = above / 2;
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if mix.holds(at, self.end(middle)).await? {
                above = middle;
            } else {
                below = middle;
            }
        }
        Ok(above)
    }
}
