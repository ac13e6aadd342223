//! Text from other programs, made fit for one line of a page or a log.

/// The longest text that is shown whole, in characters.
const LONGEST: usize = 200;

/// On one line, without control characters, and cut where it is too long.
pub fn shown(text: &str) -> String {
    let printed = |char: char| if char.is_control() { ' ' } else { char };
    let mut shown: String = text.chars().take(LONGEST).map(printed).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_control_characters_are_blank() {
        assert_eq!(shown("no\r\n\u{1b}[31mway"), "no   [31mway");
        assert_eq!(shown(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
        assert_eq!(shown(&"é".repeat(100_000)), "é".repeat(LONGEST) + "…");
    }
}
