#!/usr/bin/env python3
"""Measures `keiko bench decode` beside the video loaders of Python, in one run, taking turns.

Every loader and Keiko keep a process of their own. A round lets each decode the whole plan once, the
order turning by one from round to round, so that a noisy machine hurts all alike. A clip's time is its
fastest over all rounds. A file's ratio is the loader's time for the file's clips over Keiko's.

--peers (or KEIKO_PEERS) is a folder with decode_peers.py, the loaders' workers, and an environment
.venv that its script `run` makes; this program starts itself again in that environment.

Usage: peers.py --keiko BIN --peers DIR --plan PLAN.json [--plan ...] [--media DIR] [--rounds 5]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP_LIMIT_S = 1800  # a loader may read whole films beforehand
PASS_LIMIT_S = 900
# A loader that fails more of a plan than this is listed, but is not called the best.
MOST_FAILED = 0.2


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def enter_environment(folder):
    """Goes on in the loaders' environment; returns the module of their workers."""
    python = folder / ".venv" / "bin" / "python"
    if not (folder / "decode_peers.py").exists():
        raise SystemExit(f"{folder}: no decode_peers.py; give --peers or set KEIKO_PEERS")
    if not python.exists():
        raise SystemExit(f"{folder}: no environment; run {folder}/run --list once, it makes .venv")
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), os.path.abspath(__file__), *sys.argv[1:]])
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    import decode_peers
    return decode_peers


class Contestant:
    """One loader, or Keiko: its passes, and each clip's fastest time (None: not decoded)."""

    def __init__(self, name, pool, clips):
        self.name, self.pool, self.clips = name, pool, clips
        self.rates, self.cpu_ms, self.others = [], [], []
        self.best = [None] * len(clips)
        self.error, self.version = None, ""

    def warm_up(self):
        """Starts the process and decodes everything once, untimed."""
        raise NotImplementedError

    def run(self):
        """One pass: wall seconds, processor seconds, seconds of every clip (None: failed)."""
        raise NotImplementedError

    def close(self):
        pass

    def take_turn(self, machine_busy):
        busy, start = machine_busy(), time.monotonic()
        try:
            wall, cpu, per_clip = self.run()
        except RuntimeError as e:
            self.error = str(e)
            say(f"{self.name}: {self.error}")
            self.close()
            return
        busy = (machine_busy() - busy - cpu) / (time.monotonic() - start)
        decoded = sum(s is not None for s in per_clip)
        if decoded == 0:
            self.error = "every clip failed"
            self.close()
            return
        self.rates.append(decoded / wall)
        self.cpu_ms.append(1000 * cpu / decoded)
        self.others.append(max(0.0, busy))
        self.best = [min((s for s in pair if s is not None), default=None) for pair in zip(self.best, per_clip)]

    def failed(self):
        return sum(s is None for s in self.best)

    def figures(self, timed_by_clip):
        row = {"name": self.name, "workers": self.pool, "version": self.version, "error": self.error}
        if self.rates:
            rates = sorted(self.rates)
            middle = len(rates) // 2
            row |= {"clips_per_s": {"min": rates[0], "median": (rates[middle] + rates[-1 - middle]) / 2,
                                    "max": rates[-1]},
                    "clips_per_s_by_round": self.rates, "cpu_ms_per_clip": min(self.cpu_ms),
                    "cpus_used_by_others": [min(self.others), max(self.others)], "failed": self.failed()}
        if self.rates and timed_by_clip:
            known = [s for s in self.best if s is not None]
            row |= {"rate_best_of_each_clip": len(known) / sum(known),
                    "clip_ms": [None if s is None else 1000 * s for s in self.best]}
        return row


