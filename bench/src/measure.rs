//! What was measured of one scenario, pair by pair, and what is told of it.

use std::time::{Duration, Instant};

/// Ours and the baseline in the scenario's unit, one of each for every pair.
pub struct Figure {
    pub name: &'static str,
    pub ours: Vec<f64>,
    pub baseline: Vec<f64>,
}

impl Figure {
    pub fn new(name: &'static str) -> Figure {
        Figure { name, ours: Vec::new(), baseline: Vec::new() }
    }

    /// Over 1: ours is better.
    pub fn ratio(&self, higher_is_better: bool) -> f64 {
        let (ours, baseline) = (median(&self.ours), median(&self.baseline));
        if higher_is_better { ours / baseline } else { baseline / ours }
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Runs both, the baseline first in every other pair: what drifts meets both alike.
pub fn alternating<E>(
    pair: usize,
    ours: impl FnOnce() -> Result<f64, E>,
    baseline: impl FnOnce() -> Result<f64, E>,
) -> Result<(f64, f64), E> {
    if pair.is_multiple_of(2) {
        let baseline = baseline()?;
        Ok((ours()?, baseline))
    } else {
        let ours = ours()?;
        Ok((ours, baseline()?))
    }
}

pub fn timed<T, E>(act: impl FnOnce() -> Result<T, E>) -> Result<Duration, E> {
    let begun = Instant::now();
    act()?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::{Figure, median};

    #[test]
    fn a_ratio_over_one_means_that_ours_is_better() {
        let figure = Figure { name: "x", ours: vec![2.0, 9.0, 1.0], baseline: vec![4.0] };
        assert!((figure.ratio(false) - 2.0).abs() < 1e-9);
        assert!((figure.ratio(true) - 0.5).abs() < 1e-9);
        assert!((median(&[1.0, 3.0]) - 2.0).abs() < 1e-9);
    }
}
