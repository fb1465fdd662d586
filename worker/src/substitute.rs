//! `${NAME}` and `${file:PATH}` in the configuration's texts.

use std::path::Path;

use toml::Value;

/// Replaces the placeholders in every text of `table`: `${NAME}` by the environment variable,
/// `${file:PATH}` by the file's content without its last line break. `$${` stands for `${`.
///
/// # Errors
/// Names the key, and the variable or file that is not there.
pub(crate) fn substitute(table: &mut toml::Table, folder: &Path) -> Result<(), String> {
    for (key, value) in table {
        substitute_value(value, key, folder)?;
    }
    Ok(())
}

fn substitute_value(value: &mut Value, key: &str, folder: &Path) -> Result<(), String> {
    match value {
        Value::String(text) => {
            if text.contains("${") {
                *text = expand(text, folder).map_err(|problem| format!("{key}: {problem}"))?;
            }
        }
        Value::Array(items) => {
            for item in items {
                substitute_value(item, key, folder)?;
            }
        }
        Value::Table(table) => {
            for (inner, value) in table {
                substitute_value(value, &format!("{key}.{inner}"), folder)?;
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
    Ok(())
}

fn expand(text: &str, folder: &Path) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(literal) = rest[..start].strip_suffix('$') {
            expanded.push_str(literal);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let end = rest[start..].find('}').ok_or("a ${ without its }")? + start;
        expanded.push_str(&look_up(&rest[start + 2..end], folder)?);
        rest = &rest[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn look_up(name: &str, folder: &Path) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        let content = std::fs::read_to_string(folder.join(path))
            .map_err(|error| format!("the file {path} can't be read: {error}"))?;
        return Ok(content.trim_end_matches(['\n', '\r']).to_owned());
    }
    std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_variables_and_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("secret"), "s3cret\n").expect("written");
        let mut table: toml::Table =
            toml::from_str("a = 'x-${file:secret}-y'\nb = ['$${HOME}']\nc.d = '${CARGO_PKG_NAME}'").expect("toml");
        substitute(&mut table, folder.path()).expect("substituted");
        assert_eq!(table["a"].as_str(), Some("x-s3cret-y"));
        assert_eq!(table["b"][0].as_str(), Some("${HOME}"));
        assert_eq!(table["c"]["d"].as_str(), Some("pinion-worker"));
    }

    #[test]
    fn names_what_is_missing() {
        let mut table: toml::Table = toml::from_str("[rabbitmq]\nurl = 'amqp://${PINION_NOT_SET}'").expect("toml");
        let problem = substitute(&mut table, Path::new("")).expect_err("not set");
        assert_eq!(problem, "rabbitmq.url: the environment variable PINION_NOT_SET is not set");
    }
}
