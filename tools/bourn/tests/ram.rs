//! Under `--ram` the text is the same, the budget is kept or refused, and what will be reached is said before.

mod support;

use support::{failure, fixture, json, ran, stdout};

const IDS: &str = "2,100,200,136,5,6,7,8,9,10,11,12";

fn run(image: &str, more: &[&str]) -> serde_json::Value {
    let args = ["run", image, "--ids", IDS, "-n", "24", "--ignore-eos", "--temperature", "0", "--context", "48", "--json"];
    json(&[&args, more].concat())
}

/// The smallest budget that works, as the refusal of a smaller one states it.
fn smallest(image: &str) -> u64 {
    let (status, said) = failure(&["run", image, "--ids", "1", "--context", "48", "--ram", "64K"]);
    assert_eq!(status, 1);
    let need = said.strip_prefix("error: ram budget too small: need ").and_then(|s| s.split(' ').next());
    need.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn the_text_is_the_same_within_any_budget() {
    let image = &fixture();
    let free = run(image, &[]);
    let least = smallest(image);
    let mut streamed = 0;
    for budget in [least, least + 100_000, least + (1 << 20), 1 << 30] {
        let held = run(image, &["--ram", &budget.to_string(), "--prefill-block", "4"]);
        assert_eq!(held["ids"], free["ids"], "{budget}");
        let stream = &held["stream"];
        assert_eq!(stream["ram_bytes"], budget);
        assert!(stream["planned_bytes"].as_u64().unwrap() <= budget, "{stream}");
        assert_eq!(stream["retries"], 0);
        assert_eq!(stream["misses"], 0, "{stream}");
        streamed += stream["streamed_bytes"].as_u64().unwrap();
    }
    assert!(streamed > 0);
}

#[test]
fn a_run_says_first_what_it_will_reach() {
    let image = &fixture();
    let least = smallest(image).to_string();
    let out = ran(&["run", image, "--ids", "1,2", "-n", "2", "--context", "48", "--ram", &least, "--throttle", "200MB"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{said}");
    let line = said.lines().find(|l| l.starts_with("streams ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(" per token from ") && line.contains(" tok/s; context 48 of "), "{line}");
    assert!(said.contains("stream=paged("), "{said}");
}

#[test]
fn the_plan_can_be_looked_at() {
    let image = &fixture();
    let plan = json(&["inspect", image, "--ram", "64M", "--context", "48", "--json"]);
    assert_eq!(plan["streamed_bytes"], 0);
    assert_eq!(plan["context"], 48);
    assert!(plan["planned_bytes"].as_u64().unwrap() <= 64 << 20);
    assert!(stdout(&["inspect", image, "--ram", "64M"]).contains("pinned: attn0 ffn0"));
    let (status, said) = failure(&["inspect", image, "--ram", "1M"]);
    assert_eq!(status, 1);
    assert!(said.contains("need ") && said.contains("have 1048576"), "{said}");
}

#[test]
fn every_command_that_computes_keeps_to_a_budget() {
    let image = &fixture();
    let least = &(smallest(image) + (1 << 20)).to_string();
    let logits = ["logits", image, "--ids", IDS, "--checksum", "--context", "48", "-t", "1"];
    assert_eq!(stdout(&logits), stdout(&[&logits[..], &["--ram", least]].concat()));
    let bench = json(&["bench", image, "--prompt", "8", "--generate", "4", "--repeat", "1", "--ram", least, "--json"]);
    assert_eq!(bench["stream"], "paged");
    assert!(bench["streamed_bytes"].is_u64() && bench["paged"]["planned_bytes"].is_u64());
    let (status, said) = failure(&["bench", image, "--ram", "lots"]);
    assert_eq!(status, 2);
    assert!(said.contains("need a number of bytes"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_pinned_can_be_locked() {
    let image = &fixture();
    let out = ran(&["run", image, "--ids", "1", "-n", "1", "--context", "48", "--ram", "64M", "--lock"]);
    let said = String::from_utf8(out.stderr).unwrap();
    // Machines differ in what they allow: either it works, or the limit is named.
    assert!(out.status.success() || said.contains("RLIMIT_MEMLOCK allows"), "{said}");
}

#[test]
fn damage_is_told_with_file_and_device_wherever_it_is_met() {
    let whole = std::fs::read(fixture()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("damaged.bourn").to_str().unwrap().to_owned();
    let mut damaged = whole.clone();
    let at = whole.len() - 40_000;
    damaged[at] ^= 1;
    std::fs::write(&image, damaged).unwrap();
    for budget in [smallest(&image), 1 << 30] {
        let args = ["run", &image, "--ids", "1,2,3", "-n", "4", "--context", "48", "--quiet", "--ram", &budget.to_string()];
        let (status, said) = failure(&args);
        assert_eq!(status, 1);
        let (place, what) = said.split_once(" on ").unwrap_or_else(|| panic!("{said}"));
        assert!(place.contains("damaged.bourn") && what.contains("is corrupt: checksum"), "{said}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_wait_for_a_slow_device() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let image = &fixture();
    let least = smallest(image).to_string();
    // Some twenty seconds for each token.
    let args = ["run", image, "--ids", "1", "--ignore-eos", "--context", "48", "--ram", &least, "--throttle", "10K"];
    let mut child = support::bourn(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
