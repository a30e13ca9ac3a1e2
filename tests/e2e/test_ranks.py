"""Any number of ranks trains the same model on the same samples.

Truth: the one-rank run. Two ranks start under torchrun (some), three by hand with the five variables
every launcher ends in; 8 clips on 3 ranks make uneven slices (3, 3, 2), and so do 3 groups of 4 on 2.
"""

import json
import math
import re
import shutil
import subprocess
import time
from random import Random

import pytest
import torch

import runs
from launching import by_hand, free_port, under_torchrun

STEPS = 5
# The runs differ only in the order in which float32 gradients are added (slices, micro-batches,
# all-reduce): relative noise of about 1e-7 of the largest summand. AdamW divides each gradient by its
# own size, so what counts is noise over |g| + eps; plain PyTorch shows 1e-6 of a tensor's largest value
# after 5 steps with other splits, and 9e-5 was seen for classifier.bias on 3 ranks, whose gradient is a
# sum that nearly cancels (so its rounding is large beside it). A wrong mean over uneven slices (weighting
# a clip by 1/3 or 1/2 instead of its share) is off by more than 1e-2.
WEIGHT_TOLERANCE = 5e-4
LOSS_TOLERANCE = 1e-5
# Not part of the computation: clocks, rates and sizes.
MEASURED = re.compile(r"time|_s$|per_s|memory|tflops|mfu|hidden|kind|position")


@pytest.fixture(scope="module", params=runs.OBJECTIVES)
def one(request, keiko, keiko_bin, keiko_env, drift, tmp_path_factory):
    """The one-rank run, and a function that runs the same recipe on several."""
    base = runs.OBJECTIVES[request.param]
    changes = {"data": str(drift / "train.kix"), "steps": STEPS, "eval": {"every": STEPS, "data": str(drift / "test.kix")}}

    def prepare(name):
        folder = tmp_path_factory.mktemp(name)
        return folder, runs.write_recipe(folder / "r.yaml", base, changes | {"run": str(folder / "run")})

    folder, recipe = prepare("alone")
    keiko("train", recipe)
    several = {}

    def many(ranks):
        if ranks not in several:
            other, recipe = prepare(f"ranks-{ranks}")
            launch = under_torchrun if ranks == 2 and request.param in ("videomae", "classification") else by_hand
            launch(keiko_bin, keiko_env, recipe, ranks, other)
            several[ranks] = other / "run"
        return several[ranks]

    return folder / "run", many


@pytest.mark.parametrize("ranks", [2, 3])
def test_weights_equal_the_one_rank_run_up_to_summation_order(one, ranks):
    """Averaged weights too."""
    alone, many = one
    files = {p.name for p in runs.checkpoint(alone).glob("*.safetensors")} & {"model.safetensors", "ema.safetensors"}
    for file in files:
        found, wanted = (runs.weights(run, file=file) for run in (many(ranks), alone))
        assert found.keys() == wanted.keys()
        for name in wanted:
            difference = runs.scaled_difference(found[name], wanted[name])
            assert difference < WEIGHT_TOLERANCE, f"{file}: {name} differs by {difference} on {ranks} ranks"


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_metrics_of_every_step_are_those_of_the_whole_batch(one, ranks):
    alone, many = one
    found, wanted = runs.metrics(many(ranks)), runs.metrics(alone)
    assert [line["step"] for line in found] == [line["step"] for line in wanted] == list(range(1, STEPS + 1))
    for a, b in zip(found, wanted):
        assert (a["position"], a["lr"]) == (b["position"], b["lr"])
        for field, tolerance in (("loss", LOSS_TOLERANCE), ("grad_norm", 10 * LOSS_TOLERANCE)):
            assert math.isclose(a[field], b[field], rel_tol=tolerance), \
                f"step {a['step']}: {field} is {a[field]} on {ranks} ranks, {b[field]} on one"


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_together_see_the_samples_of_the_one_rank_run(one, ranks):
    """Sorted by position, samples-RANK.jsonl of all ranks is samples-0.jsonl of one: nothing twice, nothing lost."""
    alone, many = one
    parts = [runs.samples(many(ranks), rank) for rank in range(ranks)]
    assert all(parts), "a rank saw no sample"
    union = sorted((line for part in parts for line in part), key=lambda line: line["position"])
    assert union == sorted(runs.samples(alone), key=lambda line: line["position"])
    per_step = runs.metrics(alone)[0]["position"]
    assert [line["position"] for line in union] == list(range(per_step * STEPS))


