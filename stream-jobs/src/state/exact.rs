//! Sums of floats that do not depend on the order of the values.
//!
//! A sum is kept as parts that do not overlap (Shewchuk 1997, "Adaptive precision floating-point arithmetic"), so that nothing is lost
//! while values come and go; what is shown is the exact sum, rounded once. So neither the cut, nor the panes, nor the number of
//! partitions shows in a result, and a value can be taken back.

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExactSum {
    /// The whole sum while it is one double; else the least part.
    first: f64,
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Rest {
    /// Further parts, greater and greater.
    parts: Vec<f64>,
    /// Values that are no numbers: counted, because they can be taken back.
    nan: i64,
    positive: i64,
    negative: i64,
    /// The sum of the values from [`LARGE`] on, times [`SMALLER`]: it may leave the range of a double and come back.
    large: Option<Box<ExactSum>>,
}

/// 2^1000.
const LARGE: f64 = f64::from_bits((1023 + 1000) << 52);
/// 2^-200.
const SMALLER: f64 = f64::from_bits((1023 - 200) << 52);

const HEADER: usize = 4 * size_of::<i64>();

impl ExactSum {
    pub fn add(&mut self, value: f64) {
        self.step(value, 1);
    }

    pub fn subtract(&mut self, value: f64) {
        self.step(value, -1);
    }

    pub fn merge(&mut self, other: &Self) {
        self.fold(other, 1);
    }

    pub fn retract(&mut self, other: &Self) {
        self.fold(other, -1);
    }

    fn fold(&mut self, other: &Self, sign: i64) {
        self.step(other.first, sign);
        let Some(theirs) = &other.rest else { return };
        for part in &theirs.parts {
            self.step(*part, sign);
        }
        if let Some(large) = &theirs.large {
            self.rest.get_or_insert_default().large.get_or_insert_default().fold(large, sign);
        }
        if (theirs.nan, theirs.positive, theirs.negative) != (0, 0, 0) {
            let mine = self.rest.get_or_insert_default();
            mine.nan += sign * theirs.nan;
            mine.positive += sign * theirs.positive;
            mine.negative += sign * theirs.negative;
        }
    }

    fn step(&mut self, value: f64, sign: i64) {
        if !value.is_finite() {
            let rest = self.rest.get_or_insert_default();
            let count = if value.is_nan() {
                &mut rest.nan
            } else if value > 0.0 {
                &mut rest.positive
            } else {
                &mut rest.negative
            };
            *count += sign;
            return;
        }
        let value = if sign < 0 { -value } else { value };
        if value.abs() >= LARGE {
            self.rest.get_or_insert_default().large.get_or_insert_default().step(value * SMALLER, 1);
            return;
        }
        let (high, low) = two_sum(self.first, value);
        if low == 0.0 && self.rest.as_ref().is_none_or(|r| r.parts.is_empty()) {
            self.first = high;
            return;
        }
        self.spread(high, low);
    }

    /// `low` is the error of the sum of the least part and a new value, `high` goes on through the greater parts.
    fn spread(&mut self, high: f64, low: f64) {
        let rest = self.rest.get_or_insert_default();
        let mut carry = high;
        let mut kept = Vec::with_capacity(rest.parts.len() + 2);
        if low != 0.0 {
            kept.push(low);
        }
        for part in &rest.parts {
            let (high, low) = two_sum(carry, *part);
            if low != 0.0 {
                kept.push(low);
            }
            carry = high;
        }
        if carry != 0.0 || kept.is_empty() {
            kept.push(carry);
        }
        self.first = kept.remove(0);
        rest.parts = kept;
    }

    /// The exact sum, rounded to the nearest double, ties to even.
    pub fn value(&self) -> f64 {
        let Some(rest) = &self.rest else { return self.first };
        match (rest.nan > 0, rest.positive > 0, rest.negative > 0) {
            (false, false, false) => {}
            (false, true, false) => return f64::INFINITY,
            (false, false, true) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        if let Some(large) = rest.large.as_ref().filter(|large| large.value() != 0.0) {
            let mut all = large.clone();
            rest.parts.iter().chain([&self.first]).for_each(|part| all.add(part * SMALLER));
            return all.value() / SMALLER;
        }
        let mut parts = rest.parts.iter().rev().copied().chain([self.first]).peekable();
        let mut high = parts.next().unwrap_or_default();
        while let Some(part) = parts.next() {
            let (sum, low) = two_sum(high, part);
            high = sum;
            if low == 0.0 {
                continue;
            }
            // Half way between two doubles the parts below decide.
            if parts.peek().is_some_and(|below| (*below < 0.0) == (low < 0.0) && *below != 0.0) {
                let (up, twice) = (high + low * 2.0, low * 2.0);
                if up - high == twice {
                    high = up;
                }
            }
            break;
        }
        high
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 16);
        let none = Rest::default();
        let rest = self.rest.as_deref().unwrap_or(&none);
        let large = rest.large.as_ref().map(|large| large.to_bytes()).unwrap_or_default();
        for count in [rest.nan, rest.positive, rest.negative, large.len() as i64] {
            bytes.extend(count.to_le_bytes());
        }
        bytes.extend(large);
        for part in std::iter::once(&self.first).chain(&rest.parts) {
            bytes.extend(part.to_le_bytes());
        }
        bytes
    }

    /// What [`ExactSum::to_bytes`] gave; `None` for other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(8).filter_map(|word| <[u8; 8]>::try_from(word).ok());
        let mut count = || words.next().map(i64::from_le_bytes);
        let (nan, positive, negative, large_bytes) = (count()?, count()?, count()?, usize::try_from(count()?).ok()?);
        let large = if large_bytes == 0 { None } else { Some(Box::new(Self::from_bytes(bytes.get(HEADER..HEADER + large_bytes)?)?)) };
        let mut words = words.skip(large_bytes / 8);
        let first = f64::from_le_bytes(words.next()?);
        let parts: Vec<f64> = words.map(f64::from_le_bytes).collect();
        let plain = parts.is_empty() && large.is_none() && (nan, positive, negative) == (0, 0, 0);
        Some(Self { first, rest: (!plain).then(|| Box::new(Rest { parts, nan, positive, negative, large })) })
    }
}

