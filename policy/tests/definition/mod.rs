//! Rules by their definition, in floating point, for models.

/// Whether `row` failures in a row decide, where `usual` ones do for a service that hardly ever fails,
/// and `failed` of `calls` before did. `None` if it is too close to tell.
pub fn is_news(row: usize, usual: usize, calls: usize, failed: usize) -> Option<bool> {
    let failed = failed.min(calls);
    if row < usual || calls < 20 || failed == 0 {
        return Some(row >= usual);
    }
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let [row, usual, calls, failed] = [row, usual, calls, failed].map(|count| count as f64);
    let bits = row * (calls / failed).log2();
    let needed = 5.0 * usual + (calls / 64.0).log2().max(0.0);
    ((bits - needed).abs() > 0.02 * row || bits.to_bits() == needed.to_bits())
        .then_some(bits >= needed)
}