@pytest.mark.parametrize("ranks", [2, 3])
def test_evaluation_counts_every_test_clip_once_on_any_number_of_ranks(one, ranks):
    """64 clips do not divide by 3: a clip counted twice or left out would move the mean."""
    alone, many = one
    found, wanted = runs.metrics(many(ranks), "eval"), runs.metrics(alone, "eval")
    assert len(found) == len(wanted) == 1
    compared = [field for field, value in wanted[0].items()
                if isinstance(value, (int, float)) and not MEASURED.search(field)]
    assert "loss" in compared
    for field in compared:
        assert math.isclose(found[0][field], wanted[0][field], rel_tol=1e-4, abs_tol=1e-9), field


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_hold_the_same_weights(one, ranks):
    """Keiko itself compares the hashes of all ranks when it saves and ends with 1 if they differ; state.json
    lists what each rank had."""
    alone, many = one
    for run in (alone, many(ranks)):
        state = json.loads((runs.checkpoint(run) / "state.json").read_text())
        hashes = state["weights_hash_of_ranks"]
        assert len(hashes) == (1 if run == alone else ranks)
        assert set(hashes) == {state["weights_hash"]} and len(hashes[0]) == 16, hashes


@pytest.mark.parametrize("ranks", [2, 3])
def test_only_rank_0_writes_logs(one, ranks):
    """One metrics.jsonl, one log.txt, each step in it once; the other ranks print no step lines."""
    _, many = one
    run = many(ranks)
    assert len(list(run.rglob("metrics*.jsonl"))) == len(list(run.rglob("log*.txt"))) == 1
    assert step_lines((run / "log.txt").read_text()) == list(range(1, STEPS + 1))
    for rank in range(1, ranks):
        file = run.parent / f"rank-{rank}.txt"
        if file.exists():
            assert step_lines(file.read_text()) == []
    for file in run.parent.glob("torchrun.txt"):
        assert step_lines(file.read_text()) in ([], list(range(1, STEPS + 1)))


