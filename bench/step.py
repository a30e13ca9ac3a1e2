#!/usr/bin/env python3
"""Measures `keiko bench step` beside PyTorch, in one run, taking turns.

The sides: keiko; a plain PyTorch model (step_peers.py, unchanged: a copy of it is run), eagerly and
under torch.compile; Keiko's own algorithm in PyTorch (step_torch.py beside this file), both ways. A
round runs each side once in a process of its own, the order turning by one from round to round. A
ratio is Keiko's fastest step of a round over the other's fastest step of the same round: what slows
the machine for minutes slows both. Run it with the Python that has torch.

--peers (or KEIKO_PEERS) is the folder of step_peers.py.

Usage: step.py --keiko BIN --peers DIR --model videomae-s --batch 4 --threads 1 --rounds 5
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIDES = {"keiko": "Keiko", "eager": "plain PyTorch", "compile": "plain PyTorch, torch.compile",
         "own-eager": "Keiko's algorithm in PyTorch", "own-compile": "Keiko's algorithm in PyTorch, torch.compile"}
RUN_LIMIT_S = 3600


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def commands(a, peers):
    """Side -> command line without the options that all sides share."""
    python = [sys.executable, "-B"]
    own = [*python, str(HERE / "step_torch.py")]
    plain = [*python, str(peers)]
    return {"keiko": [a.keiko, "-q", "bench", "step", "--json", "-"], "eager": plain, "compile": [*plain, "--compile"],
            "own-eager": own, "own-compile": [*own, "--compile"]}


def run(command):
    """The figures that the command prints as JSON; raises RuntimeError with its last words."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=RUN_LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def summarise(rounds, sides):
    """Figures of every side. `rounds`: a list of {side: figures of one run}."""
    rows = []
    for side in sides:
        runs = [r[side] for r in rounds if side in r]
        if not runs:
            continue
        row = {"side": side, "step_s": spread([s for r in runs for s in r["step_s"]["all"]]),
               "peak_bytes": max(r["peak_bytes"] for r in runs), "flops_per_clip": runs[0]["flops_per_clip"],
               "parameters": runs[0]["parameters"]}
        if side != "keiko":
            ratios = [r["keiko"]["step_s"]["min"] / r[side]["step_s"]["min"] for r in rounds if side in r and "keiko" in r]
            if ratios:
                row |= {"keiko_over_it": spread(ratios), "keiko_over_it_by_round": ratios}
        rows.append(row)
    return rows


def markdown(result):
    lines = [f"{result['model']}, batch {result['batch']}, {result['frames']} frames, side {result['side']}, "
             f"{result['dtype']}, {result['threads']} thread(s), {result['rounds']} round(s) of {result['steps']} steps", "",
             "| side | a step: min, median, max (s) | Keiko over it: min, median, max | most memory |", "|---|---|---|---|"]
    for row in result["sides"]:
        s, r = row["step_s"], row.get("keiko_over_it")
        ratio = f"{r['min']:.3f}, {r['median']:.3f}, {r['max']:.3f}" if r else "-"
        lines.append(f"| {SIDES[row['side']]} | {s['min']:.3f}, {s['median']:.3f}, {s['max']:.3f} | {ratio} | "
                     f"{row['peak_bytes'] / 1e9:.2f} GB |")
    if "keiko_parts_s" in result:
        parts = (f"{name} {1000 * s:.1f} ms" for name, s in result["keiko_parts_s"].items())
        lines += ["", "Keiko's step: " + ", ".join(parts)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keiko", required=True, help="the keiko binary")
    parser.add_argument("--peers", default=os.environ.get("KEIKO_PEERS"), help="folder of step_peers.py")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--model", default="videomae-s")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="all figures of all runs")
    parser.add_argument("--out-markdown", type=Path, help="write the table here too")
    a = parser.parse_args()
    if a.rounds < 1 or a.threads < 1:
        parser.error("--rounds and --threads start at 1")
    if not a.peers and {"eager", "compile"} & set(a.sides):
        parser.error("--peers is needed, or KEIKO_PEERS; or --sides without eager and compile")
    shared = []
    for name in ("model", "batch", "frames", "side", "dtype", "threads", "steps", "warmup"):
        shared += [f"--{name}", str(getattr(a, name))]
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        peers = Path(folder) / "step_peers.py"
        if a.peers:
            shutil.copy(Path(a.peers) / "step_peers.py", peers)
        known = commands(a, peers)
        for number in range(a.rounds):
            turn = number % len(a.sides)
            rounds.append({})
            for side in a.sides[turn:] + a.sides[:turn]:
                rounds[-1][side] = run(known[side] + shared)
                say(f"round {number + 1} of {a.rounds}: {side} {rounds[-1][side]['step_s']['min']:.3f} s")
            result = {name: getattr(a, name) for name in ("model", "batch", "frames", "side", "dtype", "threads", "steps")}
            result |= {"rounds": len(rounds), "torch": rounds[0][a.sides[0]]["torch"], "sides": summarise(rounds, a.sides),
                       "runs": rounds}
            if "keiko" in a.sides:
                parts = [r["keiko"]["parts_s"] for r in rounds]
                result["keiko_parts_s"] = {name: min(p[name] for p in parts) for name in parts[0]}
            if a.json:
                a.json.write_text(json.dumps(result, indent=1) + "\n")
            if a.out_markdown:
                a.out_markdown.write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
