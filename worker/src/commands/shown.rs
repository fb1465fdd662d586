//! Texts of strangers on an operator's terminal: an id or an error may hold anything, what steers a terminal included.

use std::borrow::Cow;

/// A text in which nothing steers the terminal; its lines stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && character != '\t' && steers(character))
}

/// The same in one line.
pub(crate) fn word(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// Control characters, and those that change the direction of what follows.
fn steers(character: char) -> bool {
    let turns =
        matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    character.is_control() || turns || breaks
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_bad(character) { escaped.extend(character.escape_default()) } else { escaped.push(character) }
    }
    escaped.into()
}

/// A text as an argument of a command that an operator may copy into a shell.
pub(crate) fn argument(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:/@%+=".contains(&byte);
    let quoted = if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    word(&quoted).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(lines("a\n\tb ä 😀"), "a\n\tb ä 😀");
        assert_eq!(lines("\u{1b}[2J\r\u{9b}1m\u{202e}\n"), "\\u{1b}[2J\\r\\u{9b}1m\\u{202e}\n");
        assert_eq!(word("a\n\tb\u{2028}\0\u{7f}"), "a\\n\\tb\\u{2028}\\u{0}\\u{7f}");
    }

    #[test]
    fn an_argument_is_one_word_of_a_shell() {
        let cases = [
            ("42", "42"),
            ("a/b:c-1", "a/b:c-1"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's;", r"'it'\''s;'"),
            ("~root", "'~root'"),
            ("a\nb", r"'a\nb'"),
        ];
        for (text, expected) in cases {
            assert_eq!(argument(text), expected);
        }
    }
}
