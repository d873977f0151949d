//! Tasks: what a unit is made of. With configuration, artefacts and store that is all that a worker needs.

use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::window::WindowKeys;
use cm3flow_stages::ingest::PlannedUnit;

/// A window as its units see it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WindowTask {
    /// Keys of everything that is made of it.
    pub keys: WindowKeys,
    /// Settle keys of all earlier windows, in order.
    pub earlier: Vec<Digest>,
    /// Digest of the blocked ids that hold for it.
    pub blocklist: Option<Digest>,
}

/// A unit to be made.
#[derive(Debug, Clone)]
pub(crate) enum UnitTask {
    /// A unit that is there: nothing else is known of it.
    Found {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
    },
    /// A source unit, with where it is read from.
    Prepare {
        /// Its key.
        key: Digest,
        /// What is read.
        source: Arc<PlannedUnit>,
    },
    /// A window.
    Settle(Arc<WindowTask>),
    /// The documents of the unit at `place` in its window.
    Compose {
        /// Its window.
        window: Arc<WindowTask>,
        /// Index among the window's units.
        place: usize,
    },
    /// The packs of a split of a window.
    Pack {
        /// The window.
        window: Arc<WindowTask>,
        /// The split.
        split: Split,
    },
}

impl UnitTask {
    /// The unit's key.
    pub(crate) fn key(&self) -> Digest {
        match self {
            Self::Found { key, .. } | Self::Prepare { key, .. } => *key,
            Self::Settle(window) => window.keys.settle(),
            Self::Compose { window, place } => window.keys.compose[*place],
            Self::Pack { window, split } => window.keys.pack_of(*split),
        }
    }

    /// Its segment.
    pub(crate) const fn segment(&self) -> SegmentName {
        match self {
            Self::Found { segment, .. } => *segment,
            Self::Prepare { .. } => SegmentName::Prepare,
            Self::Settle(_) => SegmentName::Settle,
            Self::Compose { .. } => SegmentName::Compose,
            Self::Pack { .. } => SegmentName::Pack,
        }
    }
}
