//! The program as its users meet it: exit status, JSON keys, messages.

mod support;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use support::{bourn, failure, image, json, oracle, ran, stdout};

fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some_and(|v| !v.is_null()), "{key} missing in {value}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [&["run"][..], &["fly"], &["run", "m", "text", "--ids", "1"], &["bench", "m", "--threads", "0"], &["pack", "a"]] {
        assert_eq!(failure(args).0, 2, "{args:?}");
    }
    for wrong in ["--temperature=-1", "--temperature=nan", "--top-p=0", "--top-p=1.5", "--min-p=2", "--repetition-penalty=0"] {
        let (code, text) = failure(&["run", "m", "text", wrong]);
        assert!(code == 2 && text.contains("need a number"), "{text}");
    }
    assert_eq!(failure(&["bench", "m", "--prompt", "4294967295", "--generate", "4294967295"]).0, 2);
}

#[test]
fn rejects_a_model_that_is_neither_file_nor_name() {
    let (code, text) = failure(&["run", "no-such-model", "hello"]);
    assert_eq!(code, 1);
    assert_eq!(text, "error: no-such-model: need a file or a name of the catalogue, found neither");
    assert_eq!(failure(&["fetch", "no-such-model"]).0, 1);
}

#[test]
fn rejects_a_file_that_is_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("note.bourn");
    fs::write(&path, "dear diary, today I was not an image at all").unwrap();
    let out = ran(&["inspect", path.to_str().unwrap()]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text.contains("not a bourn image") && text.contains("hint: to make an image"), "{text}");
    fs::write(&path, "").unwrap();
    assert!(failure(&["inspect", path.to_str().unwrap()]).1.contains("truncated: need 256 bytes, have 0"));
}

#[test]
fn rejects_a_truncated_image() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short.bourn");
    let bytes = fs::read(image).unwrap();
    for keep in [100, 300, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..keep]).unwrap();
        let (code, text) = failure(&["inspect", path.to_str().unwrap()]);
        assert_eq!(code, 1);
        assert!(text.contains("truncated: need") && text.contains("short.bourn"), "{text}");
    }
}

#[test]
fn rejects_a_corrupt_page_when_it_is_reached() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("corrupt.bourn");
    let mut bytes = fs::read(image).unwrap();
    let at = bytes.len() - 20_000;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let path = path.to_str().unwrap();
    for args in [
        &["inspect", path, "--verify"][..],
        &["run", path, "--ids", "1,2", "-n", "4", "--quiet"],
        &["run", path, "--ids", "1,2", "-n", "4", "--quiet", "--stream", "resident"],
    ] {
        let (code, text) = failure(args);
        assert_eq!(code, 1);
        assert!(text.contains("is corrupt: checksum"), "{text}");
    }
    bytes[at] ^= 1;
    bytes[300] ^= 1;
    fs::write(path, &bytes).unwrap();
    assert!(failure(&["inspect", path]).1.contains("head 0 is corrupt"));
}

#[test]
fn rejects_ids_and_contexts_out_of_range() {
    let Some(image) = image() else { return };
    assert!(failure(&["run", image, "--ids", "1,4000000"]).1.contains("token id 4000000 out of range"));
    assert!(failure(&["run", image, "--ids", "1", "--context", "99999999", "-q"]).1.contains("context out of range"));
    assert!(
        failure(&["run", image, "--ids", "1,2,3,4", "--context", "3", "-q"]).1.contains("context full: need 4 positions, have 3")
    );
    assert!(failure(&["run", image, "--ids", "1", "--isa", "abacus"]).1.contains("isa abacus not found"));
    assert!(failure(&["run", image, "", "--raw", "-q"]).1.contains("the prompt is empty"));
}

#[test]
fn rejects_input_that_is_not_utf8() {
    let Some(image) = image() else { return };
    let mut child =
        bourn(&["tokenize", image, "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ab\xff").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("stdin: not UTF-8: byte 2 is 0xff"));
}

