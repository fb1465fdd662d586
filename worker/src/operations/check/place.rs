//! The lines that findings point to. What can't be found has no line.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// The line of a value in a TOML file, by its keys; a number is a place in an array. Of what is not there, the line of
/// the last part that is.
pub(super) fn toml_line(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (first, rest) = path.split_first()?;
    let mut value = table.get_ref().get(*first)?;
    for key in rest {
        let inner = match value.get_ref() {
            DeValue::Table(table) => table.get(*key),
            DeValue::Array(items) => key.parse::<usize>().ok().and_then(|place| items.get(place)),
            _ => None,
        };
        let Some(inner) = inner else { break };
        value = inner;
    }
    line_at(text, value.span().start)
}

/// The line on which a text in a TOML file begins: that of its quotes, or the next one where a line break follows them.
pub(super) fn toml_text_line(text: &str, path: &[&str]) -> Option<usize> {
    let line = toml_line(text, path)?;
    let opened = text.lines().nth(line - 1)?.trim_end();
    let next = opened.ends_with("\"\"\"") || opened.ends_with("'''");
    Some(line + usize::from(next))
}

fn line_at(text: &str, at: usize) -> Option<usize> {
    text.get(..at).map(|before| 1 + before.matches('\n').count())
}

/// The line of each key of a JSON text, by the dotted keys down to it. `mappings` and `properties` are left out, so
/// that fields have the names that documents give them. The text must be valid JSON.
pub(super) fn field_lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    // The keys down to here; `None` for an array or the outermost object.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut key: Option<String> = None;
    let mut line = 1;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\n' => line += 1,
            '"' => {
                let mut end = at + 1;
                while let Some((here, inner)) = characters.next() {
                    end = here;
                    match inner {
                        '\\' => drop(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                let is_key = text[end + 1..].trim_start().starts_with(':');
                if is_key {
                    let name = text[at + 1..end].to_owned();
                    let path = open.iter().flatten().chain([&name]);
                    let path: Vec<&str> =
                        path.map(String::as_str).filter(|part| !["mappings", "properties"].contains(part)).collect();
                    lines.entry(path.join(".")).or_insert(line);
                    key = Some(name);
                }
            }
            '{' | '[' => open.push(key.take()),
            '}' | ']' => drop(open.pop()),
            _ => {}
        }
    }
    lines
}

/// The line of a query that names a column: one that ends with the column's name, or with it in quotes.
pub(super) fn column_line(sql: &str, column: &str) -> Option<usize> {
    let quoted = format!("\"{column}\"");
    let ends_with_column = |line: &str| {
        let line = line.trim_end().trim_end_matches(',').trim_end();
        if line.ends_with(&quoted) {
            return true;
        }
        line.strip_suffix(column)
            .is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"'))
    };
    sql.lines().position(ends_with_column).map(|line| line + 1)
}

/// The line of a place in a query, as PostgreSQL gives it: in characters, from 1.
pub(super) fn character_line(sql: &str, position: usize) -> usize {
    1 + sql.chars().take(position.saturating_sub(1)).filter(|character| *character == '\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_toml_have_lines() {
        let text = "a = 1\n\n[sources.shop]\nprimary = \"x\"\nreplicas = [\n  \"y\",\n  \"z\",\n]\n\n[[watch]]\nkey = \"k\"\n[[watch]]\ntable = \"t\"\n";
        assert_eq!(toml_line(text, &["a"]), Some(1));
        assert_eq!(toml_line(text, &["sources", "shop", "primary"]), Some(4));
        assert_eq!(toml_line(text, &["sources", "shop", "replicas", "1"]), Some(7));
        assert_eq!(toml_line(text, &["sources", "shop", "fence"]), Some(3));
        assert_eq!(toml_line(text, &["watch", "1", "table"]), Some(13));
        assert_eq!(toml_line(text, &["other"]), None);
        assert_eq!(toml_line("a = ", &["a"]), None);
        assert_eq!(toml_text_line("\na = \"\"\"\nx\"\"\"\nb = 'y'", &["a"]), Some(3));
        assert_eq!(toml_text_line("\na = \"\"\"\nx\"\"\"\nb = 'y'", &["b"]), Some(4));
    }

    #[test]
    fn fields_in_json_have_lines() {
        let text = r#"{
  "settings": {"number_of_shards": 1},
  "mappings": {"properties": {
    "na\"me": {"type": "text", "meta": {"a": "b: c, {"}},
    "customer": {
      "properties": {
        "name": {"type": "keyword"}}},
    "list": [{"name": 1}],
    "name": {"type": "keyword"}
  }}
}"#;
        let lines = field_lines(text);
        assert_eq!(lines["customer.name"], 7);
        assert_eq!(lines["name"], 9);
        assert_eq!(lines["na\\\"me"], 4);
    }

    #[test]
    fn columns_in_a_query_have_lines() {
        let sql =
            "SELECT\n  o.id AS _id,\n  o.id,\n  o.status ,\n  c.name AS \"customer.name\",\n  i.order_status\nFROM o";
        assert_eq!(column_line(sql, "id"), Some(3));
        assert_eq!(column_line(sql, "status"), Some(4));
        assert_eq!(column_line(sql, "customer.name"), Some(5));
        assert_eq!(column_line(sql, "name"), None);
        assert_eq!(character_line(sql, 9), 2);
        assert_eq!(character_line("é\nx", 3), 2);
    }
}
