//! Names in the database.

/// The longest identifier in bytes (`NAMEDATALEN - 1`,
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>). The server truncates
/// longer ones, which then name something else.
pub const MAX_IDENTIFIER: usize = 63;

/// The name of a table, a column or a role, in the case that the database has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identifier(String);

impl Identifier {
    /// # Errors
    /// What the name must be.
    pub fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > MAX_IDENTIFIER || name.contains('\0') {
            return Err(format!(
                "must be a name of 1 to {MAX_IDENTIFIER} bytes, without a zero byte"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// Without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As part of a statement.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_cut_are_refused() {
        for bad in ["", "a\0b", &"x".repeat(64)] {
            assert!(Identifier::new(bad).is_err());
        }
        assert!(Identifier::new(&"x".repeat(63)).is_ok());
    }
}
