#!/usr/bin/env python3
"""Draws many SVG pictures as PNG, each as a job of its own, and writes a page that shows them.

    gallery.py --resvg resvg.wasm --out DIR [--count 100] [--label KEY=VALUE ...]

Speaks HTTP to the server of GRISTMILL_SERVER with the token of GRISTMILL_TOKEN. Every submit has an idempotency
key made from its picture, so that the script may be stopped and started again: jobs that were accepted are
not run a second time. --label picks the nodes that may draw.
"""

import argparse
import hashlib
import html
import json
import math
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SERVER = os.environ.get("GRISTMILL_SERVER", "http://127.0.0.1:7070")
TOKEN = os.environ.get("GRISTMILL_TOKEN", "")
VERSION = "1.0.0"
TRIES = 8


def call(method, path, body=None, headers=None):
    """One request; tried again when the server is busy or away, which is safe for all that are made here."""
    headers = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
    for left in reversed(range(TRIES)):
        pause = 2.0
        try:
            request = urllib.request.Request(SERVER + path, data=body, headers=headers, method=method)
            with urllib.request.urlopen(request, timeout=90) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code not in (429, 502, 503, 504) or not left:
                sys.exit(f"gallery: {method} {path}: {error.code} {error.read().decode(errors='replace')}")
            pause = float(error.headers.get("Retry-After", pause))
        except OSError as error:
            if not left:
                sys.exit(f"gallery: cannot reach {SERVER}: {error}")
        time.sleep(pause)


def picture(number):
    """A curve of two turning circles, different for each number."""
    outer, inner, pen = 60 + number % 17, 7 + number * 5 % 31, 10 + number * 3 % 23
    turns = inner // math.gcd(outer, inner)
    points = []
    for step in range(180 * turns // 3 + 1):
        angle = math.tau * turns * step / (180 * turns // 3)
        ratio = (outer - inner) / inner * angle
        x = (outer - inner) * math.cos(angle) + pen * math.cos(ratio)
        y = (outer - inner) * math.sin(angle) - pen * math.sin(ratio)
        points.append(f"{x:.1f},{y:.1f}")
    hue = number * 47 % 360
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="160" height="160" viewBox="-100 -100 200 200">'
        f'<rect x="-100" y="-100" width="200" height="200" fill="hsl({hue}, 40%, 94%)"/>'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="hsl({hue}, 65%, 35%)" stroke-width="1.2"/></svg>'
    )


def submit(svg, labels):
    spec = {
        "module": f"resvg@{VERSION}",
        "args": ["/in/picture.svg", "/out/picture.png"],
        "inputs": [{"name": "picture.svg", "source": {"text": svg}}],
        "limits": {"cpus_milli": 500, "memory_bytes": 128 << 20, "wall_time_ms": 60_000},
        "labels": labels,
    }
    body = json.dumps(spec, sort_keys=True).encode()
    key = "gallery-" + hashlib.sha256(body).hexdigest()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return json.loads(call("POST", "/v1/jobs", body, headers))["id"]


def ended(job):
    while True:
        view = json.loads(call("GET", f"/v1/jobs/{job}?wait=30s"))
        if view["state"] not in ("queued", "running"):
            return view


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--resvg", required=True, type=Path, help="the module")
    parser.add_argument("--out", required=True, type=Path, help="directory of the pictures and index.html")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    labels = dict(label.split("=", 1) for label in options.label)

    wasm = options.resvg.read_bytes()
    call("PUT", f"/v1/modules/resvg/versions/{VERSION}", wasm, {"Content-Type": "application/wasm"})
    started = time.monotonic()
    jobs = [submit(picture(number), labels) for number in range(options.count)]
    print(f"submitted {len(jobs)} jobs in {time.monotonic() - started:.1f} s", file=sys.stderr)

    options.out.mkdir(parents=True, exist_ok=True)
    figures, failed = [], 0
    for number, job in enumerate(jobs):
        view = ended(job)
        if view["state"] != "succeeded":
            failed += 1
            print(f"gallery: {job} {view['state']}: {view.get('hint')}", file=sys.stderr)
            continue
        name = f"{number:03}.png"
        (options.out / name).write_bytes(call("GET", f"/v1/jobs/{job}/outputs/picture.png"))
        cost = f"{view['usage']['cpu_us'] / 1000:.1f} ms"
        figures.append(f'<figure><img src="{name}" alt="curve {number}"><figcaption>{html.escape(cost)}</figcaption></figure>')
    style = "body{font:14px sans-serif}figure{display:inline-block;margin:4px;text-align:center}"
    page = f'<!doctype html><meta charset="utf-8"><title>Gallery</title><style>{style}</style>\n' + "\n".join(figures)
    (options.out / "index.html").write_text(page + "\n")
    print(f"drew {len(figures)} pictures in {time.monotonic() - started:.1f} s: {options.out / 'index.html'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