#[test]
fn every_json_has_the_keys_of_the_design() {
    let Some(image) = image() else { return };
    let run = json(&["run", image, "--ids", "1,2,3", "-n", "5", "--ignore-eos", "--temperature", "0", "--json"]);
    has_keys(
        &run,
        &[
            "text",
            "ids",
            "prompt_tokens",
            "generated_tokens",
            "first_token_ms",
            "prefill_tok_s",
            "decode_tok_s",
            "peak_rss_bytes",
            "bytes_per_token",
            "isa",
            "threads",
        ],
    );
    assert_eq!((&run["prompt_tokens"], &run["generated_tokens"]), (&3.into(), &5.into()));
    let inspect = json(&["inspect", image, "--verify", "--json"]);
    has_keys(&inspect, &["format_version", "family", "parameters", "file_bytes", "bytes_per_token", "tensors", "license"]);
    has_keys(&inspect["tensors"][0], &["name", "shape", "dtype", "bytes"]);
    let bench = json(&["bench", image, "--prompt", "8", "--generate", "4", "--repeat", "1", "--json"]);
    has_keys(
        &bench,
        &[
            "isa",
            "threads",
            "prefill_tok_s",
            "decode_tok_s",
            "first_token_ms",
            "open_ms",
            "peak_rss_bytes",
            "bytes_per_token",
            "read_bandwidth_gb_s",
            "bandwidth_fraction",
            "resident_bytes",
            "streamed_bytes",
        ],
    );
    has_keys(&json(&["board", "--json"]), &["cores", "isa", "caches", "read_bandwidth_gb_s", "predicted"]);
    let first = stdout(&["logits", image, "--ids", "5,6", "--top", "3", "--json"]);
    assert_eq!(first.lines().count(), 2);
    let row: Value = serde_json::from_str(first.lines().nth(1).unwrap()).unwrap();
    has_keys(&row, &["pos", "logsumexp", "top"]);
    assert_eq!(row["top"].as_array().unwrap().len(), 3);
}

