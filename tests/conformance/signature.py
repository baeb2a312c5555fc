"""Signs requests as a node does (RFC 9421, Ed25519), so that the node's part of the API answers for real."""

import base64
import hashlib
import re
import secrets
import time
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from requests.auth import AuthBase

HEADERS = {"signature", "signature-input"}
DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def digest_of(body):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def public_key(seed):
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(raw).decode()


class NodeSignature(AuthBase):
    """Signs what is sent, as it is: a missing or malformed `content-digest` stays so, any other is made true, and a
    request in which one of the signature's headers is to be missing is not signed."""

    def __init__(self, seed, node, lease=None):
        self.key, self.node, self.lease = Ed25519PrivateKey.from_private_bytes(seed), node, lease

    def __call__(self, request):
        return self.sign(request) if HEADERS <= {name.lower() for name in request.headers} else request

    def sign(self, request):
        headers, url = request.headers, urlsplit(request.url)
        covered = [("@method", request.method), ("@path", url.path), ("@query", f"?{url.query}")]
        body = request.body or b""
        digest = text(headers.get("content-digest"))
        if digest is not None:
            if DIGEST.fullmatch(digest):
                digest = digest_of(body.encode() if isinstance(body, str) else body)
                headers["content-digest"] = digest
            covered.append(("content-digest", digest))
        if self.lease is not None:
            headers["gristmill-lease"] = self.lease
            covered.append(("gristmill-lease", self.lease))
        names = " ".join(f'"{name}"' for name, _ in covered)
        parameters = (f'({names});created={int(time.time())};nonce="{secrets.token_hex(16)}";'
                      f'keyid="{self.node}";alg="ed25519"')
        base = "".join(f'"{name}": {value}\n' for name, value in covered) + f'"@signature-params": {parameters}'
        signed = base64.b64encode(self.key.sign(base.encode("latin-1"))).decode()
        headers["signature-input"] = f"sig1={parameters}"
        headers["signature"] = f"sig1=:{signed}:"
        return request
