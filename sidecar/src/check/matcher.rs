//! What a `stats_matcher` leaves out.

use super::at::At;
use regex::Regex;

/// Where a `stats_matcher` leaves out any of these names, and the first that it does.
pub(super) fn left_out<'a, 'n>(matcher: &At<'a>, names: &'n [String]) -> Vec<(At<'a>, &'n str)> {
    let mut found = Vec::new();
    let first = |is_hidden: &dyn Fn(&str) -> bool| {
        let mut names = names.iter().map(String::as_str);
        names.find(|name| is_hidden(name))
    };
    for pattern in matcher.list("exclusion_list.patterns") {
        if let Some(name) = first(&|name| matches(&pattern, name)) {
            found.push((pattern, name));
        }
    }
    if let Some(list) = matcher.get("inclusion_list") {
        let patterns = list.list("patterns");
        let is_hidden = |name: &str| !patterns.iter().any(|pattern| matches(pattern, name));
        if let Some(name) = first(&is_hidden) {
            found.push((list, name));
        }
    }
    found
}

/// Whether a `StringMatcher` matches.
fn matches(matcher: &At<'_>, text: &str) -> bool {
    let said = |key| matcher.text_at(key);
    said("exact") == Some(text)
        || said("prefix").is_some_and(|prefix| text.starts_with(prefix))
        || said("suffix").is_some_and(|suffix| text.ends_with(suffix))
        || said("contains").is_some_and(|part| text.contains(part))
        || said("safe_regex.regex")
            .and_then(|regex| Regex::new(&format!("^(?:{regex})$")).ok())
            .is_some_and(|regex| regex.is_match(text))
}
