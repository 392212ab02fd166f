//! `greedy_sum IMAGE N ID,ID,…`: the logits of N greedy tokens after a prompt, as one number for every bit of them.
//!
//! The number is the one that a board without operating system answers to `Request::Sum`: `s = checksum(s ‖ checksum(row))` over rows of
//! little-endian f32, from 0. Printed: `SUM ID,ID,…`.

use anyhow::{Context, Result, bail};
use bourn_format::checksum;
use bourn_kernels::KvDtype;
use bourn_oracle::runner::{Runner, Setup};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, n, ids] = args.as_slice() else { bail!("need an image, a number of tokens, ids") };
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>().context("ids are numbers")?;
    let runner = Runner::open(image.as_ref())?;
    let mut sum = 0;
    let setup = Setup { kv: KvDtype::F16, block: 64, ..Setup::default() };
    let text = runner.greedy(&ids, n.parse().context("N is a number")?, &setup, &mut |logits| {
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect();
        let both = [u64::to_le_bytes(sum), checksum(&bytes).to_le_bytes()].concat();
        sum = checksum(&both);
    })?;
    let text: Vec<String> = text.iter().map(u32::to_string).collect();
    println!("{sum:016x} {}", text.join(","));
    Ok(())
}
