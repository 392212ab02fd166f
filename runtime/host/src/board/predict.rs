//! What a board should reach: a ceiling of memory and a ceiling of arithmetic, side by side. **Predictions, not measurements.**
//!
//! Memory: `tokens/s = read bandwidth(threads) ÷ bytes per token`. Arithmetic: `tokens/s = clock · threads ÷ Σ weights · cycles`,
//! with the cycles of the inner loops as LLVM's model of the core has them (`boards/cycles.toml`, `cargo xtask mca --write`): norms,
//! attention and waiting for one another come on top, so both are upper bounds.

use bourn_format::layout::LINEAR;
use bourn_format::{Dtype, Image, Role};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Cycles by the name of a loop, for each core as LLVM names it, for each tier.
type Cycles = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

static CYCLES: LazyLock<Cycles> =
    LazyLock::new(|| toml::from_str(include_str!("../../../../boards/cycles.toml")).unwrap_or_default());

/// How weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// 4 bits, the level is the code less 8.
    Linear,
    /// 4 bits through a table of levels.
    Fitted,
    /// 8 bits.
    Bytes,
}

/// One token at a time, or blocks of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One token at a time: everything is read for each.
    Decode,
    /// Blocks of tokens: the head is needed for the last only.
    Prefill,
}

/// What a token asks of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Bytes that decoding a token reads.
    pub bytes: u64,
    /// Weights of the body.
    pub body: u64,
    /// How they are multiplied.
    pub body_as: Weights,
    /// Weights of the head.
    pub head: u64,
    /// How they are multiplied.
    pub head_as: Weights,
}

impl Work {
    /// What an image asks; `None` if a matrix in it is neither 4-bit nor 8-bit, for whose loops there are no cycles.
    pub fn of(image: &Image<'_>) -> Option<Self> {
        let mut work =
            Self { bytes: image.bytes_per_token(), body: 0, body_as: Weights::Linear, head: 0, head_as: Weights::Bytes };
        for i in 0..image.n_tensors() {
            let tensor = image.tensor(i);
            if tensor.rows == 1 || tensor.role == Role::Embed {
                continue;
            }
            let weights = tensor.rows as u64 * tensor.cols as u64;
            let multiplied = match tensor.dtype {
                Dtype::Q4 | Dtype::Q4M if tensor.table == LINEAR => Weights::Linear,
                Dtype::Q4 | Dtype::Q4M => Weights::Fitted,
                Dtype::Q8 => Weights::Bytes,
                _ => return None,
            };
            if tensor.role == Role::Head {
                (work.head, work.head_as) = (work.head + weights, multiplied);
            } else {
                // Of a mixed body the slower way counts.
                work.body += weights;
                if multiplied != Weights::Linear {
                    work.body_as = multiplied;
                }
            }
        }
        Some(work)
    }

    /// Tokens per second that a read bandwidth in bytes per second allows in decode.
    pub fn memory_ceiling(&self, bytes_s: f64) -> f64 {
        bytes_s / self.bytes as f64
    }

    /// Tokens per second that the arithmetic of `threads` cores allows; `None` if the core or tier is not in the table.
    pub fn compute_ceiling(&self, core: &str, tier: &str, hz: f64, threads: usize, phase: Phase) -> Option<f64> {
        let body = self.body as f64 * cycles(core, tier, self.body_as, phase)? / 32.0;
        let head = match phase {
            Phase::Decode => self.head as f64 * cycles(core, tier, self.head_as, phase)? / 32.0,
            Phase::Prefill => 0.0,
        };
        Some(hz * threads as f64 / (body + head))
    }
}

/// Cycles per 32 products on a core, as Arm names it; `None` if the table has none.
pub fn cycles(core: &str, tier: &str, weights: Weights, phase: Phase) -> Option<f64> {
    // LLVM has no models of A72, A76 and A78: its A57 and Neoverse N1 stand in (A78 is wider than N1).
    let model = match core {
        "Cortex-A53" | "Cortex-A35" => "cortex-a53",
        "Cortex-A55" => "cortex-a55",
        "Cortex-A57" | "Cortex-A72" | "Cortex-A73" => "cortex-a57",
        "Cortex-A75" | "Cortex-A76" | "Cortex-A76AE" | "Cortex-A77" | "Cortex-A78" | "Cortex-A78AE" | "Neoverse-N1" => {
            "neoverse-n1"
        }
        _ => return None,
    };
    let weights = match weights {
        Weights::Linear => "int4",
        Weights::Fitted => "fitted",
        Weights::Bytes => "int8",
    };
    // A tier may unpack 4-bit weights once for a block of tokens, and then multiply bytes.
    let loops = match phase {
        Phase::Decode => vec![format!("{weights}-decode")],
        Phase::Prefill => vec![format!("{weights}-prefill"), "int8-prefill".to_owned()],
    };
    // What a tier does not write anew it has from the one below.
    let tiers: &[&str] = match tier {
        "i8mm" => &["i8mm", "dotprod"],
        "dotprod" => &["dotprod"],
        "neon" => &["neon"],
        _ => &[],
    };
    tiers.iter().find_map(|tier| {
        let of_core = CYCLES.get(*tier)?.get(model)?;
        loops.iter().find_map(|name| of_core.get(name).copied())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { bytes: 1000, body: 320, body_as: Weights::Fitted, head: 320, head_as: Weights::Bytes };

    #[test]
    fn memory_bounds_by_bytes_and_arithmetic_by_weights() {
        assert_eq!(WORK.memory_ceiling(2000.0), 2.0);
        let of = |weights, phase| cycles("Cortex-A76", "dotprod", weights, phase).unwrap();
        let token = 10.0 * (of(Weights::Fitted, Phase::Decode) + of(Weights::Bytes, Phase::Decode));
        let decode = WORK.compute_ceiling("Cortex-A76", "dotprod", token, 3, Phase::Decode).unwrap();
        assert!((decode - 3.0).abs() < 1e-9, "{decode}");
        let token = 10.0 * of(Weights::Fitted, Phase::Prefill);
        let prefill = WORK.compute_ceiling("Cortex-A76", "dotprod", token, 1, Phase::Prefill).unwrap();
        assert!((prefill - 1.0).abs() < 1e-9, "{prefill}");
    }

    #[test]
    fn predicts_nothing_for_what_it_does_not_know() {
        assert_eq!(WORK.compute_ceiling("AMD EPYC", "avx2", 1e9, 1, Phase::Decode), None);
        assert_eq!(WORK.compute_ceiling("Cortex-A76", "avx2", 1e9, 1, Phase::Decode), None);
    }

    #[test]
    fn every_board_has_cycles_for_its_cores() {
        for board in super::super::all() {
            for core in &board.cores {
                for weights in [Weights::Linear, Weights::Fitted, Weights::Bytes] {
                    for phase in [Phase::Decode, Phase::Prefill] {
                        assert!(cycles(&core.kind, core.tier(), weights, phase).is_some(), "{} {}", board.name, core.kind);
                    }
                }
            }
        }
    }
}
