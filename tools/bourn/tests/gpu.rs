//! `--device`: of a build with a GPU on the adapter that `BOURN_GPU` names (Mesa's software one if it is not set), and of one without.

mod support;

use std::path::Path;
use support::{bourn, failure};

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_device_is_cpu_gpu_or_auto() {
    for wrong in ["tpu", "gpu:", ""] {
        let (code, text) = failure(&["run", "m", "text", "--device", wrong]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("need cpu, gpu, gpu:NAME or auto"), "{text}");
    }
}

#[test]
#[cfg(not(feature = "gpu"))]
fn a_build_without_gpu_says_how_to_get_one() {
    let image = fixture("v1-q4.bourn");
    let out = bourn(&["run", &image, "--ids", "1", "--device", "gpu"]).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text.starts_with("error: no gpu in this build: need the feature gpu"), "{text}");
    assert!(text.contains("hint: build one: cargo build") && text.contains("--features gpu"), "{text}");
    let out = bourn(&["run", &image, "--ids", "1", "-n", "2", "--device", "auto"]).output().unwrap();
    assert!(out.status.success());
    assert!(String::from_utf8(out.stderr).unwrap().contains("device: cpu: this build has no gpu"));
}

#[cfg(feature = "gpu")]
mod on_a_gpu {
    use super::{bourn, failure, fixture};
    use serde_json::Value;
    use std::process::Output;
    use std::sync::OnceLock;

