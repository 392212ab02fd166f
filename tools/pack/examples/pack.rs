//! `pack SRC OUT [--weights q4|q8|f16|bf16|f32] [--linear]`: packs one checkpoint and prints what each tensor lost.

use bourn_checkpoint::Checkpoint;
use bourn_pack::{Levels, Options, Weights, pack};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(src), Some(out)) = (arguments.first(), arguments.get(1)) else {
        return Err("usage: pack SRC OUT [--weights q4|q8|f16|bf16|f32] [--linear]".into());
    };
    let mut options = Options::default();
    if let Some(i) = arguments.iter().position(|a| a == "--weights") {
        let name = arguments.get(i + 1).map_or("", String::as_str);
        let all = [Weights::Q4, Weights::Q8, Weights::F16, Weights::Bf16, Weights::F32];
        options.weights = *all.iter().find(|w| w.name() == name).ok_or("no such type of weights")?;
    }
    if arguments.iter().any(|a| a == "--linear") {
        options.levels = Levels::linear();
    }
    let start = std::time::Instant::now();
    let report = pack(&Checkpoint::open(Path::new(src))?, Path::new(out), &options, &mut |_| {})?;
    for t in &report.tensors {
        println!("{:4} {:40} {:7} x {:6} {:10} B  {:.5}", t.dtype.name(), t.name, t.rows, t.cols, t.bytes, t.relative_error());
    }
    println!(
        "{} weights, {} bytes, {} bytes per token, body error {:.5}, {:.1} s",
        report.parameters,
        report.file_bytes,
        report.bytes_per_token,
        report.body_error(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
