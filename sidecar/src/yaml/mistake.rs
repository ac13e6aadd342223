/// Something wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// The line of a byte, from 1.
pub(super) fn line_at(text: &[u8], place: usize) -> usize {
    let before = text.iter().take(place);
    1 + before.filter(|byte| **byte == b'\n').count()
}