class Loader(Contestant):
    """A loader of decode_peers.py, in a worker process of its own."""

    def __init__(self, module, name, pool, clips, threads, log):
        super().__init__(name, pool, clips)
        self.child, self.skip = module.Child(name, threads, pool, log), []

    def ask(self, limit, **order):
        answer = self.child.ask(limit, **order)
        if not answer.get("ok"):
            raise RuntimeError(answer.get("error") or "no answer")
        return answer

    def warm_up(self):
        try:
            self.ask(WARM_UP_LIMIT_S, do="plan", clips=self.clips)
            per_clip = self.run()[2]
        except RuntimeError as e:
            self.error = str(e)
        else:
            self.version = self.child.version
            # What cannot be decoded is left out of the timing.
            self.skip = [i for i, s in enumerate(per_clip) if s is None]
            if len(self.skip) == len(self.clips):
                self.error = "every clip failed"
        if self.error:
            self.close()

    def run(self):
        answer = self.ask(PASS_LIMIT_S, do="pass", skip=self.skip)
        times = iter(answer["per"])
        per_clip = [None if i in self.skip else next(times) for i in range(len(self.clips))]
        return answer["wall"], answer["cpu"], [None if s is None or s < 0 else s for s in per_clip]

    def close(self):
        self.child.kill()


