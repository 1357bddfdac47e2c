//! Medians and spread of samples.

/// A summary of samples: order statistics only, because start-up times have long tails.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Number of samples.
    pub count: usize,
    /// Half of the samples are below.
    pub median: f64,
    /// A tenth of the samples are below.
    pub p10: f64,
    /// Nine tenths of the samples are below.
    pub p90: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
}

impl Summary {
    /// Summarises finite samples in any order; `None` when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            p10: quantile(&sorted, 0.1)?,
            p90: quantile(&sorted, 0.9)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// The quantile `q` (0 to 1) of sorted samples, interpolated between its two neighbours.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q * last as f64;
    // A place between 0 and `last` fits any integer.
    let low = place.floor() as usize;
    let (below, above) = (*sorted.get(low)?, *sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * (place - low as f64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]
    use super::*;

    #[test]
    fn summarises_in_any_order() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(
            summary,
            Summary {
                count: 101,
                median: 50.0,
                p10: 10.0,
                p90: 90.0,
                min: 0.0,
                max: 100.0
            }
        );
    }

    #[test]
    fn interpolates_between_two_samples() {
        let summary = Summary::of(&[3.0, 1.0]).unwrap();
        assert_eq!(summary.median, 2.0);
        assert!((summary.p10 - 1.2).abs() < 1e-9);
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert_eq!(Summary::of(&[1.0, 1.0, 1.0, 1.0, 900.0]).unwrap().median, 1.0);
    }

    #[test]
    fn has_nothing_to_say_about_nothing() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }
}