#[test]
fn eval_agrees_with_itself() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    fs::write(&text, "The brook runs down to the mill, and the mill grinds the corn. ".repeat(20)).unwrap();
    let text = text.to_str().unwrap();
    let out = json(&["eval", image, "--text", text, "--window", "32", "--against", image, "--json"]);
    has_keys(&out, &["tokens", "perplexity", "kl_mean", "kl_p99", "top1_agreement"]);
    assert_eq!((out["kl_mean"].as_f64(), out["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    // Every text token once, but for those before the first window's scored end.
    let strided = json(&["eval", image, "--text", text, "--window", "48", "--stride", "8", "--against", image, "--json"]);
    let n = |key: &str| strided[key].as_u64().unwrap();
    assert_eq!((n("tokens"), n("stride")), (8 * n("windows"), 8));
    assert_eq!(strided["kl_median"].as_f64(), Some(0.0));
    let half = json(&["eval", image, "--text", text, "--window", "64", "--stride", "64", "--score", "31", "--json"]);
    assert_eq!(half["tokens"].as_u64().unwrap(), 31 * half["windows"].as_u64().unwrap());
    let (code, message) = failure(&["eval", image, "--text", text, "--window", "4096", "-q"]);
    assert!(code == 1 && message.contains("need at least one window of 4096 tokens"), "{message}");
}

#[test]
fn tokenize_goes_there_and_back() {
    let Some(image) = image() else { return };
    let ids = json(&["tokenize", image, "Hello, world! 123", "--json"]);
    let list = ids["ids"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",");
    assert_eq!(json(&["tokenize", image, "--decode", &list, "--json"])["text"], "Hello, world! 123");
    assert_eq!(stdout(&["tokenize", image, "Hello, world! 123"]).trim(), list);
    let dir = tempfile::tempdir().unwrap();
    let chat = dir.path().join("chat.json");
    fs::write(&chat, r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#).unwrap();
    let out = json(&["tokenize", image, "--chat", chat.to_str().unwrap(), "--json"]);
    assert!(out["rendered"].as_str().unwrap().ends_with("<|im_start|>assistant\n"));
    fs::write(&chat, "[1, 2").unwrap();
    assert!(failure(&["tokenize", image, "--chat", chat.to_str().unwrap()]).1.contains("not JSON"));
    fs::write(&chat, r#"{"turns": []}"#).unwrap();
    assert!(failure(&["tokenize", image, "--chat", chat.to_str().unwrap()]).1.contains("need an object with a list `messages`"));
}

#[test]
fn logits_are_stored_as_safetensors_and_one_checksum_for_all() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l.safetensors");
    stdout(&["logits", image, "--ids", "1,2,3", "--out", path.to_str().unwrap()]);
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let head: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let vocab = head["logits"]["shape"][1].as_u64().unwrap() as usize;
    assert_eq!((head["logits"]["shape"][0].as_u64(), head["logits"]["dtype"].as_str()), (Some(3), Some("F32")));
    assert_eq!(bytes.len(), 8 + header + 3 * vocab * 4);
    assert_eq!(header % 8, 0);
    let sums: Vec<String> = [["scalar", "1"], ["scalar", "2"]]
        .iter()
        .map(|[isa, n]| stdout(&["logits", image, "--ids", "1,2,3", "--checksum", "--isa", isa, "--threads", n]))
        .chain([stdout(&["logits", image, "--ids", "1,2,3", "--checksum"])])
        .collect();
    assert!(sums.iter().all(|s| *s == sums[0]), "{sums:?}");
}

#[test]
fn a_stop_string_never_shows() {
    let Some(image) = image() else { return };
    let args = ["run", image, "--ids", "1,2,3", "-n", "24", "--ignore-eos", "--temperature", "0", "--json"];
    let whole = json(&args)["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(5).take(3).collect();
    let out = json(&[&args[..], &["--stop", &stop]].concat());
    let text = out["text"].as_str().unwrap();
    assert_eq!(out["finish"], "stop string");
    assert_eq!(text, &whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn greedy_text_is_the_oracles() {
    let (Some(image), Some(oracle)) = (image(), oracle()) else { return };
    let cases: Value = serde_json::from_slice(&fs::read(oracle.join("dev/smollm2/golden/cases.json")).unwrap()).unwrap();
    let list = |v: &Value| v.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",");
    let case = &cases["cases"][0];
    let greedy = case.get("greedy").or_else(|| case.get("greedy_ids")).unwrap();
    let n = greedy.as_array().unwrap().len().to_string();
    let out = json(&["run", image, "--ids", &list(&case["ids"]), "-n", &n, "--ignore-eos", "--temperature", "0", "--json"]);
    assert_eq!(list(&out["ids"]), list(greedy));
}

#[test]
fn a_closed_pipe_is_quiet() {
    let Some(image) = image() else { return };
    let mut child = bourn(&["inspect", image]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success() && text.is_empty(), "{text}");
}

#[test]
fn chat_answers_line_by_line() {
    let Some(image) = image() else { return };
    let mut child = bourn(&["chat", image, "-n", "4", "--json", "-q", "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"Hello\n\n/clear\nHello\n/exit\n").unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let answers: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["ids"], answers[1]["ids"]);
}

#[test]
fn chat_tells_of_a_message_that_fits_no_context() {
    let Some(image) = image() else { return };
    let mut child =
        bourn(&["chat", image, "--context", "3", "--json", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Hello\n").unwrap();
    let out = child.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.status.success());
    assert_eq!((&answer["finish"], &answer["text"]), (&"context full".into(), &"".into()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_seen_while_no_text_shows() {
    let Some(image) = image() else { return };
    let ids = vec!["1"; 4000].join(",");
    let mut child = bourn(&["logits", image, "--ids", &ids, "--threads", "1", "--isa", "scalar", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // The first line: it is computing.
    out.read_exact(&mut [0; 1]).unwrap();
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    out.read_to_end(&mut Vec::new()).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_line_and_tells_what_was_done() {
    let Some(image) = image() else { return };
    let mut child = bourn(&["run", image, "--ids", "1,2,3", "--ignore-eos", "--threads", "1", "--isa", "scalar"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // The first bytes of text: it is generating.
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let ended = child.wait_with_output().unwrap();
    let notes = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{notes}");
    assert!(rest.ends_with('\n') && notes.contains("cancelled"), "{notes}");
}
