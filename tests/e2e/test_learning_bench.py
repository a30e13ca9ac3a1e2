"""bench/learning.py end to end in tiny sizes: what its tables say is what runs did.

Truth: `keiko eval` on the runs that it kept, their metrics.jsonl, Keiko's own Wilson interval, and
problems whose best linear answer is known.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
ONLY = ["--only", "drift/future", "--only", "drift/vjepa2", "--only", "drift/controls"]
SEEDS = (1, 2)
SMALL_TEST = 24  # test clips of --quick


@pytest.fixture(scope="module")
def module():
    """module(name): one of the program's modules, imported."""
    sys.path.insert(0, str(BENCH))
    sys.dont_write_bytecode = True
    yield importlib.import_module
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def learn(keiko_bin, keiko_env):
    """learn(out, *args): runs the program and returns its CompletedProcess."""

    def run(out, *args, check=True):
        command = [sys.executable, "-B", BENCH / "learning.py", "--keiko", keiko_bin, "--out", out, *args]
        done = subprocess.run(command, capture_output=True, text=True, env=keiko_env, timeout=900)
        if check and done.returncode != 0:
            pytest.fail(f"ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}", pytrace=False)
        return done

    return run


@pytest.fixture(scope="module")
def quick(learn, tmp_path_factory):
    """(OUT, what it printed) of a whole quick run with every checkpoint kept."""
    out = tmp_path_factory.mktemp("learning") / "out"
    return out, learn(out, "--quick", "--keep", *ONLY)


def results(out):
    return json.loads((out / "results.json").read_text())["jobs"]


