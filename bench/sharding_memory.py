#!/usr/bin/env python3
"""Memory of a rank by train.shard: measured for models that fit here, computed for larger ones.

Usage: sharding_memory.py --keiko BIN [--models small base large] [--ranks 2] [--out FILE.json]

Trains VideoMAE on clips of four tokens, so that activations weigh next to nothing, and reads the most memory
that each rank had resident during steps 3 to 5 (VmHWM of /proc, set back before), less that of a model of a few
thousand weights. What a start and a checkpoint need for a moment is not in it. The estimate is that of
`keiko train --dry-run`. Linux only: it reads /proc.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARDS = ("none", "optimizer", "gradients", "parameters")
FIRST, LAST = 2, 5  # steps: the peak is set back after the first, and read after the last
TINY = ["objective.model=custom", "objective.width=48", "objective.depth=2", "objective.heads=4"]


def arguments(recipe, run, model, shard):
    chosen = TINY if model == "tiny" else [f"objective.model={model}"]
    return ["train", recipe, f"run={run}", f"train.shard={shard}", *chosen]


def recipe_text(data):
    return f"""data: {data}
clip: {{num_frames: 2, size: 32}}
augment: {{flip: 0}}
objective: {{name: videomae, mask_ratio: 0.5}}
batch_size: 4
steps: {LAST + 20}
optimizer: {{base_lr: 1.0e-4}}
precision: fp32
train: {{threads: 1}}
loader: {{threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
"""


def ranks_env(rank, ranks, port):
    return os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
                         "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def steps_of(run):
    try:
        return len(re.findall(rb'"kind": ?"train".*\n', (run / "metrics.jsonl").read_bytes()))
    except FileNotFoundError:
        return 0


def wait_for(run, step, started):
    while steps_of(run) < step:
        for process in started:
            if process.poll() is not None:
                raise SystemExit(f"sharding_memory: a rank ended with {process.returncode} before step {step}; see {run}")
        time.sleep(0.01)


def peak_bytes(keiko, recipe, run, model, shard, ranks):
    """The most that a rank had resident from step FIRST to LAST; the larger of the ranks."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started = [subprocess.Popen([keiko, *arguments(recipe, run, model, shard)], env=ranks_env(rank, ranks, port),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for rank in range(ranks)]
    try:
        wait_for(run, FIRST, started)
        for process in started:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        wait_for(run, LAST, started)
        peaks = [int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024
                 for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(run, ignore_errors=True)
    return max(peaks)


UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def estimate(keiko, recipe, run, model, shard, ranks):
    """(parameters trained, bytes of weights, gradients and moments) of --dry-run."""
    out = subprocess.run([keiko, *arguments(recipe, run, model, shard), "--dry-run"], env=ranks_env(0, ranks, 1),
                         check=True, capture_output=True, text=True).stdout
    found = re.search(r"([\d.]+) (\w+) weights, ([\d.]+) (\w+) gradients, ([\d.]+) (\w+) AdamW", out)
    trained = int(re.search(r"parameters +([\d,]+) trained", out)[1].replace(",", ""))
    return trained, sum(float(found[i]) * UNITS[found[i + 1]] for i in (1, 3, 5))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keiko", required=True)
    parser.add_argument("--models", nargs="*", default=["small", "base", "large"], help="measured")
    parser.add_argument("--computed", nargs="*", default=["giant", "gigantic"], help="by --dry-run alone")
    parser.add_argument("--ranks", type=int, default=2, help="measured; the computed ones are for this many and 8, 64")
    parser.add_argument("--out", help="figures as JSON")
    a = parser.parse_args()
    keiko = os.path.abspath(a.keiko)
    rows = []
    with tempfile.TemporaryDirectory(prefix="keiko-memory-") as folder:
        folder = Path(folder)
        subprocess.run([keiko, "synth", "--out", folder / "clips", "--train", "64", "--test", "8"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        recipe = folder / "recipe.yaml"
        recipe.write_text(recipe_text(folder / "clips" / "train.kix"))
        base = peak_bytes(keiko, recipe, folder / "run", "tiny", "none", a.ranks)
        for model in a.models:
            for shard in SHARDS:
                trained, expected = estimate(keiko, recipe, folder / "run", model, shard, a.ranks)
                found = peak_bytes(keiko, recipe, folder / "run", model, shard, a.ranks) - base
                rows.append({"model": model, "parameters": trained, "ranks": a.ranks, "shard": shard,
                             "measured_bytes": found, "computed_bytes": expected})
                print(f"{model:<9} {trained / 1e6:7.1f} M  {a.ranks:>3} ranks  {shard:<10} measured {found / 1e9:6.2f} GB, "
                      f"computed {expected / 1e9:6.2f} GB", flush=True)
        for model in a.computed:
            for ranks in sorted({a.ranks, 8, 64}):
                for shard in SHARDS:
                    trained, expected = estimate(keiko, recipe, folder / "run", model, shard, ranks)
                    rows.append({"model": model, "parameters": trained, "ranks": ranks, "shard": shard,
                                 "computed_bytes": expected})
                    print(f"{model:<9} {trained / 1e6:7.1f} M  {ranks:>3} ranks  {shard:<10} computed {expected / 1e9:6.2f} GB")
    if a.out:
        Path(a.out).write_text(json.dumps({"program_bytes": base, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
