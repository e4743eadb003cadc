//! Makes a derived definition follow the API conventions of Kubernetes.

use serde_json::{Map, Value, json};

/// Puts right what derivation gets wrong, in place.
pub(super) fn apply(definition: &mut Value) {
    if let Some(object) = definition.as_object_mut() {
        // What only a server writes.
        object.remove("status");
    }
    let Some(schema) = super::schema(definition) else {
        return;
    };
    walk(schema);
    if let Some(status) = schema.pointer_mut("/properties/status") {
        // Nobody but the operator writes the status, and it writes all of it.
        without_defaults(status);
    }
    if let Some(conditions) = schema.pointer_mut("/properties/status/properties/conditions/items") {
        *conditions = condition();
    }
}

/// Visits a schema and all below it.
fn walk(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    // `Option` means "may be left out": a null is refused, so that server-side apply never owns one.
    object.remove("nullable");
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    // The API server knows `int32` and `int64` only.
    if let Some(format) = object.get("format").and_then(Value::as_str)
        && (format.starts_with("uint") || matches!(format, "int8" | "int16"))
    {
        object.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        whole(object, bound);
    }
    if let Some(Value::String(description)) = object.get_mut("description") {
        // Doc comments break their lines; `kubectl explain` has its own width.
        *description = description.replace('\n', " ");
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(walk);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = object.get_mut(below) {
            walk(below);
        }
    }
}

fn without_defaults(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.remove("default");
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(without_defaults);
    }
    if let Some(items) = object.get_mut("items") {
        without_defaults(items);
    }
}

/// A bound of an integer is an integer: `7.0` becomes `7`.
fn whole(object: &mut Map<String, Value>, bound: &str) {
    let Some(number) = object.get(bound).and_then(Value::as_f64) else {
        return;
    };
    if let Ok(whole) = format!("{number}").parse::<i64>() {
        object.insert(bound.to_owned(), json!(whole));
    }
}

/// `metav1.Condition` with the bounds that Kubernetes gives its own.
fn condition() -> Value {
    json!({
        "description": "What is true of the resource, as of an observed generation.",
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": {
                "description": "When `status` last changed.",
                "type": "string",
                "format": "date-time",
            },
            "message": {
                "description": "What is the matter and what to do about it, in sentences.",
                "type": "string",
                "maxLength": 32768,
            },
            "observedGeneration": {
                "description": "The generation of the specification that the condition speaks about.",
                "type": "integer",
                "format": "int64",
                "minimum": 0,
            },
            "reason": {
                "description": "The cause of the last change, one word for programs.",
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
            "status": {
                "description": "Whether it is true.",
                "type": "string",
                "enum": ["True", "False", "Unknown"],
            },
            "type": {
                "description": "What is or is not true.",
                "type": "string",
                "maxLength": 316,
                "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
            },
        },
    })
}
