//! The phases of a start, one after another.

use super::stats::Summary;

/// Samples of when each phase ended, in milliseconds since the start.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    phases: Vec<(String, Vec<f64>)>,
}

/// A phase and where its medians lie, in milliseconds since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// For people.
    pub name: String,
    /// Median of its beginning.
    pub begin: f64,
    /// Its end.
    pub end: Summary,
}

impl Timeline {
    /// Names the phases.
    pub fn name(&mut self, names: &[&str]) {
        self.phases = names
            .iter()
            .map(|name| ((*name).to_owned(), Vec::new()))
            .collect();
    }

    /// Takes one sample: when each phase ended.
    pub fn note(&mut self, ends: &[f64]) {
        for ((_, samples), end) in self.phases.iter_mut().zip(ends) {
            samples.push(*end);
        }
    }

    /// The phases in their order; none before there are samples.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        let mut begin = 0.0;
        let phase = |(name, samples): &(String, Vec<f64>)| {
            let end = Summary::of(samples)?;
            let phase = Phase {
                name: name.clone(),
                begin,
                end,
            };
            begin = phase.end.median;
            Some(phase)
        };
        self.phases.iter().map_while(phase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_begins_where_the_last_one_ended() {
        let mut timeline = Timeline::default();
        timeline.name(&["a", "b"]);
        assert!(timeline.phases().is_empty());
        timeline.note(&[1.0, 5.0]);
        timeline.note(&[3.0, 7.0]);
        let phases = timeline.phases();
        assert_eq!((phases[0].begin, phases[0].end.median), (0.0, 2.0));
        assert_eq!((phases[1].begin, phases[1].end.median), (2.0, 6.0));
    }
}
