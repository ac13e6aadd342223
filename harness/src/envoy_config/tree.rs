//! Places in a configuration, as JSON values.

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The value at a JSON pointer (RFC 6901). Absent keys of objects are created as null; anything else that is absent is an
/// error.
pub(super) fn at<'a>(root: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    let mut place = root;
    for step in pointer.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        let next = match place {
            Value::Object(object) => Some(object.entry(step).or_insert(Value::Null)),
            Value::Array(list) => step
                .parse()
                .ok()
                .and_then(|index: usize| list.get_mut(index)),
            _ => None,
        };
        place = next.ok_or_else(|| absent(pointer))?;
    }
    Ok(place)
}

/// The list at a JSON pointer.
pub(super) fn list<'a>(root: &'a mut Value, pointer: &str) -> Result<&'a mut Vec<Value>> {
    at(root, pointer)?
        .as_array_mut()
        .ok_or_else(|| absent(pointer))
}

fn absent(pointer: &str) -> Error {
    Error::new(format!("the configuration has no `{pointer}`"))
}

/// Merges `patch` into `target` as RFC 7396 says.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let mut merged = match target.take() {
        Value::Object(object) => object,
        _ => serde_json::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            merge(merged.entry(key).or_insert(Value::Null), value);
        }
    }
    *target = Value::Object(merged);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_are_created_and_absent_list_entries_are_an_error() {
        let mut value = json!({"list": [{"a": 1}], "text": "x"});
        *at(&mut value, "/list/0/b/c").unwrap() = json!(2);
        assert_eq!(value["list"][0], json!({"a": 1, "b": {"c": 2}}));
        for pointer in ["/list/1", "/list/x", "/text/a"] {
            let error = at(&mut value, pointer).unwrap_err().to_string();
            assert!(error.contains(pointer), "{error}");
        }
    }

    #[test]
    fn a_patch_merges_objects_replaces_values_and_removes_by_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(
            &mut value,
            &json!({"a": {"b": null, "e": {"f": 3}}, "d": 4}),
        );
        assert_eq!(value, json!({"a": {"c": 2, "e": {"f": 3}}, "d": 4}));
    }
}
