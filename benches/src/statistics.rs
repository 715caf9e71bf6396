//! Medians, spreads and pairwise ratios.

/// Median; `None` of nothing. Values that are not finite are left out.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// Smallest and largest.
#[must_use]
pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

/// Quotients of the pairs of one round each; pairs without a meaningful quotient are left out.
#[must_use]
pub fn ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    pairs.iter().filter(|(_, base)| *base > 0.0).map(|(value, base)| value / base).filter(|ratio| ratio.is_finite()).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[f64::NAN]), None);
    }

    #[test]
    fn ratios_leave_out_what_has_no_base() {
        assert_eq!(ratios(&[(2.0, 1.0), (1.0, 0.0), (3.0, 2.0)]), vec![2.0, 1.5]);
        assert_eq!(range(&[2.0, 1.5, 9.0]), Some((1.5, 9.0)));
    }
}
