#!/usr/bin/env python3
"""Holds `keiko simulate` against ranks in network namespaces of one machine: calibrates it with 1 and 2
ranks, predicts 3 and 4 at other rates, and measures those only once the predictions are committed.

Each rank has a network namespace of its own, tied to a bridge, and tc limits what it sends. Its computing
is a timed sleep, so that ranks do not fight for cores. Needs root, ip, tc, and a kernel with tbf (and netem
for --delay-ms). docs/scale.md has the procedure.

    sudo bench/scale_check.py calibrate --keiko build/release/src/keiko --out DIR
    sudo bench/scale_check.py predict   --keiko build/release/src/keiko --out DIR
    git add DIR && git commit
    sudo bench/scale_check.py measure   --keiko build/release/src/keiko --out DIR

A rank runs, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and GLOO_SOCKET_IFNAME set,

    keiko bench reduce --model MODEL --compute-sleep FORWARD_S,BACKWARD_S --steps N --json OUT

and rank 0's OUT has alone_s, with_s, without_s, hidden, buckets and world_size.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOST_ERROR = 0.15
MOST_SHARE = 1448 / 1514  # TCP's payload of a full Ethernet frame as tc counts it
# What is compared: a measured figure of `bench reduce`, and the prediction of `simulate`.
FIGURES = {"with_s": "step_s", "alone_s": "alone_s"}
made = 0  # networks so far


def sh(*args):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"scale_check: {' '.join(map(str, args))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def namespaces(count, rate_mbit, delay_ms):
    """Names of `count` namespaces on one bridge; rank R has the address 10.87.0.(R+1) on the interface eth0.
    `rate_mbit` None: without limit. Everything is taken away again."""
    global made
    made += 1  # the kernel takes names back a while after they are deleted
    tag = f"kk{os.getpid() % 100000}x{made}"
    bridge, names = f"{tag}br", [f"{tag}-{rank}" for rank in range(count)]
    try:
        sh("ip", "link", "add", bridge, "type", "bridge")
        sh("ip", "link", "set", bridge, "up")
        for rank, name in enumerate(names):
            inside, outside = ["ip", "-n", name], f"{tag}v{rank}"
            sh("ip", "netns", "add", name)
            sh("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "link", "set", outside, "master", bridge, "up")
            sh(*inside, "addr", "add", f"10.87.0.{rank + 1}/24", "dev", "eth0")
            sh(*inside, "link", "set", "lo", "up")
            sh(*inside, "link", "set", "eth0", "up")
            shape(name, rate_mbit, delay_ms)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)  # its veth goes with it
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def shape(name, rate_mbit, delay_ms):
    """A small burst: what tc lets through at once after a pause must not count beside a chunk."""
    place, tc = ["root", "handle", "1:"], ["tc", "-n", name, "qdisc", "add", "dev", "eth0"]
    if delay_ms:
        sh(*tc, *place, "netem", "delay", f"{delay_ms}ms", "limit", 100000)
        place = ["parent", "1:", "handle", "2:"]
    if rate_mbit:
        sh(*tc, *place, "tbf", "rate", f"{rate_mbit}mbit", "burst", "64kb", "latency", "400ms")


def round_trip_s(names):
    """Median of a few pings between the first two; 0 without ping."""
    try:
        text = subprocess.run(["ip", "netns", "exec", names[0], "ping", "-c", "20", "-i", "0.05", "10.87.0.2"],
                              capture_output=True, text=True).stdout
    except OSError:
        return 0.0
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+) ms", text))
    return times[len(times) // 2] / 1000 if times else 0.0


def run_ranks(o, count, rate_mbit):
    """The figures that rank 0 writes, with what the run was."""
    with namespaces(count, rate_mbit, o.delay_ms) as names, tempfile.TemporaryDirectory() as folder:
        latency_s = round_trip_s(names) / 2 if count > 1 else 0.0
        ranks = []
        try:
            for rank, name in enumerate(names):
                env = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0",
                                    "MASTER_ADDR": "10.87.0.1", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0"}
                command = ["ip", "netns", "exec", name, o.keiko, "bench", "reduce", "--model", o.model,
                           "--compute-sleep", o.compute_sleep, "--steps", o.steps, "--json", f"{folder}/{rank}.json"]
                ranks.append(subprocess.Popen([str(a) for a in command], env=env, stdout=subprocess.DEVNULL,
                                              stderr=subprocess.PIPE, text=True))
            said = [rank.communicate(timeout=o.timeout_s)[1] for rank in ranks]
        finally:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
        for rank, text in zip(ranks, said):
            if rank.returncode != 0:
                raise SystemExit(f"scale_check: a rank of {count} ended with {rank.returncode}: {text[-2000:]}")
        figures = json.loads(Path(folder, "0.json").read_text())
    run = {"ranks": count, "rate_mbit": rate_mbit, "delay_ms": o.delay_ms, "latency_s": latency_s,
           "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    print(f"{count} ranks at {rate_mbit or 'any'} Mbit/s: " +
          "  ".join(f"{k} {figures[k]:.4f}" for k in ("without_s", "with_s", "alone_s") if figures.get(k) is not None))
    return run | {"figures": figures}


def line_through(points, least_slope):
    """Least squares (intercept, slope) of y over x, with a slope of at least that much and no intercept below 0."""
    n, sx, sy = len(points), sum(x for x, _ in points), sum(y for _, y in points)
    slope = (n * sum(x * y for x, y in points) - sx * sy) / (n * sum(x * x for x, _ in points) - sx * sx)
    slope = max(slope, least_slope)
    return max(0.0, (sy - slope * sx) / n), slope


def fit(runs, sleep_s):
    """Costs from one run of 1 rank and runs of 2 at several rates: alone_s = fixed + bytes / (share * rate), where
    `share` is what TCP and its headers leave of tc's rate. A run without limit tells what the machine itself can."""
    alone = [r for r in runs if r["ranks"] == 1]
    pairs = [r for r in runs if r["ranks"] == 2]
    limited = [r for r in pairs if r["rate_mbit"]]
    buckets = pairs[0]["figures"]["buckets"]
    moved = sum(buckets)  # two ranks send all bytes once: 2 (W-1) / W
    fixed, slope = line_through([(1 / (r["rate_mbit"] * 125e3), r["figures"]["alone_s"]) for r in limited],
                                moved / MOST_SHARE)
    free = [r["figures"]["alone_s"] for r in pairs if not r["rate_mbit"]]
    most = moved / (min(free) - fixed) if free and min(free) > fixed else 0.0
    rest = [r["figures"]["without_s"] - sum(sleep_s) for r in alone]
    return {"share": moved / slope, "most_bytes_per_s": most,
            "costs": {"ranks_per_node": 1, "forward_s": sleep_s[0], "backward_s": sleep_s[1],
                      "optimizer_s": max(0.0, min(rest)) if rest else 0.0, "bucket_bytes": buckets, "scalar_bytes": 0,
                      "collective": "gloo_ring", "link_latency_s": min(r["latency_s"] for r in pairs),
                      "collective_overhead_s": fixed / len(buckets)}}