def step_lines(text):
    return [int(n) for n in re.findall(r"\bstep\s+(\d+)\s+loss", text)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_rank_has_its_optimiser_file(one, ranks):
    _, many = one
    names = sorted(p.name for p in runs.checkpoint(many(ranks)).glob("optimizer-*"))
    assert names == [f"optimizer-{r}-of-{ranks}.safetensors" for r in range(ranks)]


def test_more_ranks_than_clips_in_a_batch_are_refused(keiko, drift, tmp_path):
    """Nothing would be left for rank 8; it is said before any rank waits for another."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "run")})
    env = {"RANK": "0", "WORLD_SIZE": "9", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port())}
    refused = keiko("train", recipe, check=False, env=env, timeout=60)
    assert refused.returncode == 2 and "batch_size" in refused.stderr, refused.stderr


def test_a_run_goes_on_with_another_number_of_ranks(keiko, keiko_bin, keiko_env, drift, tmp_path):
    """World size is a free key: 3 steps alone and 2 on two ranks give the samples and weights of 5 alone."""
    level = {"data": str(drift / "train.kix"), "optimizer.warmup_steps": 0, "optimizer.min_lr": 0.001}
    recipe = {name: runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN, level | {"run": str(tmp_path / name)})
              for name in ("whole", "parts")}
    keiko("train", recipe["whole"])
    keiko("train", recipe["parts"], "steps=3")
    under_torchrun(keiko_bin, keiko_env, recipe["parts"], 2, tmp_path)
    found, wanted = runs.weights(tmp_path / "parts"), runs.weights(tmp_path / "whole")
    for name in wanted:
        assert runs.scaled_difference(found[name], wanted[name]) < WEIGHT_TOLERANCE, name
    seen = runs.samples(tmp_path / "parts", 0) + runs.samples(tmp_path / "parts", 1)
    assert sorted(line["position"] for line in seen) == list(range(8 * STEPS))


def test_one_to_four_ranks_see_the_same_samples_and_so_does_a_run_that_changes_their_number(
        keiko_bin, keiko_env, drift, tmp_path):
    """The union of samples-RANK.jsonl, and the weights up to summation order. The truth is the one-rank run;
    "resharded" takes 3 steps on 4 ranks, 2 on one and 3 on 3."""
    steps, level = 8, {"data": str(drift / "train.kix"), "optimizer.warmup_steps": 0, "optimizer.min_lr": 0.001}
    starts = {"1": [(1, 8)], "2": [(2, 8)], "3": [(3, 8)], "4": [(4, 8)], "resharded": [(4, 3), (1, 5), (3, 8)]}
    union = {}
    for name, parts in starts.items():
        for ranks, until in parts:
            recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN,
                                       level | {"run": str(tmp_path / name), "steps": until})
            by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
        files = sorted((tmp_path / name).glob("samples-*.jsonl"))
        assert len(files) == max(ranks for ranks, _ in parts)
        union[name] = sorted((line for file in files for line in runs.json_lines(file)), key=lambda line: line["position"])
        assert [line["position"] for line in union[name]] == list(range(8 * steps)), name
        assert union[name] == union["1"], name
        found, wanted = runs.weights(tmp_path / name), runs.weights(tmp_path / "1")
        for tensor in wanted:
            assert runs.scaled_difference(found[tensor], wanted[tensor]) < WEIGHT_TOLERANCE, (name, tensor)


@pytest.mark.parametrize("ranks, objective", [(2, "videomae"), (3, "fine-tuning"), (3, "vjepa2")])
def test_sharing_out_the_optimiser_changes_no_bit(keiko, keiko_bin, keiko_env, drift, tmp_path, ranks, objective):
    """train.shard = optimizer against none, and both ways round through a checkpoint: the truth is the unsharded run."""
    level = {"data": str(drift / "train.kix"), "steps": 6, "checkpoint": {"every": 3, "keep": 9}}
    ways = {"none": ["none", "none"], "optimizer": ["optimizer", "optimizer"], "into": ["none", "optimizer"],
            "out": ["optimizer", "none"]}
    for name, (first, second) in ways.items():
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.OBJECTIVES[objective], level | {"run": str(tmp_path / name)})
        for shard, stop in ((first, 3), (second, 6)):
            runs.write_recipe(recipe, runs.OBJECTIVES[objective],
                              level | {"run": str(tmp_path / name), "train.shard": shard, "guard.max_skipped": 10})
            if stop == 3:  # the second half starts from step 3's checkpoint
                by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
                shutil.rmtree(tmp_path / name / "checkpoints" / "step-00000006")
                (tmp_path / name / "checkpoints" / "latest").write_text("step-00000003\n")
            else:
                by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
    last = "checkpoints/step-00000006"
    for name in ways:
        file = "model.safetensors"
        assert (tmp_path / name / last / file).read_bytes() == (tmp_path / "none" / last / file).read_bytes(), (name, file)
        # Parts are cut elsewhere, by tensor or by block: their whole is the same.
        found, wanted = (runs.moments(tmp_path / run) for run in (name, "none"))
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted), name


@pytest.mark.parametrize("ranks, objective", [(2, "videomae"), (3, "videomae"), (2, "vjepa2")])
def test_ranks_killed_at_random_resume_bit_exactly(keiko_bin, keiko_env, drift, tmp_path, ranks, objective):
    """All ranks are killed at a random moment, four times, and started again: the bytes are those of a run
    that was left alone. The truth is that run itself."""
    random = Random(ranks)
    level = {"data": str(drift / "train.kix"), "steps": 8, "checkpoint": {"every": 2, "keep": 2},
             "log": {"every": 1, "samples": True}}
    recipe = {name: runs.write_recipe(tmp_path / f"{name}.yaml", runs.OBJECTIVES[objective],
                                      level | {"run": str(tmp_path / name)}) for name in ("whole", "killed")}
    begun = time.monotonic()
    by_hand(keiko_bin, keiko_env, recipe["whole"], ranks, tmp_path)
    whole_s = time.monotonic() - begun
    for _ in range(4):
        port = str(free_port())
        started = [subprocess.Popen([keiko_bin, "train", recipe["killed"]], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                    env=keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(ranks),
                                                     "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                                                     "MASTER_PORT": port}) for rank in range(ranks)]
        time.sleep(whole_s * random.uniform(0.4, 1.0))
        for process in random.sample(started, ranks):
            process.kill()
        for process in started:
            process.wait()
    by_hand(keiko_bin, keiko_env, recipe["killed"], ranks, tmp_path)
    last = "checkpoints/step-00000008"
    averages = ["ema.safetensors"] if objective == "vjepa2" else []
    for name in ["model.safetensors", *averages, *(f"optimizer-{r}-of-{ranks}.safetensors" for r in range(ranks))]:
        assert (tmp_path / "killed" / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes(), name
    for rank in range(ranks):
        name = f"samples-{rank}.jsonl"
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
