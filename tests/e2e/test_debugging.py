"""What researchers reach for when training goes wrong, driven from the command line.

Truth: the run's own files. Weights that must not have moved are compared byte for byte, norms with the
gradient norm that the step itself reports.
"""

import json
import math
import struct

import pytest
import torch

import runs


def events(run, name):
    return [line for line in runs.metrics(run, "event") if line["event"] == name]


def test_a_step_that_is_no_number_ends_the_run_and_names_its_samples(keiko, drift, tmp_path):
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "run"),
                                "optimizer.base_lr": 999.0, "optimizer.warmup_steps": 0, "optimizer.clip_grad": 0,
                                "optimizer.weight_decay": 99.0, "steps": 60})
    done = keiko("train", recipe, check=False)
    assert done.returncode == 1, done.stderr[-1500:]
    said = done.stderr
    assert "nan" in said or "inf" in said, said[-1500:]
    assert f"keiko preview {tmp_path / 'run'} --step " in said, said[-1500:]
    step = said.split("--step ")[1].split("`")[0]
    keiko("preview", tmp_path / "run", "--step", step, "--clips", 2)
    assert list((tmp_path / "run" / "previews").glob(f"step-{int(step):08d}-*.png"))

    skipping = runs.write_recipe(tmp_path / "s.yaml", runs.PRETRAIN,
                                 {"data": str(drift / "train.kix"), "run": str(tmp_path / "skipping"),
                                  "optimizer.base_lr": 999.0, "optimizer.warmup_steps": 0, "optimizer.clip_grad": 0,
                                  "optimizer.weight_decay": 99.0, "steps": 60, "guard": {"nonfinite": "skip",
                                                                                         "max_skipped": 2}})
    done = keiko("train", skipping, check=False)
    assert done.returncode == 1 and "guard.max_skipped = 2" in done.stderr, done.stderr[-1500:]
    assert "the weights stay as they are" in done.stderr


def test_a_spike_is_skipped_and_leaves_the_weights_as_they_were(keiko, drift, train):
    """A bound so low that about half of the steps are spikes."""
    changes = {"data": str(drift / "train.kix"), "steps": 14, "checkpoint.every": 1, "optimizer.base_lr": 1e-6,
               "optimizer.schedule": "constant",
               "guard": {"spike": "skip", "spike_std": 0.1, "window": 4, "max_skipped": 100}}
    run = train("run", runs.PRETRAIN, changes)
    skipped = [line["step"] for line in events(run, "skipped_step")]
    assert 1 <= len(skipped) <= 12, skipped
    for step in range(1, 14):
        before = (runs.checkpoint(run, step) / "model.safetensors").read_bytes()
        after = (runs.checkpoint(run, step + 1) / "model.safetensors").read_bytes()
        assert (before == after) == (step in skipped), f"step {step}: skipped are {skipped}"
    for line in events(run, "skipped_step"):
        assert "is a spike" in line["message"] and f"--step {line['step']}" in line["message"]
    # A run that stops in between goes on with the same losses to measure against.
    halves = train("halves", runs.PRETRAIN, changes, "steps=7")
    keiko("train", halves, "steps=14")
    assert [line["step"] for line in events(halves, "skipped_step")] == skipped
    assert (runs.checkpoint(halves) / "model.safetensors").read_bytes() == \
        (runs.checkpoint(run) / "model.safetensors").read_bytes()


def test_overfit_shows_the_same_few_clips_over_and_over_and_they_are_learned(keiko, drift, tmp_path):
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.CLASSIFY,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "run"), "augment.flip": 0.5,
                                "batch_size": 6, "micro_batch_size": 0, "steps": 120, "optimizer.base_lr": 0.003,
                                "optimizer.warmup_steps": 10})
    keiko("train", recipe, "--overfit", 3)
    samples = runs.samples(tmp_path / "run")
    assert [s["position"] for s in samples] == list(range(6 * 120))
    kinds = {json.dumps([s["item"], s["frames"], s["crop"], s["flip"]]) for s in samples}
    assert len(kinds) == 3, kinds
    for s in samples:
        same = samples[s["position"] % 3]
        assert (s["item"], s["frames"], s["flip"]) == (same["item"], same["frames"], same["flip"])
    assert runs.metrics(tmp_path / "run")[-1]["loss"] < 0.1


