//! What is wrong with the file, told without the values in it: each of them may be a secret.

use super::Written;

/// The file's shape, with toml's message that shows the line; values that hold placeholders are
/// texts and stay valid.
pub(super) fn check_shape(text: &str) -> Result<(), String> {
    let error = match toml::from_str::<Written>(text) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let value_is_placeholder = error.span().and_then(|span| text.get(span)).is_some_and(|value| value.contains("${"));
    if value_is_placeholder { Ok(()) } else { Err(describe(text, &error)) }
}

/// Line and message without the line's text, which may hold a secret.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
    let problem = without_value(error.message());
    match line {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    }
}

/// `invalid type: string "amqp://…", expected a sequence` without the value that it quotes, which may be a secret.
pub(super) fn without_value(message: &str) -> String {
    let quotes_a_value = ["invalid type: ", "invalid value: "].iter().any(|start| message.starts_with(start));
    let value = message.find(['"', '`']);
    match (value, message.rfind(", expected ")) {
        (Some(value), Some(expected)) if quotes_a_value && value < expected => {
            format!("{}{}", message[..value].trim_end(), &message[expected..])
        }
        _ => message.to_owned(),
    }
}
