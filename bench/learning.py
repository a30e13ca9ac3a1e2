#!/usr/bin/env python3
"""Runs the protocol of docs/learning.md through the keiko binary, and fills its tables.

A job is one cell of a table: for one task, seed and arm it trains at every learning rate, chooses on
the validation clips, and looks once at the test clips. Every job leaves OUT/results/JOB.json, and a job
that has one is not run again; a run that was stopped half-way goes on from its checkpoint.

OUT/results.json has all figures, OUT/results.md the tables, OUT/TASK.svg the curves. Needs numpy (the
Python with torch has it). CPU-seconds of a job are those of its processes; what a stopped process had used is
not among them.

Usage: learning.py --keiko BIN --out DIR [--only TASK[/METHOD]] [--jobs 2] [--plan] [--tables] [--quick]
  METHOD is future, tube, vjepa2 or controls; without --only everything runs.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
import learning_protocol as protocol  # noqa: E402
import learning_tables as tables  # noqa: E402

RIDGE_CLIPS = 4000  # more would not fit a small machine's memory well
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def write_json(path, value):
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)


class Stopped(Exception):
    """A job ended because the whole program does."""


class Bench:
    """Where everything lies, and how programs are run. Safe to use from several threads."""

    def __init__(self, keiko, out, p, keep):
        self.keiko, self.out, self.p, self.keep = str(Path(keiko).resolve()), out, p, keep
        self.binary = hashlib.sha256(Path(keiko).read_bytes()).hexdigest()[:12]
        self.processes, self.lock, self.is_stopping = set(), threading.Lock(), False

    def run(self, *command):
        """(stdout, CPU-seconds) of a program; RuntimeError with its last words when it fails."""
        env = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        output = self.out / "tmp" / f"{threading.get_ident()}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        errors = output.with_suffix(".err")
        with open(output, "w") as stdout, open(errors, "w") as stderr:
            with self.lock:
                if self.is_stopping:
                    raise Stopped
                process = subprocess.Popen([str(c) for c in command], stdout=stdout, stderr=stderr,
                                           stdin=subprocess.DEVNULL, env=env)
                self.processes.add(process)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            with self.lock:
                self.processes.discard(process)
        if process.returncode != 0 and self.is_stopping:
            raise Stopped
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\nended with {process.returncode}: "
                               f"{errors.read_text(errors='replace')[-2000:]}")
        return output.read_text(), usage.ru_utime + usage.ru_stime

    def stop(self):
        """Asks what runs to end (keiko saves a checkpoint first), and starts nothing more."""
        with self.lock:
            self.is_stopping = True
            for process in self.processes:
                process.terminate()

    def data(self, task, seed, split):
        folder = self.out / "data" / task / f"s{seed}"
        return str(folder / ("validation/test.kix" if split == "validation" else f"{split}.kix"))

    def run_folder(self, job):
        return self.out / "runs" / job

    def train(self, job, recipe):
        """Trains into runs/JOB unless that is done; (evaluation at its end, CPU-seconds)."""
        folder = self.run_folder(job)
        done = folder / "learning.json"
        if not done.exists():
            file = self.out / "recipes" / f"{job}.yaml"
            write_json(file, recipe | {"run": str(folder)})
            _, cpu_s = self.run(self.keiko, "-q", "train", file)
            write_json(done, {"cpu_s": cpu_s, "evaluation": last_evaluation(folder, recipe["steps"])})
        figures = json.loads(done.read_text())
        return figures["evaluation"], figures["cpu_s"]

    def evaluate(self, job, *arguments):
        out, cpu_s = self.run(self.keiko, "-q", "eval", self.run_folder(job), "--json", *arguments)
        return json.loads(out), cpu_s

    def test(self, job, task, seed):
        """The run's figures on the test clips."""
        figures, cpu_s = self.evaluate(job, f"eval.data=[{{path: {self.data(task, seed, 'test')}}}]")
        if figures["clips"] != self.p["clips"]["test"]:
            raise RuntimeError(f"{job}: evaluated on {figures['clips']} clips, not {self.p['clips']['test']}")
        return figures, cpu_s


