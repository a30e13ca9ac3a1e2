"""Ranks that share out moments, gradients and parameters train the model that one rank trains.

Truth: the one-rank run, which shares nothing. 8 clips on 3 ranks in micro-batches of 2 make uneven slices
(3, 3, 2) of two, two and one micro-batches: the last rank runs a padded one.
"""

import json
import math
import re
import shutil
import signal
import time

import pytest

import runs
from launching import assert_same_bits, by_hand, start_by_hand, steps_of
from test_ranks import LOSS_TOLERANCE, WEIGHT_TOLERANCE

STEPS = 6
# (ranks, train.shard, train.shard_group)
WAYS = [(2, "gradients", 0), (2, "parameters", 0), (3, "gradients", 0), (3, "parameters", 0), (4, "parameters", 2),
        (4, "gradients", 2), (2, "optimizer", 1)]
OBJECTIVES = ("videomae", "vjepa2", "fine-tuning", "probe")
# Heads on a frozen random encoder; an attentive head's blocks are shared out as an encoder's are.
PROBE = runs.changed(runs.COMMON, {"objective.name": "probe", "objective.pooling": "attentive", "objective.pooler_depth": 2,
                                   "objective.pooler_heads": 4})
RECIPES = runs.OBJECTIVES | {"probe": PROBE}


def level(drift, folder, **changes):
    return {"data": str(drift / "train.kix"), "steps": STEPS, "checkpoint": {"every": 1, "keep": 99},
            "run": str(folder)} | changes


def write(path, objective, drift, folder, **changes):
    # Groups of clips that belong together are not cut: fine-tuning has four of them.
    micro = {} if objective == "fine-tuning" else {"micro_batch_size": 2}
    return runs.write_recipe(path, RECIPES[objective], level(drift, folder) | micro | changes)


