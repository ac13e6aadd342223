//! One key of a store: what each action makes of its value, and what it answers.

/// What is done to a key. Values are ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answers with the value.
    Get,
    /// Replaces the value, whatever it is.
    Set(String),
    /// Sets the value if there is none.
    SetIfAbsent(String),
    /// Replaces the value and answers with the one before.
    SetAndGet(String),
    /// Adds text at the end, and answers with the length.
    Append(String),
    /// Overwrites the beginning, and answers with the length.
    Overwrite(String),
    /// Adds to a number, and answers with the sum.
    Add(i64),
    /// Removes the value, and answers with how many there were.
    Delete,
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// There is no value, or it was not done.
    Nothing,
    /// A value.
    Text(String),
    /// A sum, a length or a number of values.
    Number(i64),
    /// The value is of the wrong kind.
    Refused,
}

impl Action {
    /// Whether it changes nothing, whatever the value is.
    pub const fn only_reads(&self) -> bool {
        matches!(self, Self::Get)
    }

    /// The value afterwards, and the reply.
    pub fn apply(&self, value: Option<&str>) -> (Option<String>, Reply) {
        let before = || value.map_or(Reply::Nothing, |text| Reply::Text(text.to_owned()));
        let kept = || value.map(ToOwned::to_owned);
        match self {
            Self::Get => (kept(), before()),
            Self::Set(new) => (Some(new.clone()), Reply::Done),
            Self::SetIfAbsent(new) => match value {
                Some(_) => (kept(), Reply::Nothing),
                None => (Some(new.clone()), Reply::Done),
            },
            Self::SetAndGet(new) => (Some(new.clone()), before()),
            Self::Append(more) => with_length(value.unwrap_or_default().to_owned() + more),
            Self::Overwrite(start) => {
                let rest = value.and_then(|text| text.get(start.len()..));
                with_length(start.clone() + rest.unwrap_or_default())
            }
            Self::Add(more) => match value.unwrap_or("0").parse::<i64>() {
                Ok(number) => {
                    let sum = number.wrapping_add(*more);
                    (Some(sum.to_string()), Reply::Number(sum))
                }
                Err(_) => (kept(), Reply::Refused),
            },
            Self::Delete => (None, Reply::Number(i64::from(value.is_some()))),
        }
    }
}

fn with_length(text: String) -> (Option<String>, Reply) {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    (Some(text), Reply::Number(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_changes_the_value_and_answers_as_redis_does() {
        let text = |text: &str| text.to_owned();
        let some = |value: &str| Some(text(value));
        for (action, value, after, reply) in [
            (Action::Get, Some("a"), some("a"), Reply::Text(text("a"))),
            (Action::Get, None, None, Reply::Nothing),
            (Action::Set(text("b")), Some("a"), some("b"), Reply::Done),
            (Action::SetIfAbsent(text("b")), None, some("b"), Reply::Done),
            (
                Action::SetIfAbsent(text("b")),
                Some("a"),
                some("a"),
                Reply::Nothing,
            ),
            (
                Action::SetAndGet(text("b")),
                Some("a"),
                some("b"),
                Reply::Text(text("a")),
            ),
            (
                Action::SetAndGet(text("b")),
                None,
                some("b"),
                Reply::Nothing,
            ),
            (
                Action::Append(text("b")),
                Some("a"),
                some("ab"),
                Reply::Number(2),
            ),
            (Action::Append(text("b")), None, some("b"), Reply::Number(1)),
            (
                Action::Overwrite(text("xy")),
                Some("abc"),
                some("xyc"),
                Reply::Number(3),
            ),
            (
                Action::Overwrite(text("xy")),
                Some("a"),
                some("xy"),
                Reply::Number(2),
            ),
            (Action::Add(2), Some("3"), some("5"), Reply::Number(5)),
            (Action::Add(2), None, some("2"), Reply::Number(2)),
            (Action::Add(2), Some("a"), some("a"), Reply::Refused),
            (Action::Delete, Some("a"), None, Reply::Number(1)),
            (Action::Delete, None, None, Reply::Number(0)),
        ] {
            assert_eq!(
                action.apply(value),
                (after, reply),
                "{action:?} of {value:?}"
            );
        }
    }
}
