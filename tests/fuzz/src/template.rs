//! Chat templates: Jinja that came with a checkpoint.

use bourn::template::Template;
use serde_json::{Value, json};

/// A template, rendered with a conversation that has every kind of turn.
pub fn chat_template(data: &[u8]) {
    let Ok(template) = Template::new(&String::from_utf8_lossy(data)) else { return };
    let variables = json!({
        "messages": [
            { "role": "system", "content": "You are terse." },
            { "role": "user", "content": "  What is 7 × 6?\n" },
            { "role": "assistant", "content": "<think>\nEasy.\n</think>\n\n42" },
            { "role": "user", "content": [{ "type": "text", "text": "Sure?" }] },
        ],
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "a": [1, 2.5, null, true] } } }],
        "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "enable_thinking": false,
    });
    if let Value::Object(variables) = variables {
        // An error is an answer; only a panic or a run without end is a finding.
        let _ = template.render(&variables);
    }
}
