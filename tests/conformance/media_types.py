"""Tells schemathesis that pieces of uploads are bytes, and lines of JSON a text."""

import schemathesis

schemathesis.serializer.alias(
    ["application/partial-upload", "application/offset+octet-stream"], "application/octet-stream"
)
schemathesis.serializer.alias("application/x-ndjson", "text/plain")
