//! Where windows lie: starts, ends and panes, in microseconds of event time. Bounds are half-open: `[start, end)`.

/// The windows of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// `HOP`: of one size, each begins a slide after the one before. `TUMBLE` slides by its size.
    Sliding { size_us: i64, slide_us: i64, offset_us: i64 },
    /// `CUMULATE`: inside of each whole window of `size_us` those that begin with it and end at each step.
    Growing { size_us: i64, step_us: i64, offset_us: i64 },
    /// `SESSION`: rows of a key less than the gap apart.
    Sessions { gap_us: i64 },
}

impl Windows {
    /// The least time between two windows that end after one another; of sessions, the gap.
    pub fn step_us(&self) -> i64 {
        match *self {
            Self::Sliding { slide_us: step, .. } | Self::Growing { step_us: step, .. } | Self::Sessions { gap_us: step } => step,
        }
    }

    /// The length of the longest; sessions have none.
    pub fn size_us(&self) -> Option<i64> {
        match *self {
            Self::Sliding { size_us, .. } | Self::Growing { size_us, .. } => Some(size_us),
            Self::Sessions { .. } => None,
        }
    }

    /// The greatest pane of which every window is a whole number; panes are aligned to the offset, as windows are.
    pub fn pane_us(&self) -> i64 {
        match *self {
            Self::Sliding { size_us, slide_us, .. } => gcd(size_us, slide_us),
            Self::Growing { step_us, .. } => step_us,
            Self::Sessions { gap_us } => gap_us,
        }
    }

    pub fn offset_us(&self) -> i64 {
        match *self {
            Self::Sliding { offset_us, .. } | Self::Growing { offset_us, .. } => offset_us,
            Self::Sessions { .. } => 0,
        }
    }

    /// True when no window shares a row with another, so that a window is one pane.
    pub fn are_panes(&self) -> bool {
        self.size_us() == Some(self.pane_us())
    }

    /// Windows of one pane each.
    pub fn panes(&self) -> Self {
        let pane_us = self.pane_us();
        Self::Sliding { size_us: pane_us, slide_us: pane_us, offset_us: self.offset_us() % pane_us }
    }

    /// The start of the pane of `time`.
    pub fn pane_of(&self, time: i64) -> i64 {
        let (pane, offset) = (self.pane_us(), self.offset_us());
        (time - offset).div_euclid(pane) * pane + offset
    }

    /// The least end of a window after `time`: that of the first window in which `time` stands (or that comes after it).
    pub fn first_end_after(&self, time: i64) -> i64 {
        let (base, step) = match *self {
            Self::Sliding { size_us, slide_us, offset_us } => (offset_us + size_us, slide_us),
            Self::Growing { step_us, offset_us, .. } => (offset_us, step_us),
            Self::Sessions { gap_us } => return time.saturating_add(gap_us),
        };
        // Before the first close `time` is the least there is.
        time.saturating_sub(base).div_euclid(step).saturating_add(1).saturating_mul(step).saturating_add(base)
    }

    /// The end of the last window that holds `time`.
    pub fn last_end_of(&self, time: i64) -> i64 {
        match *self {
            Self::Sliding { size_us, slide_us, offset_us } => (time - offset_us).div_euclid(slide_us) * slide_us + offset_us + size_us,
            Self::Growing { size_us, offset_us, .. } => (time - offset_us).div_euclid(size_us) * size_us + offset_us + size_us,
            Self::Sessions { gap_us } => time + gap_us,
        }
    }

    /// The start of the window that ends at `end`.
    pub fn start_of(&self, end: i64) -> i64 {
        match *self {
            Self::Sliding { size_us, .. } => end - size_us,
            Self::Growing { size_us, offset_us, .. } => end.saturating_sub(1 + offset_us).div_euclid(size_us) * size_us + offset_us,
            Self::Sessions { gap_us } => end - gap_us,
        }
    }

    /// The ends of the windows that hold `time`.
    pub fn ends_of(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let (windows, last) = (*self, self.last_end_of(time));
        std::iter::successors(Some(windows.first_end_after(time)), move |end| Some(end + windows.step_us()))
            .take_while(move |end| *end <= last)
            .filter(move |end| windows.start_of(*end) <= time)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window `[start, end)` whose end lies between −200 and 200.
    fn all(windows: Windows) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        for k in -300..300 {
            match windows {
                Windows::Sliding { size_us, slide_us, offset_us } => found.push((k * slide_us + offset_us, k * slide_us + offset_us + size_us)),
                Windows::Growing { size_us, step_us, offset_us } => {
                    let start = k * size_us + offset_us;
                    found.extend((1..=size_us / step_us).map(|n| (start, start + n * step_us)));
                }
                Windows::Sessions { .. } => {}
            }
        }
        found.retain(|(_, end)| (-200..=200).contains(end));
        found
    }

    #[test]
    fn bounds_and_panes_agree_with_the_list_of_all_windows() {
        let sliding = |size_us, slide_us, offset_us| Windows::Sliding { size_us, slide_us, offset_us };
        let growing = |size_us, step_us, offset_us| Windows::Growing { size_us, step_us, offset_us };
        for windows in [sliding(10, 10, 0), sliding(10, 10, 3), sliding(20, 5, 0), sliding(7, 3, 1), sliding(12, 8, 5), growing(12, 3, 0), growing(20, 5, 7)] {
            let list = all(windows);
            for time in -60..60 {
                let holding: Vec<i64> = list.iter().filter(|(s, e)| (*s..*e).contains(&time)).map(|(_, e)| *e).collect();
                assert_eq!(windows.ends_of(time).collect::<Vec<_>>(), holding, "{windows:?} {time}");
                assert_eq!(Some(windows.last_end_of(time)), holding.last().copied());
                assert_eq!(Some(windows.first_end_after(time)), list.iter().map(|(_, e)| *e).filter(|e| *e > time).min(), "{windows:?} {time}");
            }
            for (start, end) in list {
                assert_eq!(windows.start_of(end), start);
                assert_eq!((windows.pane_of(start), windows.pane_of(end)), (start, end), "a window is whole panes");
            }
        }
    }
}
