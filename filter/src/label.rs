//! The label values by which metrics name a service and a scope.
//!
//! The filter and the sidecar are built separately and must agree on it, as must two builds of
//! either, since a label that changes starts a new time series. So the hash in it is fixed, unlike
//! [`DefaultHasher`](std::hash::DefaultHasher), which may differ from one toolchain to the next.

/// The longest label value in characters, not counting the hash that a longer name gets.
const MAX_LABEL: usize = 128;

/// `name` as a label value: printable ASCII without blanks, quotes and backslashes, of bounded
/// length. If that changes the name, a hash is appended so that it stays unique.
pub fn label(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    let separates = format!("{name}.").contains(SCOPE);
    if name.len() <= MAX_LABEL && name.chars().all(is_plain) && !separates {
        return name.to_owned();
    }
    let plain: String = name
        .chars()
        .take(MAX_LABEL)
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let plain = plain.replace(SCOPE, "_scope_");
    format!("{plain}_{:016x}", fnv1a_64(name.as_bytes()))
}

/// Separates a service from its scope. So it stands in no label value.
const SCOPE: &str = ".scope.";

/// The label values of a scope: its service's, and its own.
pub fn label_of_scope(service: &str, scope: &str) -> String {
    format!("{}{SCOPE}{}", label(service), label(scope))
}

/// [`fnv1a_64`], folded as its authors recommend for fewer bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves are combined"
)]
pub(crate) const fn fnv1a_32(bytes: &[u8]) -> u32 {
    let hash = fnv1a_64(bytes);
    (hash >> 32) as u32 ^ hash as u32
}

/// FNV-1a with 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>, also the source of the test vectors).
pub(crate) const fn fnv1a_64(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = OFFSET_BASIS;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(PRIME);
        rest = tail;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_matches_the_published_test_vectors() {
        for (text, expected) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a_64(text.as_bytes()), expected, "{text:?}");
        }
    }

    /// Dashboards and recording rules hold on to these.
    #[test]
    fn labels_never_change() {
        let (long, longer) = ("x".repeat(1000), "x".repeat(1001));
        let cut = "x".repeat(MAX_LABEL);
        for (name, expected) in [
            ("auth", "auth".to_owned()),
            (
                "outbound|8080||auth.ns",
                "outbound|8080||auth.ns".to_owned(),
            ),
            ("a b", "a_b_e63f991904833892".to_owned()),
            ("a\tb", "a_b_e5bacb19041229c7".to_owned()),
            ("gr\u{fc}\u{df}e", "gr__e_5862e9cb86cd3d18".to_owned()),
            (&long, format!("{cut}_e1add1d93134d2c5")),
            (&longer, format!("{cut}_af2e510e9cc21727")),
        ] {
            assert_eq!(label(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_scope_is_told_from_the_rest_of_a_name_by_its_first_separator() {
        assert_eq!(
            label_of_scope("auth.ns", "v1.login"),
            "auth.ns.scope.v1.login"
        );
        for (service, scope) in [
            ("a.scope.b", "c"),
            ("a", "b.scope.c"),
            ("a.scope", ".scope.b"),
        ] {
            let both = label_of_scope(service, scope);
            let (before, after) = both.split_once(SCOPE).expect("there is one");
            assert_eq!(
                (before, after),
                (&*label(service), &*label(scope)),
                "{both}"
            );
        }
    }

    #[test]
    fn labels_have_no_quotes_or_blanks_and_are_bounded() {
        assert_eq!(label("outbound|8080||auth.ns"), "outbound|8080||auth.ns");
        assert!(label("a b\"c\\d\ne'f\u{e9}").starts_with("a_b_c_d_e_f__"));
        assert_ne!(label("a b"), label("a\tb"));
        assert_eq!(label(&"x".repeat(1000)).len(), MAX_LABEL + 17);
        assert_ne!(label(&"x".repeat(1000)), label(&"x".repeat(1001)));
    }
}
