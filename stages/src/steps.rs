//! The stages of a segment, listed once: the list names them in the keys of units, and the chain that makes these units is built from it.

use crate::stage::{Chain, Map, Revised, Stage, Transform};

/// Stages in order, each with how it is made of a context `C`.
pub struct Steps<'a, C> {
    steps: Vec<Step<'a, C>>,
}

/// Appends one stage, made of a context, to a chain.
type Append<'a, C> = Box<dyn Fn(Chain, &C) -> Chain + Send + 'a>;

struct Step<'a, C> {
    code: (&'static str, u32),
    append: Append<'a, C>,
}

impl<C> Default for Steps<'_, C> {
    fn default() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<'a, C> Steps<'a, C> {
    /// Adds the stage that `make` makes.
    #[must_use]
    pub fn then<S: Stage + Revised>(mut self, make: impl Fn(&C) -> S + Send + 'a) -> Self {
        let append = move |chain: Chain, context: &C| chain.then(make(context));
        self.steps.push(Step { code: (S::NAME, S::REVISION), append: Box::new(append) });
        self
    }

    /// Adds the transform that `make` makes.
    #[must_use]
    pub fn map<T: Transform>(self, make: impl Fn(&C) -> T + Send + 'a) -> Self {
        self.then(move |context| Map(make(context)))
    }

    /// Adds the steps of `other` behind these.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.steps.extend(other.steps);
        self
    }

    /// Name and revision of each stage, in order, as keys take them.
    pub fn codes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.steps.iter().map(|step| step.code)
    }

    /// Appends the stages, made of `context`, to `chain`.
    #[must_use]
    pub fn append_to(&self, chain: Chain, context: &C) -> Chain {
        self.steps.iter().fold(chain, |chain, step| (step.append)(chain, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Head;
    use crate::{fixtures, index, shuffle};

    #[test]
    fn the_chain_has_the_stages_that_keys_name() {
        let steps = Steps::default().then(|seed: &u64| shuffle::Shuffle::new(*seed)).and(Steps::default().map(|_| index::Index));
        let masked = fixtures::masked();
        let chain = steps.append_to(Chain::new(Head::Batches(masked.schema(), vec![masked])), &fixtures::SEED);
        assert_eq!(steps.codes().collect::<Vec<_>>(), [("shuffle", shuffle::REVISION), ("index", index::REVISION)]);
        assert_eq!(chain.stages().collect::<Vec<_>>(), ["shuffle", "index"]);
    }
}
