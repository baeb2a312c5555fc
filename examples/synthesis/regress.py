#!/usr/bin/env python3
"""Synthesises Verilog designs, each as a job of its own, and compares their cells with a baseline.

    regress.py --yosys yosys.wasm --share SHARE [--update] [DESIGN.v ...]

Without designs, all that the baseline names are taken from examples/verilog. Uses the command line `gristmill`
(GRISTMILL names another program) and whatever server it speaks to. Exits with 1 when a count differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "baseline.json"
GRISTMILL = os.environ.get("GRISTMILL", "gristmill")


def gristmill(*args):
    """Runs a command and returns its JSON document."""
    ended = subprocess.run([GRISTMILL, "--output", "json", *map(str, args)], stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        sys.exit(f"regress: gristmill {' '.join(map(str, args[:2]))} ended with {ended.returncode}")
    return json.loads(ended.stdout)


def submit(options, design):
    return gristmill(
        "job", "submit", options.yosys, "--in", f"/share={options.share}", "--in", f"design.v={design}",
        "--in", f"synth.ys={HERE / 'synth.ys'}", "--memory", "1GiB", "--cpus", "1", "--reproducible",
        "--", "-q", "-s", "/in/synth.ys",
    )["id"]  # fmt: skip


def cells(job, outputs):
    """The number of cells of each kind that a job has counted."""
    ended = gristmill("job", "wait", job)
    if ended["state"] != "succeeded":
        sys.exit(f"regress: {job} {ended['state']}: {ended.get('hint')}")
    gristmill("job", "outputs", job, "--out", outputs)
    statistics = json.loads((outputs / "statistics.json").read_text())
    return dict(sorted(statistics["design"]["num_cells_by_type"].items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--yosys", required=True, help="the module, or the name under which it is published")
    parser.add_argument("--share", required=True, type=Path, help="its directory of cell libraries")
    parser.add_argument("--update", action="store_true", help="write what was counted as the new baseline")
    parser.add_argument("designs", nargs="*", type=Path)
    options = parser.parse_args()
    baseline = json.loads(BASELINE.read_text())
    designs = options.designs or [HERE.parent / "verilog" / f"{name}.v" for name in baseline]

    jobs = {design.stem: submit(options, design) for design in designs}
    differing = 0
    with tempfile.TemporaryDirectory() as directory:
        for name, job in jobs.items():
            counted = cells(job, Path(directory) / name)
            known = baseline.get(name, {})
            changes = [
                f"{kind} {known.get(kind, 0)} -> {counted.get(kind, 0)}"
                for kind in sorted(known.keys() | counted.keys())
                if known.get(kind, 0) != counted.get(kind, 0)
            ]
            differing += bool(changes)
            print(f"{name:<12} {sum(counted.values()):>6} cells  {', '.join(changes) or 'as before'}")
            baseline[name] = counted
    if options.update:
        BASELINE.write_text(json.dumps(baseline, indent=2, sort_keys=True) + "\n")
    elif differing:
        sys.exit(f"regress: {differing} of {len(jobs)} designs differ from {BASELINE.name}")


if __name__ == "__main__":
    main()