class Keiko(Contestant):
    """`keiko bench decode --passes-on-stdin`. Stops everything when it fails: it is what is measured."""

    def __init__(self, binary, plan, media, clips, threads, log):
        super().__init__("keiko", "threads", clips)
        self.figures_file = tempfile.NamedTemporaryFile(suffix=".json")
        command = [binary, "bench", "decode", "--plan", plan, "--media", media, "--threads", str(threads),
                   "--passes-on-stdin", "--json", self.figures_file.name]
        self.version = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"keiko ended with {self.process.wait()}; see the log beside --json")
        return json.loads(line)

    def order(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        p = self.read()
        return p["seconds"], p["cpu_s"], [None if s < 0 else s for s in p["per_clip_s"]]

    def warm_up(self):
        self.read()  # it has decoded everything once before it says that it is ready

    def run(self):
        return self.order("pass")

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def own_figures(self):
        return json.loads(Path(self.figures_file.name).read_text())


class Bound(Contestant):
    """Keiko's bound: the same packets decoded and no pixels made."""

    def __init__(self, keiko):
        super().__init__("keiko, no pixels (bound)", keiko.pool, keiko.clips)
        self.keiko, self.version = keiko, keiko.version

    def warm_up(self):
        self.keiko.order("bound")

    def run(self):
        return self.keiko.order("bound")


def times_by_file(clips, times, wanted):
    """{file: seconds} over the clips in `wanted`."""
    total = {}
    for i in wanted:
        total[clips[i]["file"]] = total.get(clips[i]["file"], 0) + times[i]
    return total


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def compare(clips, keiko, other):
    """How many times faster Keiko is, by file, over the clips that both decode."""
    both = [i for i in range(len(clips)) if keiko[i] is not None and other[i] is not None]
    if not both:
        return None
    mine, theirs = times_by_file(clips, keiko, both), times_by_file(clips, other, both)
    ratios = {file: theirs[file] / mine[file] for file in mine}
    by_clip = {i: other[i] / keiko[i] for i in both}
    worst_clip = min(by_clip, key=by_clip.get)
    worst = min(ratios, key=ratios.get)
    return {"geometric_mean": geometric_mean(ratios.values()), "worst": ratios[worst], "worst_file": worst,
            "worst_clip": by_clip[worst_clip],
            "worst_clip_is": f"{clips[worst_clip]['file']} from frame {clips[worst_clip]['frames'][0]}",
            "files": ratios}


def summarise(clips, keiko, bound, loaders, timed_by_clip):
    """The best loader of the plan, and Keiko against it."""
    fit = [p for p in loaders if p.rates and p.failed() <= MOST_FAILED * len(clips)]
    if not fit:
        return {}
    if not timed_by_clip:  # workers side by side slow each other's clips: only whole passes say something
        best = max(fit, key=lambda p: max(p.rates))
        return {"best": best.name, "best_workers": best.pool, "ratio_of_fastest_passes": max(keiko.rates) / max(best.rates)}
    ratios = {p.name: compare(clips, keiko.best, p.best) for p in fit}
    best = min(ratios, key=lambda name: ratios[name]["geometric_mean"])
    fastest = [min((p.best[i] for p in fit if p.best[i] is not None), default=None) for i in range(len(clips))]
    # For every file its own best loader: the loader's whole time for the file's clips counts.
    by_file = {}
    for file in ratios[best]["files"]:
        wanted = [i for i, c in enumerate(clips) if c["file"] == file and keiko.best[i] is not None]
        theirs = [sum(p.best[i] for i in wanted) for p in fit if all(p.best[i] is not None for i in wanted)]
        if theirs:
            by_file[file] = min(theirs) / sum(keiko.best[i] for i in wanted)
    worst = min(by_file, key=by_file.get)
    return {"best": best, "against_best": ratios[best],
            "against_best_of_each_file": {"geometric_mean": geometric_mean(by_file.values()),
                                          "worst": by_file[worst], "worst_file": worst, "files": by_file},
            "against_best_of_each_clip": compare(clips, keiko.best, fastest)["geometric_mean"],
            "bound_over_keiko": 1 / compare(clips, keiko.best, bound.best)["geometric_mean"],
            "against_each": {name: {k: r[k] for k in ("geometric_mean", "worst", "worst_file")}
                             for name, r in ratios.items()}}


def measure(module, a, plan_path, log):
    plan = json.loads(plan_path.read_text())
    media = Path(a.media) if "folder" not in plan else plan_path.parent / plan["folder"]
    clips = [dict(c, path=str((media / c["file"]).resolve())) for c in plan[a.list]]
    absent = {c["path"] for c in clips if not os.path.exists(c["path"])}
    if absent:
        raise SystemExit(f"{plan_path}: {len(absent)} files are not there, such as {sorted(absent)[0]}")
    name = plan.get("set") or plan_path.stem
    files = {c["file"] for c in clips}
    say(f"{name}: {len(clips)} clips of {len(files)} files, {a.threads} thread(s)")
    keiko = Keiko(a.keiko, str(plan_path), str(media), clips, a.threads, log)
    bound = Bound(keiko)
    loaders = []
    for p in module.PEERS:
        if a.only and not any(p.name == only or (only.endswith("*") and p.name.startswith(only[:-1])) for only in a.only):
            continue
        for pool in ("one",) if a.threads == 1 else p.pools:
            loaders.append(Loader(module, p.name, pool, clips, a.threads, log))
    everyone = [keiko, bound, *loaders]
    try:
        for c in everyone:
            c.warm_up()
            say(f"{name}: {c.name} ({c.pool}) {'left out: ' + c.error if c.error else 'ready'}")
        for r in range(a.rounds):
            turn = r % len(everyone)
            for c in everyone[turn:] + everyone[:turn]:
                if not c.error:
                    if a.quiet:
                        module.wait_for_quiet(a.quiet)
                    c.take_turn(module.machine_busy)
            say(f"{name}: round {r + 1} of {a.rounds}; " + ", ".join(
                f"{c.name} {c.rates[-1]:.1f}" for c in everyone if c.rates and not c.error))
    finally:
        for c in everyone:
            c.close()
    own = keiko.own_figures()
    timed_by_clip = a.threads == 1
    return {"plan": name, "what": plan.get("what", ""), "clips": len(clips), "files": len(files), "threads": a.threads,
            "rounds": a.rounds,
            "contestants": [c.figures(timed_by_clip) for c in everyone],
            "summary": summarise(clips, keiko, bound, loaders, timed_by_clip),
            "clip_files": [c["file"] for c in clips],
            "keiko": {k: own[k] for k in ("processor", "index_s", "index_ms_per_clip_of_one_epoch", "checksum",
                                          "packets_decoded_per_clip", "packets_dropped_per_clip", "reads_per_clip",
                                          "opens_per_clip", "bytes_per_clip", "decode_ms_per_clip",
                                          "convert_ms_per_clip", "files", "failures")}}


def figure(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def markdown(results):
    lines = []
    if any(r["threads"] == 1 for r in results):
        lines += ["| plan | clips, files | best loader | Keiko over it | worst file | over each file's best loader | "
                  "worst file | bound over Keiko | indexing: all, a video |", "|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        s = r["summary"]
        if "against_best" not in s:
            continue
        b, e = s["against_best"], s["against_best_of_each_file"]
        worst = f"{b['worst']:.2f}x {b['worst_file']}"
        if r["files"] == 1:
            worst = f"worst clip {b['worst_clip']:.2f}x {b['worst_clip_is']}"
        lines.append(f"| {r['plan']} | {r['clips']}, {r['files']} | {s['best']} | {b['geometric_mean']:.2f}x | {worst} | "
                     f"{e['geometric_mean']:.2f}x | {e['worst']:.2f}x {e['worst_file']} | {s['bound_over_keiko']:.2f} | "
                     f"{r['keiko']['index_s']:.2f} s, {r['keiko']['index_ms_per_clip_of_one_epoch']:.1f} ms |")
    for r in results:
        s = r["summary"]
        lines += ["", f"{r['plan']}: {r['clips']} clips of {r['files']} files, {r['threads']} thread(s), {r['rounds']} "
                  f"round(s), {r['keiko']['processor']}; clips a second"
                  + (f"; fastest pass {s['ratio_of_fastest_passes']:.2f}x that of {s['best']} ({s['best_workers']})"
                     if "ratio_of_fastest_passes" in s else ""), "",
                  "| loader | workers | min | median | max | best of each clip | CPU ms a clip | CPU over Keiko's | Keiko over it | "
                  "worst file | CPUs used by others | failed |", "|---|---|---|---|---|---|---|---|---|---|---|---|"]
        keiko_cpu = r["contestants"][0].get("cpu_ms_per_clip")
        for c in sorted(r["contestants"], key=lambda c: -c.get("rate_best_of_each_clip",
                                                               c.get("clips_per_s", {"max": 0})["max"])):
            if "clips_per_s" not in c:
                lines.append(f"| {c['name']} | {c['workers']} | - | - | - | - | - | - | - | - | - | {c['error']} |")
                continue
            v, o = c["clips_per_s"], c["cpus_used_by_others"]
            ratio = s.get("against_each", {}).get(c["name"])
            lines.append(f"| {c['name']} | {c['workers']} | {v['min']:.1f} | {v['median']:.1f} | {v['max']:.1f} | "
                         f"{figure(c.get('rate_best_of_each_clip'))} | {c['cpu_ms_per_clip']:.1f} | "
                         f"{c['cpu_ms_per_clip'] / keiko_cpu:.2f} | "
                         + (f"{ratio['geometric_mean']:.2f}x | {ratio['worst']:.2f}x {ratio['worst_file']} | " if ratio
                            else "- | - | ")
                         + f"{o[0]:.1f} to {o[1]:.1f} | {c['failed']} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keiko", required=True, help="the keiko binary")
    parser.add_argument("--peers", default=os.environ.get("KEIKO_PEERS"), help="folder of decode_peers.py")
    parser.add_argument("--plan", action="append", required=True, type=Path, help="may be given several times")
    parser.add_argument("--media", help="folder of the videos of plans that do not name their own")
    parser.add_argument("--list", default="media", help="which list of the plans")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="LOADER", help="names; NAME* for all that begin so")
    parser.add_argument("--quiet", type=float, default=0, metavar="S",
                        help="wait up to S seconds before each pass for other programs to leave the processors")
    parser.add_argument("--json", type=Path, help="all figures; the loaders' own words go to a .log beside it")
    parser.add_argument("--out-markdown", type=Path, help="write the tables here too")
    a = parser.parse_args()
    if not a.peers:
        parser.error("--peers is needed, or KEIKO_PEERS")
    if a.rounds < 1 or a.threads < 1:
        parser.error("--rounds and --threads start at 1")
    for path in a.plan:
        if not a.media and "folder" not in json.loads(path.read_text()):
            parser.error(f"{path} names no `folder` of its videos: --media is needed")
    module = enter_environment(Path(a.peers).resolve())
    results = []
    with open(a.json.with_suffix(".log") if a.json else os.devnull, "w") as log:
        for path in a.plan:
            results.append(measure(module, a, path, log))
            if a.json:
                a.json.write_text(json.dumps(results, indent=1) + "\n")
            if a.out_markdown:
                a.out_markdown.write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