def last_evaluation(folder, steps):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "eval" and line["step"] == steps]
    if not found:
        raise RuntimeError(f"{folder}: no evaluation at step {steps} in metrics.jsonl")
    return found[-1]


class Job:
    """Something with a result of its own. `name`: TASK/sSEED/...; `phase`: what comes before what."""

    def __init__(self, name, phase, cost, work):
        self.name, self.phase, self.cost, self.work = name, phase, cost, work


def data_job(bench, task, seed):
    clips, name = bench.p["clips"], f"{task}/s{seed}/data"

    def work():
        folder = bench.out / "data" / task / f"s{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # half of a data set that was being written
        synth = [bench.keiko, "-q", "synth", *protocol.TASKS[task]["synth"], "--frames",
                 protocol.TASKS[task]["frames"], "--threads", 1]
        _, cpu_s = bench.run(*synth, "--out", folder, "--train", clips["train"], "--test", clips["test"], "--seed", seed)
        _, more_s = bench.run(*synth, "--out", folder / "validation", "--train", 0, "--test", clips["validation"],
                              "--seed", 1000 + seed)
        return {"cpu_s": cpu_s + more_s}

    return Job(name, 0, protocol.START_S * 2 + sum(clips.values()) * protocol.CLIP_S["synth"]
               * protocol.TASKS[task]["frames"] / 8, work)


def pretraining_job(bench, task, method, seed):
    p, name = bench.p, f"{task}/s{seed}/pretrain-{method}"
    train, test = bench.data(task, seed, "train"), bench.data(task, seed, "test")

    def work():
        figures, cpu_s = bench.train(name, protocol.pretraining_recipe(p, task, method, seed, train, test))
        more_s = 0
        if method == "vjepa2":
            figures["random"], more_s = bench.evaluate(name, "--random-init")
        else:
            ridge, more_s = ridge_figures(bench, name, train, test)
            figures |= ridge
        return {"test": figures, "cpu_s": cpu_s, "gates_cpu_s": more_s}

    cost = protocol.cost(p, task, method, p["pretrain_steps"][method], p["pretrain_batch"], p["clips"]["test"])
    return Job(name, 1, cost + protocol.RIDGE_S.get(method, 0) * min(1, p["clips"]["train"] / RIDGE_CLIPS) ** 2, work)


