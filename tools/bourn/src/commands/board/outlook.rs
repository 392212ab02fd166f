//! What a machine, or a board that is not here, should reach.

use bourn_host::Machine;
use bourn_host::board::predict::{Phase, Work};
use bourn_host::board::{CoreKind, Found, Variant};

/// Where tokens are computed.
pub(super) struct Place {
    /// The tier of kernels.
    pub isa: String,
    /// Arm's name of the cores that decode.
    core: String,
    /// Their clock, 0 if it is not known.
    hz: f64,
    /// Bytes per second that the decode threads read, 0 if it is not known.
    bytes_s: f64,
    /// Threads for decode.
    pub decode: usize,
    /// Threads for prefill.
    pub prefill: usize,
}

/// Tokens per second; `None` where nothing is known to predict it from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// Decode, if only reading counted.
    pub memory: Option<f64>,
    /// Decode, if only arithmetic counted.
    pub compute: Option<f64>,
    /// Prefill, by arithmetic.
    pub prefill: Option<f64>,
}

impl Outlook {
    /// Decode: the lesser of the two.
    pub fn decode(&self) -> Option<f64> {
        match (self.memory, self.compute) {
            (Some(memory), Some(compute)) => Some(memory.min(compute)),
            (memory, _) => memory,
        }
    }
}

/// More threads must read faster by this much to be worth it.
const GAIN: f64 = 1.03;

impl Place {
    /// This machine: as the board is known, but with the bandwidth that was measured. `here`: the kernels are those of this CPU.
    pub fn of(machine: &Machine, found: Option<Found>, bandwidth: &[f64], here: bool) -> Self {
        let most = machine.usable.max(1);
        let Some(found) = found else {
            let fastest = bandwidth.iter().copied().fold(0.0, f64::max);
            let decode = bandwidth.iter().position(|b| b * GAIN >= fastest).map_or(most, |i| i + 1);
            let first = machine.cores.first();
            return Self {
                isa: bourn_kernels::best().isa.to_owned(),
                core: first.map_or(String::new(), |c| c.name.clone()),
                hz: first.map_or(0.0, |c| c.max_khz as f64 * 1e3),
                bytes_s: bandwidth.get(decode.wrapping_sub(1)).copied().unwrap_or(0.0),
                decode,
                prefill: most,
            };
        };
        let kind = &found.board.cores[0];
        let mut place = Self::on(kind, found.variant, found.board.threads.decode, found.board.threads.prefill);
        if here {
            bourn_kernels::best().isa.clone_into(&mut place.isa);
        }
        let fastest = machine.cores.iter().filter(|c| c.name == kind.kind).map(|c| c.max_khz).max().unwrap_or(0);
        if fastest > 0 {
            place.hz = fastest as f64 * 1e3;
        }
        (place.decode, place.prefill) = (place.decode.min(most), place.prefill.min(most));
        if let Some(measured) = bandwidth.get(place.decode - 1) {
            place.bytes_s = *measured;
        }
        place
    }

    /// Cores of a known board.
    pub fn on(kind: &CoreKind, variant: &Variant, decode: usize, prefill: usize) -> Self {
        Self {
            isa: kind.tier().to_owned(),
            core: kind.kind.clone(),
            hz: kind.hz(variant),
            bytes_s: kind.read_bytes_s(decode),
            decode: decode.max(1),
            prefill: prefill.max(1),
        }
    }

    /// What work should run at here.
    pub fn outlook(&self, work: &Work) -> Outlook {
        let compute = |threads, phase| {
            let tok_s = work.compute_ceiling(&self.core, &self.isa, self.hz, threads, phase)?;
            (self.hz > 0.0).then_some(tok_s)
        };
        Outlook {
            memory: (self.bytes_s > 0.0).then(|| work.memory_ceiling(self.bytes_s)),
            compute: compute(self.decode, Phase::Decode),
            prefill: compute(self.prefill, Phase::Prefill),
        }
    }
}