def write(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def calibrate(o):
    sleep_s = [float(s) for s in o.compute_sleep.split(",")]
    if len([r for r in o.rates if r]) < 2:
        raise SystemExit("scale_check: calibrate needs two rates; give --rates 0,150,400 (0: without limit)")
    runs = [run_ranks(o, 1, None)] + [run_ranks(o, 2, rate or None) for rate in o.rates]
    o.out.mkdir(parents=True, exist_ok=True)
    found = fit(runs, sleep_s)
    write(o.out / "calibration.json", {"model": o.model, "compute_sleep": o.compute_sleep, "runs": runs} | found)
    write(o.out / "costs.json", {"about": "calibrated on 1 and 2 ranks in network namespaces"} | found["costs"])
    print(f"of a rate {found['share']:.3f} is left to gradients; the machine itself moves "
          f"{found['most_bytes_per_s'] / 1e6:.0f} MB/s; {o.out}/costs.json")


def predict(o):
    calibration = json.loads((o.out / "calibration.json").read_text())
    used = {r["rate_mbit"] for r in calibration["runs"]}
    if used & set(o.rates) or 0 in o.rates:
        raise SystemExit(f"scale_check: --rates {o.rates}: the calibration used {sorted(filter(None, used))}; give others")
    predictions = []
    for rate in o.rates:
        bytes_per_s = calibration["share"] * rate * 125e3
        if calibration["most_bytes_per_s"]:
            bytes_per_s = min(bytes_per_s, calibration["most_bytes_per_s"])
        told = json.loads(sh(o.keiko, "--quiet", "simulate", "--costs", o.out / "costs.json", "--ranks",
                             ",".join(map(str, o.ranks)), "--set", f"link_bytes_per_s={bytes_per_s}", "--json", "-"))
        predictions += [{"ranks": p["ranks"], "rate_mbit": rate} | {k: p[k] for k in ("step_s", "alone_s", "hidden")}
                        for p in told["predictions"]]
    write(o.out / "predictions.json", predictions)
    print(f"{o.out}/predictions.json: commit it, then measure")


def committed(path):
    """The commit that holds the file as it is; ends the program when none does."""
    git = ["git", "-C", str(path.parent)]
    clean = subprocess.run([*git, "ls-files", "--error-unmatch", path.name], capture_output=True).returncode == 0 and \
        subprocess.run([*git, "diff", "--quiet", "HEAD", "--", path.name], capture_output=True).returncode == 0
    if not clean:
        raise SystemExit(f"scale_check: {path} is not committed as it is; commit the predictions before measuring")
    return sh(*git, "log", "-1", "--format=%H", "--", path.name).strip()


def compare(predictions, runs):
    """Rows of a markdown table, and the largest error."""
    rows, worst = ["| ranks | Mbit/s | figure | predicted | measured | error |", "|---|---|---|---|---|---|"], 0.0
    for p, run in zip(predictions, runs):
        for measured, predicted in FIGURES.items():
            error = p[predicted] / run["figures"][measured] - 1
            worst = max(worst, abs(error))
            rows.append(f"| {p['ranks']} | {p['rate_mbit']} | {measured} | {p[predicted]:.3f} s | "
                        f"{run['figures'][measured]:.3f} s | {100 * error:+.1f}% |")
        if run["figures"].get("hidden") is not None:
            rows.append(f"| {p['ranks']} | {p['rate_mbit']} | hidden | {100 * p['hidden']:.1f}% | "
                        f"{100 * run['figures']['hidden']:.1f}% | |")
    return rows, worst


def measure(o):
    predictions = json.loads((o.out / "predictions.json").read_text())
    commit = committed(o.out.resolve() / "predictions.json")
    calibration = json.loads((o.out / "calibration.json").read_text())
    if (o.model, o.compute_sleep) != (calibration["model"], calibration["compute_sleep"]):
        raise SystemExit("scale_check: --model or --compute-sleep is not what was calibrated: "
                         f"{calibration['model']} {calibration['compute_sleep']}")
    runs = [run_ranks(o, p["ranks"], p["rate_mbit"]) for p in predictions]
    write(o.out / "measurements.json", {"predictions_commit": commit, "runs": runs})
    rows, worst = compare(predictions, runs)
    print("\n".join(rows))
    print(f"\nPredictions of commit {commit[:12]}. Largest error of a time: {100 * worst:.1f}%, allowed "
          f"{100 * MOST_ERROR:.0f}%.")
    return 0 if worst <= MOST_ERROR else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["calibrate", "predict", "measure"])
    parser.add_argument("--keiko", required=True, help="the binary")
    parser.add_argument("--out", type=Path, required=True, help="folder of calibration, predictions, measurements")
    parser.add_argument("--model", default="videomae-s")
    parser.add_argument("--compute-sleep", default="0.5,1.5", help="seconds of forward and backward")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rates", help="Mbit/s, with commas; calibrate: 0,150,400 (0: no limit); predict: 100,250")
    parser.add_argument("--ranks", default="3,4", help="predict: numbers of ranks")
    parser.add_argument("--delay-ms", type=float, default=0, help="added to every message by netem")
    parser.add_argument("--timeout-s", type=float, default=900, help="most that one run may take")
    o = parser.parse_args()
    o.keiko = str(Path(o.keiko).resolve())
    o.rates = [int(r) for r in (o.rates or ("0,150,400" if o.what == "calibrate" else "100,250")).split(",")]
    o.ranks = [int(r) for r in o.ranks.split(",")]
    if o.what != "predict" and os.geteuid() != 0:
        raise SystemExit("scale_check: namespaces need root; run it with sudo")
    return {"calibrate": calibrate, "predict": predict, "measure": measure}[o.what](o) or 0


if __name__ == "__main__":
    sys.exit(main())
