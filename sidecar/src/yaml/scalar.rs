//! Plain scalars by the core schema of YAML 1.2 (<https://yaml.org/spec/1.2.2/#103-core-schema>), with two exceptions:
//! a whole number with a leading zero stays text, since older readers take it for octal, and so do `.inf` and `.nan`,
//! which JSON lacks. `yes`, `no`, `on` and `off` are text.

use serde_json::{Number, Value};

/// The value of a scalar that is written without quotes.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0o") {
        return in_radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return in_radix(digits, 16);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return None;
        }
        if let Ok(number) = text.parse::<i64>() {
            return Some(number.into());
        }
        if let Ok(number) = text.parse::<u64>() {
            return Some(number.into());
        }
    }
    // Rust also reads `inf`, `nan` and `infinity`.
    let is_decimal = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.ends_with(|last: char| last.is_ascii_digit() || last == '.');
    text.parse::<f64>()
        .ok()
        .filter(|_| is_decimal)
        .and_then(Number::from_f64)
}

fn in_radix(digits: &str, radix: u32) -> Option<Number> {
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(Number::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_scalar_is_what_the_core_schema_says() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("True", json!(true)),
            ("FALSE", json!(false)),
            ("0", json!(0)),
            ("-1", json!(-1)),
            ("+5", json!(5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("0o14", json!(12)),
            ("0x1F", json!(31)),
            ("0.5", json!(0.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1e3", json!(1000.0)),
            ("-0.5e-3", json!(-0.0005)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }

    #[test]
    fn everything_else_is_text() {
        for text in [
            "30s", "yes", "no", "on", "off", "tRue", "010", "-010", "1_000", "0x", "0o8", "0o+7",
            "0x-1", ".", "+", "-", "--1", "e3", ".inf", "-.inf", ".nan", "inf", "nan", "Infinity",
            "1e999", "5 6", "١",
        ] {
            assert_eq!(resolve(text), json!(text));
        }
    }
}
