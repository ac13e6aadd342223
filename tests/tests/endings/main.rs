//! The table of `docs/reference/outcomes.md` against a real Envoy: each row has cases that end requests in its way, and what
//! is counted, and whether five of them open the breaker, is what the row says.

mod answers;
mod broken;
mod callers;
mod callers_by_address;
mod case;
mod elsewhere;
mod frozen;
mod half_open;
mod limits;
mod page;
mod silence;
mod tunnels;
mod unseen;
mod witnesses;

use std::collections::BTreeSet;

#[test]
fn each_row_of_the_table_has_a_case_and_each_case_a_row() {
    let mut cases: BTreeSet<String> = [
        answers::cases(),
        broken::cases(),
        callers::cases(),
        limits::cases(),
        elsewhere::cases(),
        tunnels::cases(),
    ]
    .into_iter()
    .flatten()
    .map(|case| case.row.to_owned())
    .collect();
    for rows in [&elsewhere::ROWS[..], &frozen::ROWS, &half_open::ROWS] {
        cases.extend(rows.iter().map(|row| (*row).to_owned()));
    }
    let rows: BTreeSet<String> = page::rows().into_iter().collect();
    assert_eq!(cases, rows);
}
