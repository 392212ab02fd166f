//! Checkpoints of random numbers.

use std::io;
use std::path::Path;

/// Xorshift: the same numbers every time. The tests of the packer and of the firmware have their own: ten lines are no reason for a crate that
/// all three would depend on.
pub struct Random(pub u64);

impl Random {
    /// 64 bits, of which the upper are the better ones.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About normal, of bfloat16's precision.
    pub fn value(&mut self) -> f32 {
        let sum: i32 = (0..4).map(|_| (self.bits() >> 40) as i32 % 1024 - 512).sum();
        f32::from_bits((sum as f32 / 16384.0).to_bits() & 0xffff_0000)
    }
}

/// A tensor of bfloat16 to be written: name without `.weight`, shape, values.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// Writes `config.json` and one file of weights.
///
/// # Errors
/// If they cannot be written.
pub fn write(folder: &Path, config: &str, tensors: &[Tensor]) -> io::Result<()> {
    std::fs::write(folder.join("config.json"), config)?;
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()));
        header.push(format!(r#""{name}.weight":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{}]}}"#, data.len()));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    std::fs::write(folder.join("model.safetensors"), file)
}
