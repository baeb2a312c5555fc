"""Nodes that only sign: one holds the lease of a real job for as long as it is asked to, one holds nothing."""

import secrets
import threading

import requests

from signature import NodeSignature, digest_of, public_key

ZONE = "signed"
GIB = 1 << 30


class Node:
    """A node that is enrolled and runs nothing."""

    def __init__(self, server, name):
        self.url, self.seed = server.url, secrets.token_bytes(32)
        request = {
            "join_token": server.call("POST", "/v1/join-tokens", {"zone": ZONE})["secret"],
            "public_key": public_key(self.seed), "name": name, "labels": {}, "protocol_versions": [1, 1],
            "capabilities": {
                "version": "0.1.0", "engine": "none", "platform": "x86_64-linux", "features": [],
                "cpus_milli": 2000, "memory_bytes": 8 * GIB,
                "isolation": {"outer_limit": "process", "seccomp": True, "landlock_abi": 7, "own_uid": True},
            },
        }
        self.id = server.call("POST", "/v1/node/enroll", request)["node"]
        self.signature = NodeSignature(self.seed, self.id)

    def post(self, path, body):
        prepared = requests.Request("POST", f"{self.url}/v1/node/{path}", json=body).prepare()
        prepared.headers["content-digest"] = digest_of(prepared.body)
        with requests.Session() as session:
            answer = session.send(self.signature.sign(prepared), timeout=60)
        if answer.status_code != 200:
            raise SystemExit(f"{path} was answered {answer.status_code}: {answer.text}")
        return answer.json()


class Holder(Node):
    """A node with the lease of a job, which is renewed until it is let go."""

    def __init__(self, server, module, blob):
        super().__init__(server, "holder")
        # The blob that the examples of the description name is its input.
        job = {"module": module, "zone": ZONE, "inputs": [{"name": "data.csv", "source": {"digest": blob}}]}
        server.call("POST", "/v1/jobs", job)
        work = {"incarnation": "one", "cpus_milli_free": 2000, "memory_bytes_free": 8 * GIB, "leases_max": 1,
                "wait_ms": 25_000}
        granted = self.post("leases/acquire", work)["leases"][0]
        self.lease = {"job": granted["job"], "attempt": granted["attempt"], "lease_token": granted["lease_token"]}
        self.post("updates", {"updates": [{**self.lease, "change": {"kind": "started"}}]})
        self.let_go, self.verdict = threading.Event(), "held"
        self.renewing = threading.Thread(target=self.renew, daemon=True)
        self.renewing.start()

    def renew(self):
        while not self.let_go.wait(5):
            self.verdict = self.post("leases/renew", {"leases": [self.lease]})["leases"][0]["verdict"]

    def end(self):
        """Stops renewing, and says what the server last said of the lease."""
        self.let_go.set()
        self.renewing.join()
        return self.verdict
