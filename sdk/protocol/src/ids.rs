//! Typed identifiers. The text form is a prefix and a UUID version 7 (RFC 9562) in lowercase
//! Crockford base32, so that ids sort by creation time and say what they name.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text that is no id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ and 26 characters, found {found:?}")]
pub struct InvalidId {
    /// The prefix of the expected kind.
    pub prefix: &'static str,
    /// The text that was refused, cut after 64 characters.
    pub found: String,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(value: u128) -> [u8; 26] {
    let mut out = [b'0'; 26];
    let mut rest = value;
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != 26 || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)?;
        Some((value << 5) | digit as u128)
    })
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What every id of this kind starts with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Builds an id from the caller's clock (milliseconds since 1970) and randomness.
            pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
                let uuid = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
                Self(uuid.as_u128())
            }

            /// Milliseconds since 1970 at which the id was made.
            pub fn unix_ms(&self) -> u64 {
                (self.0 >> 80) as u64
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0);
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or_else(|| InvalidId {
                        prefix: $prefix,
                        found: text.chars().take(64).collect(),
                    })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::schema::text(
                    concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
                    concat!("The prefix `", $prefix, "_` and a UUID version 7 in Crockford base32; ids sort by creation time."),
                    concat!($prefix, "_01k7b2qzj8e3ws5y6t9c4m0vdf"),
                )
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

typed_id!(
    /// A job.
    JobId,
    "job"
);
typed_id!(
    /// A node, given at enrolment.
    NodeId,
    "node"
);
typed_id!(
    /// A user token's public name; the secret itself is never an id.
    TokenId,
    "tok"
);
typed_id!(
    /// A join token's public name.
    JoinTokenId,
    "join"
);
typed_id!(
    /// An upload that can be resumed.
    UploadId,
    "up"
);

/// Proof of one lease: 128 random bits in hex. It is only ever compared.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LeaseToken(String);

impl LeaseToken {
    /// Builds a token from the caller's randomness.
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(hex::encode(random))
    }

    /// Takes a token as it was received or stored; any text is allowed, since it is only compared.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text to send or store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form_and_sorts_by_time() {
        let early = JobId::from_parts(1_700_000_000_000, [255; 10]);
        let late = JobId::from_parts(1_700_000_000_001, [0; 10]);
        assert_eq!(early.to_string().parse::<JobId>(), Ok(early));
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.unix_ms(), 1_700_000_000_001);
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let node = NodeId::from_parts(1, [1; 10]).to_string();
        assert!(node.parse::<JobId>().is_err());
        assert!("job_zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<JobId>().is_err());
        assert!("job_".parse::<JobId>().is_err());
        assert!("job_é123456789012345678901234".parse::<JobId>().is_err());
    }
}
