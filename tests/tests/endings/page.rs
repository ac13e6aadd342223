//! The table of `docs/reference/outcomes.md`: what each way of ending counts as.

use levee_pages::Page;

const PAGE: &str = "docs/reference/outcomes.md";

/// What the end of a request counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub name: String,
    /// The `outcome` label of `circuit_breaker_requests_total`.
    pub label: String,
}

impl Outcome {
    /// Whether five of it in a row open a breaker, whoever called.
    pub fn opens_by_five(&self) -> bool {
        self.name == "strong failure"
    }

    /// Whether `circuit_breaker_unanswered_total` counts it.
    pub fn is_unanswered(&self) -> bool {
        self.name == "unanswered"
    }
}

/// The first cells of all rows.
pub fn rows() -> Vec<String> {
    let rows = Page::read(PAGE).rows("how it ends");
    rows.iter().map(|row| row.cell(0).to_owned()).collect()
}

/// What the row that begins with this cell says.
pub fn outcome_of(row: &str) -> Outcome {
    let page = Page::read(PAGE);
    let rows = page.rows("how it ends");
    let found = rows.iter().find(|found| found.cell(0) == row);
    let name = found
        .unwrap_or_else(|| panic!("{PAGE} has no row {row:?}"))
        .cell(1);
    let outcomes = page.rows("outcome");
    let outcome = outcomes.iter().find(|outcome| outcome.cell(0) == name);
    let outcome = outcome.unwrap_or_else(|| panic!("{PAGE} does not say what {name:?} is"));
    Outcome {
        name: name.to_owned(),
        label: outcome.codes(2).swap_remove(0),
    }
}