def tables(text):
    """Markdown tables as lists of {column: cell}."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append([dict(zip(rows[0], row)) for row in rows[2:]])
    return found


def test_every_cell_of_the_tables_is_filled_from_runs(quick):
    out, printed = quick
    text = (out / "results.md").read_text()
    assert text.strip() in printed.stdout
    accuracy, difference, gates, controls, compute = tables(text)
    assert [len(t) for t in (accuracy, difference, gates, controls)] == [12, 6, 4, 2]
    assert len(compute) == 18  # arms, controls, data, two pretrainings, the sum
    for table in (accuracy, difference, gates, controls, compute[:-1]):
        for row in table:
            for column, cell in row.items():
                assert cell and cell != "–", (column, row)
    jobs = results(out)
    for row, column, folder in [(r, "2 a class", "2") for r in accuracy] + [
            (r, "accuracy", "all") for r in controls]:
        name = row["arm"] if "arm" in row else row["trained and evaluated on, all labels"].split()[0] + "-videomae"
        top1 = [jobs[f"drift/s{s}/{folder}/{name}"]["test"]["top1"] for s in SEEDS]
        mean, low, high = map(float, re.match(r"([\d.]+) \(([\d.]+)–([\d.]+)\)", row[column]).groups())
        assert (mean, low, high) == pytest.approx((sum(top1) / 2, min(top1), max(top1)), abs=6e-4), name


def test_a_cell_is_what_keiko_says_of_the_run_that_validation_chose(quick, keiko):
    out, _ = quick
    jobs = results(out)
    judged = 0
    for name, job in jobs.items():
        if "/2/" not in name and "/all/" not in name:
            continue
        is_probe = len(job["runs"]) == 1
        evaluations = []
        for run in job["runs"]:
            lines = [json.loads(line) for line in (out / "runs" / run / "metrics.jsonl").read_text().splitlines()]
            assert lines[-1]["kind"] == "eval" and lines[-1]["clips"] == 16, "the validation clips"
            evaluations += lines[-1]["heads"] if is_probe else [lines[-1]]
        scores = dict(zip(map(float, job["validation_top1"]), (e["top1"] for e in evaluations)))
        assert {float(k): v for k, v in job["validation_top1"].items()} == scores
        assert scores[job["chosen_rate"]] == max(scores.values())
        assert all(rate >= job["chosen_rate"] for rate, score in scores.items() if score == max(scores.values()))
        if "/s2/" not in name:
            continue
        place = list(scores).index(job["chosen_rate"])
        run = out / "runs" / job["runs"][0 if is_probe else place]
        said = json.loads(keiko("-q", "eval", run, "--json", f"eval.data={out}/data/drift/s2/test.kix").stdout)
        assert said["clips"] == SMALL_TEST == job["test"]["clips"]
        assert (said["heads"][place] if is_probe else said)["top1"] == job["test"]["top1"], name
        judged += 1
    assert judged == 14


def test_no_clip_is_in_two_splits_or_two_seeds(quick, keiko):
    out, _ = quick
    catalogues = [out / "data/drift" / f"s{s}" / name for s in SEEDS
                  for name in ("train.kix", "test.kix", "validation/test.kix")]
    clips = [{path.read_bytes() for path in catalogue.with_suffix("").rglob("*.mp4")} for catalogue in catalogues]
    assert [len(c) for c in clips] == [48, 24, 16] * 2
    assert len(set().union(*clips)) == 2 * (48 + 24 + 16)


def test_gates_are_those_of_the_pretraining_runs(quick, keiko, module):
    out, _ = quick
    jobs = results(out)
    for seed in SEEDS:
        pixels = jobs[f"drift/s{seed}/pretrain-future"]["test"]
        said = json.loads(keiko("-q", "eval", out / "runs" / f"drift/s{seed}/pretrain-future", "--json").stdout)
        for key in ("loss", "frozen_loss", "constant_loss", "visible_mean_loss", "copy_last_loss"):
            assert pixels[key] == pytest.approx(said[key], rel=1e-5), key
        # The same units and nearly the same clips: Keiko takes the middle of each, preview a random stretch.
        assert pixels["ridge_constant_loss"] == pytest.approx(pixels["constant_loss"], rel=0.05)
        features = jobs[f"drift/s{seed}/pretrain-vjepa2"]["test"]
        assert features["clips"] == features["random"]["clips"] == SMALL_TEST
        assert features["random"]["run"] == "random init"
    gates = module("learning_tables").gates
    good = {"loss": 0.5, "constant_loss": 1.0, "visible_mean_loss": 0.9, "copy_last_loss": 1.9, "ridge_loss": 0.6,
            "frozen_over_loss": 1.1}
    assert gates(good) == {"trivial": True, "ridge": True, "motion": True}
    assert gates(good | {"copy_last_loss": 0.5})["trivial"] is False
    assert gates(good | {"ridge_loss": 0.5})["ridge"] is False
    assert gates(good | {"frozen_over_loss": 1.09})["motion"] is False
    features = {"loss": 0.5, "zero_loss": 0.8, "context_mean_loss": 0.7, "frozen_over_loss": 2.0,
                "feature_std": 1.0, "token_std": 1.0, "feature_rank": 5.0}
    assert all(gates(features | {"random": features}).values())
    for key in ("feature_std", "token_std", "feature_rank"):
        assert gates(features | {"random": features | {key: 11.0}})["no collapse"] is False, key


def test_curves_have_a_line_for_every_arm(quick):
    out, _ = quick
    root = xml.etree.ElementTree.parse(out / "drift.svg").getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 12


def test_what_has_a_result_is_not_run_again(quick, learn):
    out, _ = quick
    name = "drift/s1/2/scratch-videomae"
    before = results(out)
    (out / "results" / f"{name}.json").unlink()
    again = learn(out, "--quick", "--keep", *ONLY)
    assert [line.split()[1] for line in again.stderr.splitlines()] == [f"{name}:"]
    after = results(out)
    assert after.keys() == before.keys()
    assert after[name]["test"] == before[name]["test"], "judged again, not trained again"
    planned = learn(out, "--quick", "--plan", *ONLY)
    assert all(int(row["to do"]) == 0 for row in tables(planned.stdout)[0])
    assert planned.stderr == ""


def test_results_of_another_protocol_are_not_mixed_in(quick, learn):
    out, _ = quick
    refused = learn(out, *ONLY, check=False)
    assert refused.returncode != 0 and "another protocol" in refused.stderr
    refused = learn(out, "--quick", "--only", "drift/futur", check=False)
    assert refused.returncode != 0 and "drift/futur" in refused.stderr


def test_a_stopped_program_stops_its_runs_and_goes_on_later(keiko_bin, keiko_env, learn, tmp_path):
    out, only = tmp_path / "out", ["--only", "drift/controls"]
    command = [sys.executable, "-B", BENCH / "learning.py", "--keiko", keiko_bin, "--out", out, "--quick", *only]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=keiko_env)
    deadline = time.monotonic() + 300
    while not list((out / "runs").rglob("run.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and "goes on" in said
    done = set(path.name for path in (out / "results").rglob("*.json"))
    again = learn(out, "--quick", *only)
    jobs = results(out)
    assert len(jobs) == 6 and len(tables((out / "results.md").read_text())[0]) == 2, again.stdout
    assert done < {Path(f"{name}.json").name for name in jobs}
    assert not list((out / "runs").rglob("model.safetensors")), "without --keep nothing large stays"


def test_intervals_are_those_of_the_books(quick, module):
    out, _ = quick
    t = module("learning_tables")
    for name, job in results(out).items():
        if "top1" in job.get("test", {}):
            hits = round(job["test"]["top1"] * SMALL_TEST)
            assert t.wilson(hits, SMALL_TEST) == pytest.approx((job["test"]["top1_low"], job["test"]["top1_high"]), abs=1e-6)
    # 1, 2, 3: mean 2, standard error 1/sqrt(3), t of 2 degrees of freedom 4.303.
    mean, (low, high) = t.t_interval([1, 2, 3])
    assert (mean, low, high) == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    rows = lambda *values: [{"test": {"top1": v}} for v in values]
    assert t.difference(rows(0.8, 0.81, 0.82), rows(0.7, 0.7, 0.7)).endswith("helps")
    assert t.difference(rows(0.6, 0.61, 0.62), rows(0.7, 0.7, 0.7)).endswith("hurts")
    assert t.difference(rows(0.6, 0.9, 0.9), rows(0.7, 0.7, 0.7)).endswith("inconclusive")


@pytest.mark.parametrize("mask", ["future", "tube"])
def test_the_ridge_regression_finds_what_is_linear_and_sees_nothing_hidden(module, mask):
    import numpy as np
    ridge = module("learning_ridge")
    rng = np.random.default_rng(3)

    def clips(n, is_linear):
        tokens = rng.standard_normal((n, 8, 6)).astype(np.float32)  # 2 times, 4 places, 6 values
        if is_linear:  # everything from two numbers a clip
            tokens = (rng.standard_normal((n, 2)) @ mixing).reshape(n, 8, 6).astype(np.float32)
        hidden = np.zeros((n, 2, 4), bool)
        if mask == "future":
            hidden[:, 1] = True
        else:
            for i in range(n):
                hidden[i][:, rng.choice(4, 2, replace=False)] = True
        return tokens, hidden.reshape(n, 8)

    mixing = rng.standard_normal((2, 48))
    squares, constant, count = ridge.ridge_error(*clips(400, True), *clips(100, True))
    assert count == 100 * 4 * 6
    assert squares < 0.05 * constant
    squares, constant, _ = ridge.ridge_error(*clips(400, False), *clips(100, False))
    assert 0.95 * constant < squares < 1.3 * constant, "independent noise cannot be said from what is seen"
