"""Float32 goes the way of float64, as closely as plain PyTorch's own float32 does.

Keiko has kernels of its own for float32 (attention, linear layers, gradients added in place), which
float64 never meets. Truth: the float64 loops of test_trajectory.py, from the same checkpoint and batches.
Tolerances are ten times what the same loops in float32 showed over 20 steps (loss 1.5e-7, gradient norm
3.1e-7 relative; weights 7e-5 of a tensor's largest value, for a bias whose gradient nearly cancels).
"""

import math
from types import SimpleNamespace

import pytest
import torch

import runs
from test_trajectory import RECIPES, plain_loop

STEPS = 20
LOSS, NORM, WEIGHTS = 1.5e-6, 3e-6, 7e-4
# Zero in exact arithmetic, because softmax cancels them where there are no positions: AdamW makes steps of
# their rounding errors.
NOISE = {"pooler.self_attention_layers.0.self_attn.k_proj.bias", "pooler.cross_attention_layer.cross_attn.k_proj.bias"}


@pytest.fixture(scope="module", params=RECIPES)
def journey(request, keiko, drift, tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    recipe = runs.changed(RECIPES[request.param], {
        "data": str(drift / "train.kix"), "run": str(folder / "run"), "precision": "fp32", "steps": STEPS,
        "optimizer.warmup_steps": 5})
    file = runs.write_recipe(folder / "recipe.yaml", recipe)
    keiko("train", file, "steps=0")
    batches = runs.preview_tensors(keiko, file, folder / "batches.safetensors", steps=STEPS)
    keiko("train", file)
    torch.set_num_threads(1)
    lines, model, average = plain_loop(runs.checkpoint(folder / "run", 0), batches, recipe)
    files = [("model.safetensors", model)] + ([("ema.safetensors", average)] if average else [])
    return SimpleNamespace(ours=runs.metrics(folder / "run"), plain=lines, run=folder / "run", files=files)


@pytest.mark.parametrize("field, tolerance", [("loss", LOSS), ("grad_norm", NORM)])
def test_every_step_is_that_of_float64(journey, field, tolerance):
    assert len(journey.ours) == STEPS
    for ours, plain in zip(journey.ours, journey.plain, strict=True):
        assert math.isclose(ours[field], plain[field], rel_tol=tolerance), \
            f"step {ours['step']}: {field} is {ours[field]!r}, plain PyTorch has {plain[field]!r} in float64"


def test_the_final_weights_are_those_of_float64(journey):
    """Averaged ones too."""
    for file, model in journey.files:
        found = runs.weights(journey.run, file=file)
        for name, wanted in model.named_parameters():
            assert found[name].dtype == torch.float32
            if name not in NOISE:
                assert runs.scaled_difference(found[name], wanted.detach()) < WEIGHTS, f"{file}: {name}"
