//! Tasks: descriptions of units to make. A worker needs nothing else but configuration, artefacts and store.

use std::sync::Arc;

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::window::WindowKeys;
use cm3flow_stages::ingest::PlannedUnit;

/// A window as the tasks of its units see it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WindowTask {
    /// Keys of all its units.
    pub keys: WindowKeys,
    /// Settle keys of all earlier windows, in order.
    pub earlier: Vec<Digest>,
    /// Digest of the blocked ids for this window.
    pub blocklist: Option<Digest>,
}

/// A unit to make.
#[derive(Debug, Clone)]
pub(crate) enum UnitTask {
    /// A unit that exists; nothing else is known about it.
    Found {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
    },
    /// A source unit, with the place to read it from.
    Prepare {
        /// Key of the unit.
        key: Digest,
        /// Place of its rows in the source.
        source: Arc<PlannedUnit>,
    },
    /// The decisions about a window.
    Settle(Arc<WindowTask>),
    /// The documents of the unit at `place` in its window.
    Compose {
        /// The unit's window.
        window: Arc<WindowTask>,
        /// Index among the window's units.
        place: usize,
    },
    /// The packs of a split of a window.
    Pack {
        /// The window of the packs.
        window: Arc<WindowTask>,
        /// Split of the packs.
        split: Split,
    },
}

impl UnitTask {
    /// Returns the unit's key.
    pub(crate) fn key(&self) -> Digest {
        match self {
            Self::Found { key, .. } | Self::Prepare { key, .. } => *key,
            Self::Settle(window) => window.keys.settle(),
            Self::Compose { window, place } => window.keys.compose[*place],
            Self::Pack { window, split } => window.keys.pack_of(*split),
        }
    }

    /// Returns the unit's segment.
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
