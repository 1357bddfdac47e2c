//! The phases of a start, one after another.

use super::stats::Summary;

/// Samples of when each phase ended, in milliseconds since the start.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The end of its file's name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
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
    /// One of these phases.
    #[must_use]
    pub fn new(name: &'static str, title: &'static str, phases: &[&str]) -> Self {
        let phases = phases.iter().map(|phase| ((*phase).to_owned(), Vec::new()));
        Self {
            name,
            title,
            phases: phases.collect(),
        }
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
        let mut timeline = Timeline::new("timeline", "A start", &["a", "b"]);
        assert!(timeline.phases().is_empty());
        timeline.note(&[1.0, 5.0]);
        timeline.note(&[3.0, 7.0]);
        let phases = timeline.phases();
        assert_eq!((phases[0].begin, phases[0].end.median), (0.0, 2.0));
        assert_eq!((phases[1].begin, phases[1].end.median), (2.0, 6.0));
    }
}
