"""A real server for checks from outside: started, filled with something to look at, stopped."""

import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class Server:
    """A server and a node in a directory of their own, with all rights on them."""

    def __init__(self, binary, home):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self.log = pathlib.Path(home, "server.log")
        self.environment = {"PATH": os.environ["PATH"], "HOME": home}
        self.binary, self.home = binary, pathlib.Path(home)
        data = self.home / "server"
        self.token_file = data / "admin.token"
        # One address sends all that a stranger can; how strangers are slowed down has tests of its own.
        self.process = self.start("server", "run", "--data", str(data), "--listen", self.address,
                                  "--stranger-requests-per-second", "0")
        self.wait_until_ready()
        self.token = self.token_file.read_text().strip()
        join_token = self.home / "join.token"
        join_token.write_text(self.call("POST", "/v1/join-tokens", {"zone": "default"})["secret"])
        self.node = self.start("node", "run", "--server", self.url, "--join-token-file", str(join_token),
                               "--state", str(self.home / "node"), "--name", "local", "--slots", "1",
                               "--allow-weak-isolation")

    def start(self, *command):
        return subprocess.Popen(
            [self.binary, *command, "--log-level", "warn"],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log.open("ab"),
        )

    def wait_until_ready(self):
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=5).read()
                if self.token_file.exists():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()}")

    def call(self, method, path, body=None, token=None, **headers):
        headers = {"Authorization": f"Bearer {token or self.token}", **headers}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path} was answered {error.code}: {error.read()}")
        return json.loads(text) if text.startswith(b"{") else text

    def fill(self):
        """Runs the commands of the README's section on the API, then adds what the examples of the description name."""
        section = (REPOSITORY / "README.md").read_text().split("\n## The API\n", 1)[1]
        commands = section.split("```sh\n", 1)[1].split("```", 1)[0]
        environment = {**self.environment, "GRISTMILL_SERVER": self.url, "GRISTMILL_TOKEN": self.token}
        # --fail: an error of the server is an error of the command.
        script = f'curl() {{ command curl --silent --show-error --fail-with-body "$@" && echo; }}\n{commands}'
        done = subprocess.run(["bash", "-euc", script], env=environment, cwd=REPOSITORY, capture_output=True, text=True)
        answers = [json.loads(line) for line in done.stdout.splitlines() if line] if done.returncode == 0 else []
        if len(answers) != 3 or answers[1]["state"] != "succeeded" or answers[2]["items"][0]["id"] != answers[1]["id"]:
            raise SystemExit(f"the commands of the README do not do what it says:\n{done.stdout}{done.stderr}")
        print("the commands of the README work")
        blob = b"test"
        self.blob = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        self.call("PUT", f"/v1/blobs/{self.blob}", blob)
        self.call("POST", "/v1/zones", {"name": "lab"})
        self.spare_token = self.call("POST", "/v1/tokens", {"name": "to be taken back"})["token"]["id"]

    def stop(self):
        """Ends both; the exit code of the server, None when it had to be killed."""
        codes = []
        for process in (self.node, self.process):
            process.send_signal(signal.SIGTERM)
            try:
                codes.append(process.wait(60))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append(None)
        return codes[-1]