/// The rounded sum, and what rounding took away (Knuth, TAOCP 2, 4.2.2).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let rounded = sum - a;
    (sum, (a - (sum - rounded)) + (b - rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|v| sum.add(*v));
        sum
    }

    #[test]
    fn the_order_of_the_values_does_not_show() {
        let values = [1e16, 1.0, -1e16, 0.1, 0.2, 0.3, 1e-9, 3.5e12, -3.5e12];
        let wanted = sum(&values).value();
        assert_eq!(wanted, 1.600000001);
        for turn in 0..values.len() {
            let mut turned = values;
            turned.rotate_left(turn);
            assert_eq!(sum(&turned).value(), wanted);
            turned.reverse();
            assert_eq!(sum(&turned).value(), wanted);
            let (a, b) = turned.split_at(turn);
            let mut merged = sum(a);
            merged.merge(&sum(b));
            assert_eq!(merged.value(), wanted);
        }
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        // Out of the range of a double and back.
        assert_eq!(sum(&[f64::MAX, f64::MAX, 2.5, -f64::MAX, -f64::MAX]).value(), 2.5);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]).value(), f64::MAX);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        // A tie that the last part decides.
        assert_eq!(sum(&[1.0, 2f64.powi(-53), 2f64.powi(-120)]).value(), 1.0 + 2f64.powi(-52));
        assert_eq!(sum(&[1.0, 2f64.powi(-53)]).value(), 1.0);
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_behind() {
        let mut all = sum(&[0.1, 1e300, f64::INFINITY, 0.7]);
        assert_eq!(all.value(), f64::INFINITY);
        all.subtract(f64::INFINITY);
        all.retract(&sum(&[1e300, 0.7]));
        assert_eq!(all.value(), 0.1);
        all.subtract(0.1);
        assert_eq!(all.value(), 0.0);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
    }

    #[test]
    fn bytes_bring_a_sum_back() {
        for values in [&[][..], &[1.5], &[1e16, 1.0, 0.1], &[f64::NAN, 2.0], &[1e308, 1.0, f64::MAX, 3.0]] {
            let held = sum(values);
            assert_eq!(ExactSum::from_bytes(&held.to_bytes()), Some(held));
        }
        assert_eq!(ExactSum::from_bytes(&[1, 2, 3]), None);
    }
}
