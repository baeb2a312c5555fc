"""What schemathesis cannot read in the description: kinds of bodies, and how a node signs."""

import json
import os
import re
from urllib.parse import unquote

import schemathesis
from schemathesis.core.parameters import ParameterLocation

from signature import NodeSignature, digest_of

schemathesis.serializer.alias(
    ["application/partial-upload", "application/offset+octet-stream"], "application/octet-stream"
)
schemathesis.serializer.alias("application/x-ndjson", "text/plain")

# One node holds a lease, and sends what belongs to its attempt. The other asks for work and reports: what it says of
# its own starts must not end that lease.
NODES = json.loads(os.environ["GRISTMILL_NODES"])
for path, name in (("^/v1/node/attempts/", "holder"), ("^/v1/node/(heartbeat|leases|updates)", "caller")):
    node = NODES[name]
    schemathesis.auth.set_from_requests(
        NodeSignature(bytes.fromhex(node["seed"]), node["id"], node.get("lease", {}).get("lease_token"))
    ).apply_to(path_regex=path)
EXAMPLE = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
LEASE = NODES["holder"]["lease"]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Names the attempt that there is, and its bytes, where any would do; does not spend the time on long polls."""
    path, body, headers = case.path_parameters, case.body, case.headers or {}
    wrong = [place for place in ParameterLocation if case.meta is not None and case.meta.is_negative_at(place)]
    if "content-digest" in headers and (ParameterLocation.HEADER not in wrong or ParameterLocation.BODY in wrong):
        headers["content-digest"] = digest_of(b"")  # Any digest: the signature makes it that of the body.
    if case.operation.path.startswith("/v1/node/attempts/"):
        if re.fullmatch("job_[0-7][0-9a-hjkmnp-tv-z]{25}", str(path.get("job"))):
            path["job"] = LEASE["job"]
        if type(path.get("number")) is int and path["number"] > 0:
            path["number"] = LEASE["attempt"]
        if case.operation.method.upper() == "PUT" and unquote(str(path.get("digest"))) == EXAMPLE and body:
            case.body = b"test"
    elif case.operation.path.startswith("/v1/node/leases/") and isinstance(body, dict):
        if type(body.get("wait_ms")) is int and body["wait_ms"] > 10:
            case.body = {**body, "wait_ms": 10}
