//! What 4-bit codes stand for.

/// The levels of the 16 codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels<'a> {
    /// Level of each code.
    pub(crate) table: &'a [i8; 16],
}

impl Levels<'_> {
    /// Whether level `i` is level 0 plus `i`, and none beyond ±15: then sums of 16 products fit 16 bits, and products may be taken of the
    /// codes, since the rest is one product with a sum.
    pub(crate) fn are_consecutive(self) -> bool {
        (-15..=0).contains(&self.table[0]) && self.table.windows(2).all(|pair| pair[1] == pair[0] + 1)
    }
}
