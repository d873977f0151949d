//! Keys of all units of a window, known before any work begins. Each segment defines its key beside its stages.

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::window::{SourceUnit, WindowKeys};

use crate::artefact::Artefacts;
use crate::config::Config;

/// Maker of the keys under one configuration and its artefacts.
#[derive(Clone, Copy)]
pub(crate) struct KeyMaker<'a> {
    pub config: &'a Config,
    pub artefacts: &'a Artefacts,
}

impl KeyMaker<'_> {
    /// Returns the keys of the window of `units` after the window with the settle key `settled_before`.
    pub(crate) fn window(&self, settled_before: Option<Digest>, units: &[SourceUnit], blocklist: Option<Digest>) -> WindowKeys {
        let prepare: Vec<Digest> = units.iter().map(|unit| self.prepare(unit)).collect();
        let settle = self.settle(settled_before, &prepare, blocklist);
        let compose: Vec<Digest> = prepare.iter().enumerate().map(|(place, prepared)| self.compose(settle, *prepared, place)).collect();
        let pack = Split::ALL.map(|split| self.pack(&compose, split));
        WindowKeys { compose, pack, prepare, settle: [settle] }
    }
}
