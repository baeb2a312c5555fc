//! What the server says of itself.

use gristmill_protocol::{ErrorCode::Forbidden, tenancy::Scope};
use serde_json::{Value, json};

use crate::{
    http::{
        metrics,
        openapi::{Operation, Tag, group},
        reference, system,
    },
    ops::Readiness,
};

pub(super) fn operations() -> Vec<Operation> {
    group(Tag::System, [monitoring(), description()].concat())
}

fn monitoring() -> Vec<Operation> {
    let figures = "# HELP gristmill_queue_depth Jobs that wait.\n# TYPE gristmill_queue_depth gauge\ngristmill_queue_depth 0\n";
    vec![
        Operation::get("/livez", system::live)
            .named("getLiveness", "Whether the process answers", "For monitoring.")
            .open()
            .answers_in(200, "text/plain", Some(json!("ok\n")), "It does."),
        Operation::get("/readyz", system::ready)
            .named(
                "getReadiness",
                "Whether the server takes work",
                "Database and blob directory can be written and have room, clock and sweep go on, and the server is not stopping. The answer may be two seconds old.",
            )
            .open()
            .query::<system::ReadyQuery>()
            .answers_in(200, "text/plain", Some(json!("ok\n")), "It does.")
            .answers::<Readiness>(200, "With `verbose`, every check.")
            .answers::<Readiness>(503, "It does not. With `verbose`, every check."),
        Operation::get("/metrics", metrics::show)
            .named("getMetrics", "Figures for Prometheus", "In the text format, added up over all tenants.")
            .needs(Scope::Metrics)
            .answers_in(200, "text/plain", Some(json!(figures)), "The figures."),
    ]
}

fn description() -> Vec<Operation> {
    vec![
        fixed(
            Operation::get("/openapi.json", reference::openapi).named(
                "getOpenapi",
                "This document",
                "OpenAPI 3.1 of this very server.",
            ),
            "application/json",
            json!({"openapi": "3.1.0"}),
        ),
        fixed(
            Operation::get("/docs", reference::page).named(
                "getReference",
                "The API reference",
                "A page for people, which shows this document.",
            ),
            "text/html",
            json!("<!doctype html>"),
        ),
        fixed(
            Operation::get("/docs/page.css", reference::style).named(
                "getReferenceStyle",
                "The style of the API reference",
                "Loaded by the page.",
            ),
            "text/css",
            json!(":root { color-scheme: light dark; }"),
        ),
        fixed(
            Operation::get("/docs/page.js", reference::script).named(
                "getReferenceScript",
                "The script of the API reference",
                "Loaded by the page.",
            ),
            "text/javascript",
            json!("\"use strict\";"),
        ),
    ]
}

/// What is the same for everybody for as long as the process lives.
fn fixed(operation: Operation, media_type: &'static str, example: Value) -> Operation {
    operation
        .open()
        .answers_in(200, media_type, Some(example), "Here it is.")
        .tagged_as("Changes with the content.", "^\"[0-9a-f]{32}\"$")
        .refuses(&[Forbidden])
}
