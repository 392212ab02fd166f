//! `bourn board`: of machines that are not here, and the tables of docs/boards.md.

use std::fs;
use std::path::Path;
use std::process::Command;

fn board(args: &[&str]) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_bourn")).arg("board").args(args).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn the_tables_of_the_page_are_up_to_date() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/boards.md")).unwrap();
    assert!(page.contains(&board(&["--table"])), "docs/boards.md: `cargo xtask predict` writes it");
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn says_what_a_pi_4_is_and_what_slows_it_down() {
    let dir = tempfile::tempdir().unwrap();
    let cores: String = (0..4).map(|i| format!("processor\t: {i}\nCPU part\t: 0xd08\n\n")).collect();
    write(dir.path(), "proc/cpuinfo", &cores);
    write(dir.path(), "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0");
    write(dir.path(), "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
    let root = dir.path().to_str().unwrap();
    let text = board(&["--root", root]);
    for line in [
        "known as  Raspberry Pi 4 (rpi4, by its model)",
        "isa       neon",
        "warning   under-voltage now",
        "threads   2 for decode, 4",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&board(&["--root", root, "--json"])).unwrap();
    assert_eq!(json["known_as"], "rpi4");
    assert_eq!(json["throttled"], 0x50005);
    assert_eq!(json["cores"][0]["usable"], 4);
    let first = &json["predicted"][0];
    let tok_s = |key: &str| first[key].as_f64().unwrap();
    assert!(tok_s("tok_s") > 1.0 && tok_s("tok_s") <= tok_s("memory_tok_s") && tok_s("tok_s") <= tok_s("compute_tok_s"));
    assert!(json["read_bandwidth_gb_s"].as_array().unwrap().is_empty(), "measured a machine that is not here");
}

#[test]
fn refuses_an_image_that_is_none() {
    let ran = Command::new(env!("CARGO_BIN_EXE_bourn")).args(["board", "--image", file!()]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
}