def ridge_figures(bench, name, train, test):
    cpu_s, files = 0, []
    batch, clips = bench.p["pretrain_batch"], bench.p["clips"]
    for data, count in ((train, min(RIDGE_CLIPS, clips["train"])), (test, clips["test"])):
        files.append(bench.run_folder(name) / f"ridge-{len(files)}.safetensors")
        _, s = bench.run(bench.keiko, "-q", "preview", bench.run_folder(name), "--tensors", files[-1], "--steps",
                         count // batch, f"data=[{{path: {data}}}]")
        cpu_s += s
    out, s = bench.run(sys.executable, "-B", HERE / "learning_ridge.py", *files, "--patch", 8, "--tubelet", 2)
    for file in files:
        file.unlink()
    return json.loads(out), cpu_s + s


def chosen_rate(rates, evaluations):
    """The rate with the best validation accuracy; of equals the lowest."""
    return max(zip(rates, evaluations), key=lambda pair: (pair[1]["top1"], -pair[0]))[0]


def classifier_job(bench, task, seed, labels, arm, backbone, method, frames="clip"):
    p, name = bench.p, f"{task}/s{seed}/{tables.label_name(labels)}/{arm}"
    train, validation = bench.data(task, seed, "train"), bench.data(task, seed, "validation")
    start = str(bench.run_folder(f"{task}/s{seed}/pretrain-{method}")) if method else ""

    def work():
        runs, evaluations, total_s = [f"{name}-{rate:g}" for rate in p["rates"]], [], 0
        for run, rate in zip(runs, p["rates"]):
            evaluation, cpu_s = bench.train(run, protocol.classifier_recipe(
                p, task, backbone, seed, train, validation, labels, rate, start, frames))
            evaluations.append(evaluation)
            total_s += cpu_s
        rate = chosen_rate(p["rates"], evaluations)
        test, cpu_s = bench.test(f"{name}-{rate:g}", task, seed)
        return {"test": test, "chosen_rate": rate, "runs": runs, "cpu_s": total_s + cpu_s,
                "validation_top1": dict(zip(map(str, p["rates"]), (e["top1"] for e in evaluations)))}

    cost = len(p["rates"]) * protocol.cost(p, task, "scratch", p["steps"][task], p["batch"], p["clips"]["validation"])
    return Job(name, 2, cost + protocol.cost(p, task, "scratch", evaluated=p["clips"]["test"]), work)


def probe_job(bench, task, seed, labels, arm, kind, backbone, method):
    p, name = bench.p, f"{task}/s{seed}/{tables.label_name(labels)}/{arm}"
    train, validation = bench.data(task, seed, "train"), bench.data(task, seed, "validation")
    start = str(bench.run_folder(f"{task}/s{seed}/pretrain-{method}")) if method else ""
    rates = p["rates"] if kind == "attentive" else p["linear_rates"]

    def work():
        evaluation, total_s = bench.train(name, protocol.probe_recipe(
            p, task, kind, backbone, seed, train, validation, labels, start))
        rate = chosen_rate(rates, evaluation["heads"])
        test, cpu_s = bench.test(name, task, seed)
        # The figures of the head that the validation clips chose. `top1` of several heads together is not
        # it: there the test clips choose.
        head = {"clips": test["clips"], **test["heads"][rates.index(rate)]}
        return {"test": head, "chosen_rate": rate, "runs": [name], "cpu_s": total_s + cpu_s,
                "validation_top1": dict(zip(map(str, rates), (h["top1"] for h in evaluation["heads"])))}

    cost = protocol.cost(p, task, kind, p["steps"][task], p["batch"], p["clips"]["validation"])
    return Job(name, 2, cost + protocol.cost(p, task, kind, evaluated=p["clips"]["test"]), work)


def all_jobs(bench, only):
    """Jobs of what was asked for, in the order in which they are best run. `only`: {task: [method or "controls"]}."""
    jobs = []
    for task, wanted in only.items():
        methods = [m for m in protocol.METHODS if m in wanted]
        for seed in bench.p["seeds"]:
            jobs.append(data_job(bench, task, seed))
            jobs += [pretraining_job(bench, task, m, seed) for m in methods]
            for labels in bench.p["labels"]:
                for arm, kind, backbone, method in protocol.arms(methods):
                    make = (probe_job, (arm, kind, backbone, method)) if kind in protocol.PROBES else (
                        classifier_job, (arm, backbone, method))
                    jobs.append(make[0](bench, task, seed, labels, *make[1]))
            if "controls" in wanted:
                jobs += [classifier_job(bench, task, seed, 0, f"{c}-videomae", "videomae", None, c)
                         for c in protocol.CONTROLS]
    order = list(only)
    return sorted(jobs, key=lambda job: (order.index(job.name.split("/")[0]), job.phase, -job.cost))


def result_file(bench, job):
    return bench.out / "results" / f"{job.name}.json"


def run_job(bench, job):
    start = time.monotonic()
    result = job.work() | {"keiko": bench.binary}
    write_json(result_file(bench, job), result)
    if job.phase == 2 and not bench.keep:  # hundreds of them; nothing starts from one
        for name in result["runs"]:
            shutil.rmtree(bench.run_folder(name) / "checkpoints", ignore_errors=True)
    top1 = result.get("test", {}).get("top1")
    say(f"{job.name}: {result['cpu_s']:.0f} CPU-s, {time.monotonic() - start:.0f} s"
        + (f", top-1 {top1:.3f} at {result['chosen_rate']:g}" if top1 is not None else ""))


def collect(bench):
    folder = bench.out / "results"
    return {str(file.relative_to(folder))[:-len(".json")]: json.loads(file.read_text())
            for file in sorted(folder.rglob("*.json"))}


def write_tables(bench):
    """results.json, results.md and the curves, from all results that there are. Returns the markdown."""
    jobs = collect(bench)
    write_json(bench.out / "results.json", {"protocol": bench.p, "jobs": jobs})
    text = ""
    for task in protocol.TASKS:
        if any(name.startswith(f"{task}/") for name in jobs):
            text += tables.markdown(jobs, bench.p, task) + "\n"
            (bench.out / f"{task}.svg").write_text(tables.curves(jobs, bench.p, task))
    (bench.out / "results.md").write_text(text)
    return text


def run_all(bench, jobs, workers):
    """Runs what has no result yet, phase by phase. True when all jobs have one."""
    failed = []
    for task in dict.fromkeys(job.name.split("/")[0] for job in jobs):
        for phase in range(3):
            todo = [j for j in jobs if j.name.startswith(f"{task}/") and j.phase == phase
                    and not result_file(bench, j).exists()]
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                futures = {pool.submit(run_job, bench, job): job for job in todo}
                try:
                    for future in concurrent.futures.as_completed(futures):
                        error = future.exception()
                        if error is not None and not isinstance(error, Stopped):
                            failed.append(futures[future].name)
                            say(f"{failed[-1]} FAILED, so nothing more is started: {error}")
                            bench.stop()
                except KeyboardInterrupt:
                    say("stopping; the same command goes on from here")
                    bench.stop()
                    raise
            if failed:
                return False
    return True


def parse_only(words):
    parts = (*protocol.METHODS, "controls")
    only = {}
    for word in words or list(protocol.TASKS):
        task, _, part = word.partition("/")
        if task not in protocol.TASKS or (part and part not in parts):
            raise SystemExit(f"learning: --only {word}: not TASK or TASK/PART; tasks: {', '.join(protocol.TASKS)}; "
                             f"parts: {', '.join(parts)}")
        only.setdefault(task, set()).update([part] if part else parts)
    return only


def show_plan(bench, jobs, workers):
    print("| task | part | jobs | to do | CPU-seconds to do, about |\n|---|---|---|---|---|")
    total = 0
    for task in dict.fromkeys(job.name.split("/")[0] for job in jobs):
        for phase, part in enumerate(("data", "pretraining and gates", "arms and controls")):
            own = [j for j in jobs if j.name.startswith(f"{task}/") and j.phase == phase]
            todo = [j for j in own if not result_file(bench, j).exists()]
            total += sum(j.cost for j in todo)
            print(f"| {task} | {part} | {len(own)} | {len(todo)} | {sum(j.cost for j in todo):.0f} |")
    print(f"\nAbout {total:.0f} CPU-seconds: {total / workers / 60:.0f} minutes on {workers} idle core(s).", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keiko", default=str(HERE.parent / "build/release/src/keiko"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", metavar="TASK[/PART]")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="side by side, one core each")
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs, and stop")
    parser.add_argument("--tables", action="store_true", help="print the tables of what there is, and stop")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test this program: figures mean nothing")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints of classifiers and probes")
    a = parser.parse_args()
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise SystemExit("learning: this Python has no numpy, which the ridge regression needs; use the one with torch")
    p = protocol.QUICK if a.quick else protocol.PROTOCOL
    out = a.out.resolve()
    bench = Bench(a.keiko, out, p, a.keep)
    jobs = all_jobs(bench, parse_only(a.only))
    known = out / "protocol.json"
    settings = {"protocol": p, "tasks": protocol.TASKS, "pretraining": protocol.PRETRAINING, "encoder": protocol.ENCODER}
    if known.exists() and json.loads(known.read_text()) != json.loads(json.dumps(settings)):
        raise SystemExit(f"learning: {out} holds results of another protocol; give another --out or remove it")
    if a.tables:
        print(write_tables(bench))
        return
    show_plan(bench, jobs, a.jobs)
    if a.plan:
        return
    write_json(known, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what runs is told to save, too
    is_whole = run_all(bench, jobs, a.jobs)
    print("\n" + write_tables(bench))
    if not is_whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