@pytest.fixture(scope="module", params=OBJECTIVES)
def alone(request, keiko, drift, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    keiko("train", write(folder / "r.yaml", request.param, drift, folder / "run"))
    return request.param, folder / "run"


def assert_same_training(found, wanted, steps=STEPS):
    for file in {p.name for p in runs.checkpoint(wanted).glob("*.safetensors")} & {"model.safetensors", "ema.safetensors"}:
        a, b = runs.weights(found, file=file), runs.weights(wanted, file=file)
        assert a.keys() == b.keys()
        for name in b:
            # Softmax takes no notice of the bias of keys: its gradient is 0, and what is found is rounding alone.
            if not name.endswith("attn.k_proj.bias"):
                assert runs.scaled_difference(a[name], b[name]) < WEIGHT_TOLERANCE, (file, name)
    a, b = runs.moments(found), runs.moments(wanted)
    assert a.keys() == b.keys()
    for name in b:
        assert a[name].shape == b[name].shape
        assert runs.scaled_difference(a[name], b[name]) < WEIGHT_TOLERANCE, name
    a, b = runs.metrics(found), runs.metrics(wanted)
    assert [line["step"] for line in a] == [line["step"] for line in b] == list(range(1, steps + 1))
    for x, y in zip(a, b):
        for field, tolerance in (("loss", LOSS_TOLERANCE), ("grad_norm", 10 * LOSS_TOLERANCE)):
            assert math.isclose(x[field], y[field], rel_tol=tolerance), (x["step"], field, x[field], y[field])


@pytest.mark.parametrize("ranks, shard, group", WAYS)
def test_shared_out_training_equals_the_one_rank_run(alone, keiko_bin, keiko_env, drift, tmp_path, ranks, shard, group):
    objective, wanted = alone
    if objective == "fine-tuning" and ranks == 4:
        pytest.skip("three groups of clips are not enough for four ranks")
    found = tmp_path / "run"
    recipe = write(tmp_path / "r.yaml", objective, drift, found,
                   train={"threads": 1, "shard": shard, "shard_group": group})
    by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
    assert_same_training(found, wanted)


# One run that is started six times, each time with other ranks that share out something else.
CHAIN = [(1, "none", 0), (2, "parameters", 0), (3, "gradients", 0), (4, "parameters", 2), (2, "optimizer", 0),
         (3, "parameters", 0)]


@pytest.mark.parametrize("alone", ["videomae", "vjepa2"], indirect=True)
def test_a_checkpoint_of_any_sharding_goes_on_with_any_other(alone, keiko_bin, keiko_env, drift, tmp_path):
    objective, wanted = alone
    found = tmp_path / "run"
    for step, (ranks, shard, group) in enumerate(CHAIN, start=1):
        recipe = write(tmp_path / "r.yaml", objective, drift, found,
                       train={"threads": 1, "shard": shard, "shard_group": group})
        by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
        # Every start runs to the end, so that the schedule is that of the whole run: what comes after its step goes.
        for later in range(step + 1, STEPS + 1):
            shutil.rmtree(found / "checkpoints" / f"step-{later:08d}", ignore_errors=True)
        (found / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")
        saved = json.loads((runs.checkpoint(found) / "state.json").read_text())
        assert saved["world_size"] == ranks and saved["step"] == step
    assert_same_training(found, wanted)


@pytest.mark.parametrize("shard, group", [("gradients", 0), ("parameters", 0), ("parameters", 2)])
def test_resuming_with_the_same_ranks_is_bit_exact(keiko_bin, keiko_env, drift, tmp_path, shard, group):
    ranks = 4 if group else 2
    train = {"threads": 1, "shard": shard, "shard_group": group}
    for name in ("whole", "halves"):
        by_hand(keiko_bin, keiko_env, write(tmp_path / f"{name}.yaml", "vjepa2", drift, tmp_path / name, train=train),
                ranks, tmp_path)
    for later in (4, 5, 6):
        shutil.rmtree(tmp_path / "halves" / "checkpoints" / f"step-{later:08d}")
    (tmp_path / "halves" / "checkpoints" / "latest").write_text("step-00000003\n")
    by_hand(keiko_bin, keiko_env, tmp_path / "halves.yaml", ranks, tmp_path)
    last = f"checkpoints/step-{STEPS:08d}"
    files = sorted(p.name for p in (tmp_path / "whole" / last).glob("*.safetensors"))
    assert len(files) == ranks + 2, files
    for file in files:
        assert (tmp_path / "halves" / last / file).read_bytes() == (tmp_path / "whole" / last / file).read_bytes(), file


def test_evaluation_norms_and_recomputation_are_those_of_whole_copies(keiko, keiko_bin, keiko_env, drift, tmp_path):
    """What looks at weights and gradients besides the step itself, with parameters shared out."""
    changes = {"eval": {"every": 3, "data": str(drift / "test.kix")}, "debug": {"norms_every": 2}}
    keiko("train", write(tmp_path / "one.yaml", "videomae", drift, tmp_path / "one", **changes))
    changes["train"] = {"threads": 1, "shard": "parameters", "activation_checkpointing": True}
    by_hand(keiko_bin, keiko_env, write(tmp_path / "two.yaml", "videomae", drift, tmp_path / "two", **changes), 2, tmp_path)
    assert_same_training(tmp_path / "two", tmp_path / "one")
    of = {run: {"eval": runs.metrics(tmp_path / run, "eval"),
                "norms": [line for line in runs.metrics(tmp_path / run, "event") if line["event"] == "norms"]}
          for run in ("one", "two")}
    for kind, wanted in of["one"].items():
        found = of["two"][kind]
        assert len(found) == len(wanted) > 0
        for a, b in zip(found, wanted):
            assert a.keys() == b.keys()
            for field in b:
                # Activations are of the first micro-batch of rank 0, and that holds other clips on two ranks.
                if isinstance(b[field], float) and not re.search("time|_s$|per_s|activation", field):
                    assert math.isclose(a[field], b[field], rel_tol=2e-3, abs_tol=1e-6), (kind, field)


def test_groups_that_do_not_fit_and_bits_that_cannot_be_compared_are_refused(keiko_bin, keiko_env, drift, tmp_path):
    for ranks, train, debug, said in (
            (3, {"shard": "parameters", "shard_group": 2}, {}, "train.shard_group = 2"),
            (2, {"shard": "parameters"}, {"flip_bit_rank": 1, "flip_bit_step": 1}, "debug.flip_bit_rank = 1")):
        recipe = write(tmp_path / "r.yaml", "videomae", drift, tmp_path / "run", train={"threads": 1} | train, debug=debug)
        with pytest.raises(AssertionError) as refused:
            by_hand(keiko_bin, keiko_env, recipe, ranks, tmp_path)
        assert said in str(refused.value)


@pytest.mark.parametrize("shard, victim, number", [("gradients", 0, signal.SIGUSR1), ("parameters", 1, signal.SIGTERM)])
def test_a_preempted_run_goes_on_to_the_bits_of_one_left_alone(keiko_bin, keiko_env, drift, tmp_path, shard, victim, number):
    """A signal to one rank of two: both save what they keep, end with 75, and go on from there."""
    ranks, steps, stopped = 2, 40, tmp_path / "stopped"
    recipe = {name: write(tmp_path / f"{name}.yaml", "vjepa2", drift, tmp_path / name, steps=steps,
                          train={"threads": 1, "shard": shard}, checkpoint={"every": 0}) for name in ("whole", "stopped")}
    by_hand(keiko_bin, keiko_env, recipe["whole"], ranks, tmp_path)
    started = start_by_hand(keiko_bin, keiko_env, recipe["stopped"], ranks, tmp_path)
    try:
        until = time.monotonic() + 60
        while steps_of(stopped) < 5 and time.monotonic() < until:
            time.sleep(0.005)
        started[victim].send_signal(number)
        codes = [process.wait(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [75] * ranks, "\n".join((tmp_path / f"rank-{r}.txt").read_text()[-2000:] for r in range(ranks))
    saved = json.loads((runs.checkpoint(stopped) / "state.json").read_text())
    assert 5 <= saved["step"] < steps and saved["world_size"] == ranks
    by_hand(keiko_bin, keiko_env, recipe["stopped"], ranks, tmp_path)
    assert_same_bits(stopped, tmp_path / "whole", ranks, steps)
    ema = f"checkpoints/step-{steps:08d}/ema.safetensors"
    assert (stopped / ema).read_bytes() == (tmp_path / "whole" / ema).read_bytes()
