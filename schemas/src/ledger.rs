//! Ledger: every sample and document is accounted for, or nothing is published.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::LedgerError;

/// Fate of the samples of a unit, window or version: `in = kept + refused + duplicate + withdrawn + quarantined`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleLedger {
    /// Samples that the sources hold.
    #[serde(rename = "in")]
    pub input: u64,
    /// Samples that made documents.
    pub kept: u64,
    /// Samples refused, by `stage.reason`.
    pub refused: BTreeMap<String, u64>,
    /// Samples that were dropped because an equal one stays.
    pub duplicate: u64,
    /// Samples that were withdrawn.
    pub withdrawn: u64,
    /// Samples of units that failed and were set aside.
    pub quarantined: u64,
    /// Parts that samples lost, by `part.reason`: captions, boxes, fields, members of tars. They are not samples, so the sum leaves them
    /// out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// Reason for counting duplicates whose annotations, or images beside the main one, differ from those of the sample that stays.
pub const OTHER_ANNOTATIONS: &str = "duplicates.other_annotations";

impl SampleLedger {
    /// Returns one line for people on each kind of lost part, with advice where there is any.
    #[must_use]
    pub fn dropped_lines(&self) -> Vec<String> {
        let advice = |reason: &str| match reason {
            OTHER_ANNOTATIONS => "; sort lists by image, so that all rows of an image are one sample, or set dedup.by = \"sample\"",
            _ => "",
        };
        self.dropped.iter().map(|(reason, count)| format!("{count} dropped: {reason}{}", advice(reason))).collect()
    }

    /// Returns the number of refused samples, over all reasons.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Checks that the numbers add up; `scope` names the unit, window or version in the error.
    ///
    /// # Errors
    /// [`LedgerError::Samples`].
    pub fn check(&self, scope: &str) -> Result<(), LedgerError> {
        let sum = self.kept + self.refused_total() + self.duplicate + self.withdrawn + self.quarantined;
        if sum == self.input { Ok(()) } else { Err(LedgerError::Samples { scope: scope.to_owned(), ledger: self.to_string() }) }
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.input += other.input;
        self.kept += other.kept;
        add_counts(&mut self.refused, &other.refused);
        add_counts(&mut self.dropped, &other.dropped);
        self.duplicate += other.duplicate;
        self.withdrawn += other.withdrawn;
        self.quarantined += other.quarantined;
    }
}

impl fmt::Display for SampleLedger {
    /// Writes one line with the numbers under their names: `in 75 = kept 70 + refused 3 + duplicate 2 + withdrawn 0 + quarantined 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, kept, duplicate, withdrawn, quarantined, .. } = self;
        let refused = self.refused_total();
        write!(
            f,
            "in {input} = kept {kept} + refused {refused} + duplicate {duplicate} + withdrawn {withdrawn} + quarantined {quarantined}"
        )
    }
}

/// Fate of the documents: `built = packed + refused + withdrawn`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentLedger {
    /// Documents that `instruct` began to build.
    pub built: u64,
    /// Documents in packs.
    pub packed: u64,
    /// Documents refused, by `stage.reason`.
    pub refused: BTreeMap<String, u64>,
    /// Documents that were taken out of their packs, with a withdrawn sample that they were made of or had retrieved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withdrawn: u64,
    /// Built documents whose texts were cut at the end so that they fit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shortened: u64,
    /// Documents that were not begun, by `task.missing content`; they count nowhere else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lacking: BTreeMap<String, u64>,
}

fn add_counts(counts: &mut BTreeMap<String, u64>, others: &BTreeMap<String, u64>) {
    for (reason, count) in others {
        *counts.entry(reason.clone()).or_default() += count;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl DocumentLedger {
    /// Checks that the numbers add up.
    ///
    /// # Errors
    /// [`LedgerError::Documents`].
    pub fn check(&self, scope: &str) -> Result<(), LedgerError> {
        let refused = self.refused.values().sum();
        if self.packed + refused + self.withdrawn == self.built {
            return Ok(());
        }
        let Self { built, packed, withdrawn, .. } = *self;
        Err(LedgerError::Documents { scope: scope.to_owned(), built, packed, refused, withdrawn })
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.built += other.built;
        self.packed += other.packed;
        add_counts(&mut self.refused, &other.refused);
        self.withdrawn += other.withdrawn;
        self.shortened += other.shortened;
        add_counts(&mut self.lacking, &other.lacking);
    }
}

impl fmt::Display for DocumentLedger {
    /// Writes one line with the numbers under their names: `built 386 = packed 380 + refused 6`, and `+ withdrawn 2` if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "built {} = packed {} + refused {}", self.built, self.packed, self.refused.values().sum::<u64>())?;
        if self.withdrawn > 0 { write!(f, " + withdrawn {}", self.withdrawn) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_sample_is_noticed() {
        let mut ledger = SampleLedger { input: 3, kept: 1, duplicate: 1, ..SampleLedger::default() };
        assert!(ledger.check("window 0").is_err());
        ledger.refused.insert("filter.too_small".into(), 1);
        assert_eq!(ledger.check("window 0"), Ok(()));
        assert_eq!(ledger.to_string(), "in 3 = kept 1 + refused 1 + duplicate 1 + withdrawn 0 + quarantined 0");
    }

    #[test]
    fn withdrawn_documents_are_counted_and_ledgers_without_them_read_as_before() {
        let text = r#"{"built":3,"packed":2,"refused":{"instruct.too_long":1}}"#;
        let mut ledger: DocumentLedger = serde_json::from_str(text).expect("a ledger");
        assert_eq!(serde_json::to_string(&ledger).expect("JSON"), text);
        assert_eq!(ledger.to_string(), "built 3 = packed 2 + refused 1");
        ledger.packed = 1;
        assert!(ledger.check("window 0").is_err());
        ledger.withdrawn = 1;
        assert_eq!(ledger.check("window 0"), Ok(()));
        assert_eq!(ledger.to_string(), "built 3 = packed 1 + refused 1 + withdrawn 1");
    }
}