@pytest.mark.parametrize("name", runs.OBJECTIVES)
def test_activation_checkpointing_changes_no_bit(name, keiko, drift, train):
    """V-JEPA's masks run each block several times, whose gradients are then added one by one: the same bits
    only where nothing was added before, in whole batches."""
    base = runs.changed(runs.OBJECTIVES[name], {"micro_batch_size": 0} if name == "vjepa2" else {})
    plain = train("plain", base, {"data": str(drift / "train.kix")})
    recomputed = train("recomputed", base, {"data": str(drift / "train.kix"), "train.activation_checkpointing": True})
    assert (runs.checkpoint(plain) / "model.safetensors").read_bytes() == \
        (runs.checkpoint(recomputed) / "model.safetensors").read_bytes()


def test_norms_of_every_block_add_up_to_the_gradient_norm(keiko, drift, train):
    run = train("run", runs.VJEPA2, {"data": str(drift / "train.kix"), "debug": {"norms_every": 2},
                                     "optimizer.clip_grad": 0})
    lines = events(run, "norms")
    assert [line["step"] for line in lines] == [0, 2, 4]
    for line in lines:
        gradients = [v for k, v in line.items() if k.startswith("grad/")]
        activations = [v for k, v in line.items() if k.startswith("activation/")]
        assert len(gradients) >= 6 and len(activations) >= 6 and min(activations) > 0
        step = [m for m in runs.metrics(run) if m["step"] == line["step"] + 1][0]
        assert math.isclose(math.sqrt(sum(g * g for g in gradients)), step["grad_norm"], rel_tol=1e-5)


def test_anomaly_mode_names_the_operation(keiko, drift, tmp_path):
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "run"),
                                "optimizer.base_lr": 999.0, "optimizer.warmup_steps": 0, "optimizer.clip_grad": 0,
                                "optimizer.weight_decay": 99.0, "steps": 60, "debug": {"anomaly": True}})
    done = keiko("train", recipe, check=False)
    assert done.returncode == 1, done.stderr[-1500:]
    assert "Function '" in done.stderr and "returned nan values" in done.stderr, done.stderr[-1500:]
    assert f"keiko preview {tmp_path / 'run'} --step " in done.stderr


def test_nearest_neighbours_stand_beside_a_random_encoder(keiko, drift, train, tmp_path):
    run = train("run", runs.VJEPA2, {"data": str(drift / "train.kix")})
    done = keiko("eval", run, f"eval.data={drift / 'test.kix'}", "--knn", 5, "--json")
    out = json.loads(done.stdout)
    assert out["checkpoint"].endswith("step-00000005") and out["views"] == "1 x 1"
    for key in ("knn", "knn_random_init"):
        assert out[key]["k"] == 5 and 0 <= out[key]["top1_low"] <= out[key]["top1"] <= out[key]["top1_high"] <= 1
    assert out["feature_std"] > 0 and out["feature_rank"] >= 1


def test_confusions_are_drawn_and_predictions_averaged_over_views(keiko, drift, train, tmp_path):
    run = train("run", runs.CLASSIFY, {"data": str(drift / "train.kix"), "steps": 2})
    picture = tmp_path / "confusion.png"
    done = keiko("eval", run, f"eval.data={drift / 'test.kix'}", "eval.views={temporal: 2, spatial: 3}",
                 "--confusion", picture, "--json")
    out = json.loads(done.stdout)
    assert out["views"] == "2 x 3" and out["clips"] == 64 and out["weights"] == "model"
    bytes_ = picture.read_bytes()
    assert bytes_[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", bytes_[16:24])
    assert width == height == 8 * (480 // 8 + 1) + 1
    assert torch.isfinite(torch.tensor(out["loss"]))