    /// The adapter under test as `--device` takes it.
    fn device() -> String {
        format!("gpu:{}", std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned()))
    }

    /// A cache of its own: choices measured here are not for anybody else.
    fn ran(args: &[&str]) -> Output {
        static CACHE: OnceLock<tempfile::TempDir> = OnceLock::new();
        let cache = CACHE.get_or_init(|| tempfile::tempdir().unwrap());
        bourn(args).env("BOURN_CACHE", cache.path()).output().unwrap()
    }

    fn json(args: &[&str]) -> Value {
        let out = ran(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    const IDS: &str = "5,9,2,77,31,4";

    #[test]
    fn writes_what_the_cpu_writes() {
        for (name, more) in [("v1-q4.bourn", &[][..]), ("v2-screen.bourn", &[]), ("v2-screen.bourn", &["--head", "exact"])] {
            let image = fixture(name);
            let ids = |device: &str| {
                let args =
                    ["run", &image, "--ids", IDS, "-n", "16", "--ignore-eos", "--temperature", "0", "--json", "--device", device];
                json(&[&args[..], more].concat())["ids"].clone()
            };
            assert_eq!(ids(&device()), ids("cpu"), "{name} {more:?}");
        }
    }

    #[test]
    fn one_seed_one_text_whatever_leaves_the_device() {
        let image = fixture("v2-screen.bourn");
        let ids = |sampling: &[&str]| {
            let device = device();
            let args = ["run", &image, "--ids", IDS, "-n", "24", "--ignore-eos", "--json", "--device", &device, "--seed", "11"];
            json(&[&args[..], &["--temperature", "1.5"], sampling].concat())["ids"].clone()
        };
        let few = ids(&["--top-k", "40"]);
        assert_eq!(few, ids(&["--top-k", "40"]));
        assert_ne!(few, ids(&["--top-k", "3"]));
    }

    #[test]
    fn choices_are_kept_for_the_adapter() {
        let cache = tempfile::tempdir().unwrap();
        let image = fixture("v1-q4.bourn");
        let kept = || {
            let args = ["run", &image, "--ids", "1", "-n", "2", "--ignore-eos", "--device", &device()];
            let out = bourn(&args).env("BOURN_CACHE", cache.path()).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let files = std::fs::read_dir(cache.path().join("devices")).unwrap();
            let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
            assert_eq!(files.len(), 1, "{files:?}");
            (files[0].clone(), std::fs::read_to_string(&files[0]).unwrap())
        };
        let (file, first) = kept();
        assert!(first.lines().count() >= 4, "{first}");
        // Of what is known nothing is measured: what another model left there stays, too.
        let other = first.lines().map(|l| format!("{} 16\n", l.rsplit_once(' ').unwrap().0)).collect::<String>();
        std::fs::write(&file, format!("{other}1 1 1 8\n")).unwrap();
        assert_eq!(kept().1, format!("{other}1 1 1 8\n"));
    }

    #[test]
    fn logits_are_near_the_cpus() {
        let image = fixture("v1-q4.bourn");
        let top = |device: &str| {
            let out = ran(&["logits", &image, "--ids", IDS, "--top", "1", "--quiet", "--device", device]);
            assert!(out.status.success());
            let text = String::from_utf8(out.stdout).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let (gpu, cpu) = (top(&device()), top("cpu"));
        assert_eq!(gpu.len(), 6);
        for (gpu, cpu) in gpu.iter().zip(&cpu) {
            assert_eq!(gpu["top"][0][0], cpu["top"][0][0]);
            let [a, b] = [gpu, cpu].map(|v| v["top"][0][1].as_f64().unwrap());
            assert!((a - b).abs() < 0.05, "{a} where the cpu has {b}");
        }
    }

    #[test]
    fn bench_says_what_a_token_costs() {
        let image = fixture("v2-screen.bourn");
        let bench =
            json(&["bench", &image, "--prompt", "8", "--generate", "8", "--repeat", "1", "--json", "--device", &device()]);
        let gpu = &bench["gpu"];
        for key in ["dispatches_per_token", "host_us_per_token", "bytes_per_token", "weight_bytes", "session_bytes"] {
            assert!(gpu[key].as_f64().is_some_and(|v| v > 0.0), "{key} in {bench}");
        }
        assert!(bench["decode_tok_s"].as_f64().unwrap() > 0.0);
        assert_ne!(bench["device"], "cpu");
        let (found, image) = (gpu["bytes_per_token"].as_f64().unwrap(), bench["bytes_per_token"].as_f64().unwrap());
        assert!(found <= 1.1 * image, "{found} bytes a token where the image has {image}");
    }

    #[test]
    fn a_profile_tells_of_every_dispatch() {
        let image = fixture("v2-screen.bourn");
        let args = ["bench", &image, "--prompt", "8", "--generate", "8", "--repeat", "1", "--profile", "--device"];
        let bench = json(&[&args[..], &[&device(), "--json"]].concat());
        let gpu = &bench["gpu"];
        let kernels = gpu["profile"].as_array().unwrap();
        let all = |key: &str| kernels.iter().map(|k| k[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!(all("dispatches"), gpu["dispatches_per_token"].as_f64().unwrap(), "{bench}");
        assert!(kernels.iter().all(|k| k["us"].as_f64().is_some_and(|us| us > 0.0)), "{bench}");
        // As many candidates as these tokens had: near what the others had.
        let (found, want) = (all("bytes"), gpu["bytes_per_token"].as_f64().unwrap());
        assert!((found - want).abs() < 0.1 * want, "{found} bytes where a token reads {want}");
        assert!(kernels.iter().any(|k| k["kernel"].as_str().unwrap().starts_with("matvec_")), "{bench}");
        let out = ran(&[&args[..], &[&device()]].concat());
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("\nkernel ") && text.contains("\nthe memory gives "), "{text}");
        let (code, text) = failure(&[&args[..], &["cpu"]].concat());
        assert!(code == 1 && text.contains("no clock of their own"), "{text}");
    }

    #[test]
    fn says_which_adapters_there_are() {
        let board = json(&["board", "--json"]);
        let gpus = board["gpus"].as_array().unwrap();
        assert!(!gpus.is_empty());
        for key in ["name", "type", "f16", "subgroups", "max_binding_bytes", "max_invocations", "read_bandwidth_gb_s"] {
            assert!(gpus.iter().all(|gpu| !gpu[key].is_null()), "{key} in {board}");
        }
        let software = gpus.iter().all(|gpu| gpu["type"] == "software");
        let image = fixture("v1-q4.bourn");
        let out = ran(&["run", &image, "--ids", "1", "-n", "2", "--device", "auto"]);
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success() && text.contains("device: "), "{text}");
        if software {
            assert!(text.contains("device: cpu: no gpu: need one that is hardware"), "{text}");
            let (code, text) = failure(&["run", &image, "--ids", "1", "--device", "gpu"]);
            assert!(code == 1 && text.contains("need one that is hardware, found "), "{text}");
        }
    }

    #[test]
    fn never_falls_back_unasked() {
        let image = fixture("v1-q4.bourn");
        let (code, text) = failure(&["run", &image, "--ids", "1", "--device", "gpu:no-such-gpu"]);
        assert!(code == 1 && text.starts_with("error: no gpu: need one named no-such-gpu, found "), "{text}");
        let no_driver = bourn(&["run", &image, "--ids", "1", "--device", "gpu"])
            .env("VK_ICD_FILENAMES", "/nowhere")
            .env("VK_DRIVER_FILES", "/nowhere")
            .output()
            .unwrap();
        let text = String::from_utf8(no_driver.stderr).unwrap();
        assert_eq!(no_driver.status.code(), Some(1));
        assert!(
            text.contains("no gpu: need an adapter with a Vulkan driver, found none")
                && text.contains("hint: install a Vulkan driver"),
            "{text}"
        );
        let (code, text) = failure(&["run", &image, "--ids", "1", "--device", &device(), "--ram", "64M"]);
        assert!(code == 1 && text.contains("a gpu holds all weights"), "{text}");
        let (code, text) = failure(&["run", &image, "--ids", "1", "--device", &device(), "--kv", "i8"]);
        assert!(code == 1 && text.contains("the gpu has no KV cache of i8"), "{text}");
    }
}
