//! Spans as OTLP has them in protobuf: the `ExportTraceServiceRequest` of opentelemetry-proto 1.x.
//!
//! The numbers are those of the fields in its files `trace_service`, `trace`, `resource` and `common`, which
//! are stable. Protobuf itself is small enough to be written here: a field is a number, one of three forms,
//! and its content.

use crate::span::{EndedSpan, Kind, Value};

/// A message that is being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn whole(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    fn fixed64(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn fixed32(mut self, field: u32, value: u32) -> Self {
        self.varint(u64::from(field) << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }
}

/// A request that exports these spans of one resource.
pub(crate) fn request(resource: &[(String, String)], version: &str, spans: &[EndedSpan]) -> Vec<u8> {
    let resource = resource.iter().fold(Message::default(), |message, (key, value)| {
        message.message(1, &attribute(key, &Value::Text(value.clone())))
    });
    let scope = Message::default().text(1, "gristmill").text(2, version);
    let of_scope = Message::default().message(1, &scope);
    let of_scope = spans.iter().fold(of_scope, |message, ended| message.message(2, &span(ended)));
    let of_resource = Message::default().message(1, &resource).message(2, &of_scope);
    Message::default().message(1, &of_resource).0
}

fn attribute(key: &str, value: &Value) -> Message {
    let any = match value {
        Value::Text(text) => Message::default().text(1, text),
        Value::Truth(truth) => Message::default().whole(2, u64::from(*truth)),
        Value::Whole(number) => Message::default().whole(3, number.cast_unsigned()),
    };
    Message::default().text(1, key).message(2, &any)
}

fn span(span: &EndedSpan) -> Message {
    const IS_REMOTE_KNOWN: u32 = 0x100;
    const IS_REMOTE: u32 = 0x200;
    const STATUS_ERROR: u64 = 2;
    let place = &span.place;
    let mut message = Message::default().bytes(1, &place.context.trace()).bytes(2, &place.context.span());
    if let Some(parent) = &place.parent {
        message = message.bytes(4, parent);
    }
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
    };
    message = message.text(5, &span.name).whole(6, kind);
    message = message.fixed64(7, span.began_ns).fixed64(8, span.ended_ns);
    for (key, value) in &span.attributes {
        message = message.message(9, &attribute(key, value));
    }
    if span.has_failed {
        message = message.message(15, &Message::default().whole(3, STATUS_ERROR));
    }
    let remote = if place.is_parent_remote { IS_REMOTE } else { 0 };
    message.fixed32(16, u32::from(place.context.is_sampled()) | IS_REMOTE_KNOWN | remote)
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::TraceContext;

    use super::*;
    use crate::span::Place;

    /// What `opentelemetry-proto` 0.33 with `prost` makes of the same two spans.
    const BY_OTHERS: &str = "0aa6020a220a200a0c736572766963652e6e616d6512100a0e67726973746d696c6c2d6e6f6465\
        12ff010a120a0967726973746d696c6c1205302e312e3012a7010a10101112131415161718191a1b1c1d1e1f120801010101\
        01010101220802020202020202022a0d504f5354202f76312f6a6f627330023900002a36fe9c971741e0932e36fe9c97174a\
        0c0a047465787412040a02c3a44a0c0a0577686f6c65120318ac024a130a046c657373120b18ffffffffffffffffff014a0a\
        0a046e6f6e65120218004a080a026973120210014a0b0a05656d70747912020a007a021802850101030000123f0a10101112\
        131415161718191a1b1c1d1e1f120803030303030303032a07617474656d7074300139010000000000000041020000000000\
        0000850101010000";

    #[test]
    fn bytes_are_those_of_another_implementation() {
        let place = |span, parent, is_parent_remote| Place {
            context: TraceContext::of(std::array::from_fn(|at| at as u8 + 0x10), [span; 8]),
            parent,
            is_parent_remote,
        };
        let began_ns = 1_700_000_000_000_000_000;
        let request_span = EndedSpan {
            place: place(1, Some([2; 8]), true),
            name: "POST /v1/jobs".into(),
            kind: Kind::Server,
            began_ns,
            ended_ns: began_ns + 300_000,
            attributes: vec![
                ("text", Value::Text("ä".into())),
                ("whole", Value::Whole(300)),
                ("less", Value::Whole(-1)),
                ("none", Value::Whole(0)),
                ("is", Value::Truth(true)),
                ("empty", Value::Text(String::new())),
            ],
            has_failed: true,
        };
        let attempt = EndedSpan {
            place: place(3, None, false),
            name: "attempt".into(),
            kind: Kind::Internal,
            began_ns: 1,
            ended_ns: 2,
            attributes: Vec::new(),
            has_failed: false,
        };
        let resource = [("service.name".to_owned(), "gristmill-node".to_owned())];
        assert_eq!(hex::encode(request(&resource, "0.1.0", &[request_span, attempt])), BY_OTHERS);
    }
}
