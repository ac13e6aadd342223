//! Decodes a `google.protobuf.Struct`, which Envoy passes in protobuf's encoding, not as JSON.

use prost::Message;
use prost_types::{Struct, value::Kind};
use serde_json::{Map, Value};

/// Every encoded `Struct` with a field begins with this tag. In JSON it is white space.
const FIELDS: u8 = 0x0a;

/// Decodes `bytes` if they are a `Struct` with fields.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    if bytes.first() != Some(&FIELDS) {
        return None;
    }
    Struct::decode(bytes).ok().map(object)
}

fn object(fields: Struct) -> Value {
    let fields = fields.fields.into_iter();
    Value::Object(
        fields
            .map(|(name, field)| (name, value(field)))
            .collect::<Map<_, _>>(),
    )
}

fn value(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => Value::from(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(self::value).collect(),
    }
}
