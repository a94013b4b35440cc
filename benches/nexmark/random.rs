//! Chance that is a function of a seed, and the texts that are drawn by it.

/// SplitMix64: each event has its own, so that event number n needs none of those before it.
///
/// Source: G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
pub struct Random {
    state: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The chance of event `number` under `seed`.
    pub fn new(seed: u64, number: u64) -> Self {
        Self { state: mix(seed ^ GAMMA).wrapping_add(mix(number.wrapping_mul(GAMMA) ^ seed.rotate_left(32))) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number in [0, n), n > 0. A multiplication in place of a division: its bias is n / 2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number in [0, 1) with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `all`.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// A price in cents, 100 to 100,000,000, its logarithm uniform.
    pub fn price(&mut self) -> u64 {
        (10_f64.powf(self.unit() * 6.0) * 100.0).round() as u64
    }

    /// A text of 3 to `max` − 1 characters: letters, and once in 13 `special`; without blanks around it.
    pub fn text(&mut self, max: u64, special: char) -> String {
        let length = 3 + self.below(max - 3);
        let text: String = (0..length).map(|_| if self.below(13) == 0 { special } else { (b'a' + self.below(26) as u8) as char }).collect();
        text.trim().to_owned()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A long text of letters from which the columns `extra` are cut.
pub struct Filler {
    letters: String,
}

/// Letters that a filler holds.
const FILLER_BYTES: u64 = 1 << 20;

impl Filler {
    pub fn new(random: &mut Random) -> Self {
        Self { letters: (0..FILLER_BYTES).map(|_| (b'a' + random.below(26) as u8) as char).collect() }
    }

    /// So many letters that with `others` bytes of other columns they are `mean` on average: a fifth more or less.
    pub fn cut(&self, random: &mut Random, others: usize, mean: usize) -> &str {
        let Some(room) = mean.checked_sub(others) else { return "" };
        let spread = (room as f64 * 0.2).round() as u64;
        let length = room as u64 - spread + if spread == 0 { 0 } else { random.below(2 * spread) };
        let start = random.below(FILLER_BYTES - length);
        &self.letters[start as usize..(start + length) as usize]
    }
}
