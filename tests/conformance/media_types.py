"""Tells schemathesis that pieces of uploads are bytes."""

import schemathesis

schemathesis.serializer.alias(
    ["application/partial-upload", "application/offset+octet-stream"], "application/octet-stream"
)
