//! The traps of `levee check`.

use levee::check::Severity;
use levee::check::traps;
use levee_pages::Page;

#[test]
fn the_table_of_traps_is_complete() {
    let rows = Page::read("docs/reference/check.md").rows("trap");
    let rows = rows
        .iter()
        .map(|row| (row.codes(0).remove(0), row.cell(1).to_owned()));
    let traps = traps::all().map(|trap| {
        let severity = match trap.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Remark => "remark",
        };
        (trap.name.to_owned(), severity.to_owned())
    });
    assert_eq!(rows.collect::<Vec<_>>(), traps.collect::<Vec<_>>());
}
