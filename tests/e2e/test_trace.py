"""`keiko train --trace`: a profiler's trace of some steps.

Truth: the JSON itself, read as Perfetto reads it, and a run without it, whose weights must be the same bytes.
"""

import json
import re

import pytest

import launching
import runs

PARTS = ["data wait", "forward", "backward", "device wait", "reduce figures", "reduce gradients", "update"]


def traced(path):
    """The trace as JSON and {name: [(start, end)]} of what has a duration, in microseconds."""
    trace = json.loads(path.read_text())
    spans = {}
    for event in trace["traceEvents"]:
        if event.get("ph") == "X":
            spans.setdefault(event["name"], []).append((event["ts"], event["ts"] + event["dur"]))
    return trace, spans


def inside(part, whole):
    return whole[0] <= part[0] and part[1] <= whole[1]


def test_the_steps_that_were_asked_for_are_there_with_their_parts_and_no_bit_changes(keiko, drift, tmp_path):
    changes = {"data": str(drift / "train.kix"), "eval": {"data": str(drift / "test.kix"), "every": 4, "max_items": 8},
               "checkpoint": {"every": 4, "keep": 100}, "log.samples": False}
    weights, said = [], {}
    for name, options in {"plain": [], "traced": ["--trace", "steps=2..3"]}.items():
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN, changes | {"run": str(tmp_path / name)})
        said[name] = keiko("train", recipe, *options).stderr
        weights.append((runs.checkpoint(tmp_path / name) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert not (tmp_path / "plain" / "traces").exists()

    path = tmp_path / "traced" / "traces" / "steps-2-3-rank0.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert "ERROR" not in said["traced"] and str(path) in said["traced"] and "ui.perfetto.dev" in said["traced"]
    trace, spans = traced(path)
    assert sorted(name for name in spans if re.fullmatch(r"step \d+", name)) == ["step 2", "step 3"]
    for number in (2, 3):
        (step,) = spans[f"step {number}"]
        mine = {name: [s for s in spans[name] if inside(s, step)] for name in PARTS}
        # Two micro-batches of four clips.
        assert {name: len(s) for name, s in mine.items()} == {n: 2 if n in ("forward", "backward") else 1 for n in PARTS}
        for name in ("forward", "backward"):
            assert mine[name][0][1] <= mine[name][1][0]
        in_order = [mine[name][-1] for name in PARTS]
        assert all(a[1] <= b[0] for a, b in zip(in_order, in_order[1:])), in_order
        # Encoder and decoder have two blocks and one.
        blocks = {name: [s for s in spans[name] if inside(s, mine["forward"][0])] for name in spans if name.startswith("block ")}
        assert {name: len(s) for name, s in blocks.items()} == {"block 01": 1, "block 02": 1, "block 03": 1}, blocks
        assert sum(inside(s, mine["backward"][0]) for name in spans if "engine" in name for s in spans[name]) > 20
        assert any(inside(s, mine["update"][0]) for s in spans["aten::_fused_adamw_"])
        (wait,) = mine["data wait"]
        assert not any(inside(s, wait) for name in spans if name.startswith("aten::") for s in spans[name])
    # What was due after step 3 belongs to it.
    (last,) = spans["step 3"]
    for name in ("evaluation", "host copy", "commit"):
        assert any(inside(s, last) for s in spans[name]), name
        assert not any(inside(s, spans["step 2"][0]) for s in spans[name]), name
    # All that it heard lies within the two steps.
    begun, ended = spans["step 2"][0][0], last[1]
    assert all(inside(s, (begun, ended)) for name in spans if name.startswith("aten::") for s in spans[name])

    # What it costs is said: in the trace, and beside the figures of the run.
    (event,) = [e for e in runs.metrics(tmp_path / "traced", "event") if e["event"] == "trace"]
    assert event["file"] == str(path) and event["bytes"] == path.stat().st_size
    own = trace["keiko"]
    assert (own["first_step"], own["last_step"], own["rank"]) == (2, 3, 0)
    assert own["step_s"] == event["step_s"] and own["step_s_before"] == event["step_s_before"]
    for number, seconds in zip((2, 3), own["step_s"]):
        (step,) = spans[f"step {number}"]
        assert 0 < seconds <= (step[1] - step[0]) / 1e6 + 1e-3
    assert event["start_s"] >= 0 and event["write_s"] > 0


@pytest.mark.parametrize("steps,said", [("steps=3..2", "step 2 comes before step 3"), ("2..3", "does not begin with steps="),
                                        ("steps=one..3", '"one" is not the number of a step'),
                                        ("steps=4..5", "the run has 5 steps")])
def test_steps_that_are_none_are_refused_before_anything_is_trained(keiko, drift, tmp_path, steps, said):
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN, {"data": str(drift / "train.kix"),
                                                                    "run": str(tmp_path / "run")})
    done = keiko("train", recipe, "--trace", steps, check=False)
    assert done.returncode == 2 and said in done.stderr and f"--trace {steps}" in done.stderr, done.stderr
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert not metrics.exists() or not metrics.read_text()


def test_a_resumed_run_traces_what_is_left_and_then_nothing(keiko, drift, train):
    run = train("run", runs.CLASSIFY, {"data": str(drift / "train.kix")}, "steps=2")
    done = keiko("train", run, "steps=4", "--trace", "steps=1..3")
    assert "the run goes on at step 2; steps before that are not traced" in done.stderr, done.stderr
    _, spans = traced(run / "traces" / "steps-2-3-rank0.json")
    assert {"step 2", "step 3"} <= set(spans) and "step 1" not in spans
    # A job that is started again comes with the same command line.
    done = keiko("train", run, "steps=5", "--trace", "steps=1..3")
    assert "nothing is left to trace" in done.stderr, done.stderr
    assert len(list((run / "traces").iterdir())) == 1


def test_every_rank_has_a_trace_of_its_own(keiko_bin, keiko_env, drift, tmp_path):
    run = tmp_path / "run"
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.CLASSIFY, {"data": str(drift / "train.kix"), "run": str(run), "steps": 2})
    launching.by_hand(keiko_bin, keiko_env, recipe, 2, tmp_path, "--trace", "steps=1")
    assert sorted(p.name for p in (run / "traces").iterdir()) == ["steps-1-1-rank0.json", "steps-1-1-rank1.json"]
    for rank in (0, 1):
        trace, spans = traced(run / "traces" / f"steps-1-1-rank{rank}.json")
        assert trace["keiko"]["rank"] == rank and len(spans["step 1"]) == 1
        assert len([e for e in runs.metrics(run, "event") if e["event"] == "trace"]) == 1
