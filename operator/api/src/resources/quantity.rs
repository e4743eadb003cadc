//! Amounts as Kubernetes writes them: `64Mi`, `500m`, `10G`, `3`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// An amount as it was written. YAML may hold a bare number there, as everywhere in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl Quantity {
    /// The amount of bytes: a whole number with a suffix of powers of 1024 (`Ki`, `Mi`, ...) or of 1000 (`k`, `M`, ...).
    /// None for anything else (fractions, `m`, exponents) and for more than a `u64` holds.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let digits_end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, suffix) = self.0.split_at(digits_end);
        let (_, factor) = SUFFIXES.iter().find(|(known, _)| *known == suffix)?;
        digits.parse::<u64>().ok()?.checked_mul(*factor)
    }
}

/// What the pattern of byte amounts lets through.
const SUFFIXES: [(&str, u64); 11] = [
    ("", 1),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

/// The schema of an amount of bytes: whole, with a suffix that [`Quantity::bytes`] knows, and small enough for it.
pub(super) fn bytes_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 12,
        "minimum": 0,
        "pattern": "^[0-9]{1,9}([KMGT]i|[kMGT])?$",
    })
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "minimum": 0,
            "pattern": "^[0-9]+(\\.[0-9]{1,9})?([KMGTPE]i|[munkMGTPE])?$",
        })
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;

        impl Visitor<'_> for NumberOrText {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount: a whole number or text like 64Mi")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(NumberOrText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_text_or_number() {
        for (json, expected) in [("\"64Mi\"", "64Mi"), ("3", "3")] {
            assert_eq!(serde_json::from_str::<Quantity>(json).unwrap().0, expected);
        }
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }

    #[test]
    fn bytes_are_whole_and_fit() {
        let cases = [
            ("0", Some(0)),
            ("64Mi", Some(64 << 20)),
            ("1Ti", Some(1 << 40)),
            ("5k", Some(5_000)),
            ("2G", Some(2_000_000_000)),
            ("999999999Ti", None),
            ("1.5Gi", None),
            ("500m", None),
            ("1e3", None),
            ("", None),
            ("Mi", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity(text.to_owned()).bytes(), expected, "{text}");
        }
    }
}
