"""A hundred training steps are right, not only one.

Truth: a textbook PyTorch loop (plain_videomae.py: whole batches, autograd, torch.optim.AdamW,
clip_grad_norm_) started from Keiko's own initial checkpoint and fed the clips, masks and labels that
`keiko preview --tensors` hands out. Everything in float64, where the two differ only by the order of
additions (seen: 1e-14 after 100 steps), so that 1e-6 leaves no room for a small mistake: a bias that
decays, an epsilon elsewhere, a schedule off by one step.
"""

import math
from types import SimpleNamespace

import pytest
import torch

import plain_videomae
import runs

STEPS = 100
RTOL = 1e-6
LONG = {"precision": "float64", "steps": STEPS, "optimizer.warmup_steps": 10, "optimizer.base_lr": 0.003,
        "optimizer.min_lr": 1e-5, "log.samples": False}
# The clipping limits lie inside the range of the gradient norms, so that some steps are clipped.
RECIPES = {
    "videomae": runs.changed(runs.PRETRAIN, LONG | {"optimizer.clip_grad": 0.02}),
    "classification": runs.changed(runs.CLASSIFY, LONG | {"optimizer.clip_grad": 1.0, "objective.label_smoothing": 0.1}),
}


@pytest.fixture(scope="module", params=RECIPES)
def journey(request, keiko, drift, tmp_path_factory):
    """Both runs: keiko's metric lines and final weights, the plain loop's lines and model."""
    folder = tmp_path_factory.mktemp(request.param)
    run = folder / "run"
    recipe = runs.changed(RECIPES[request.param], {"data": str(drift / "train.kix"), "run": str(run)})
    file = runs.write_recipe(folder / "recipe.yaml", recipe)

    keiko("train", file, "steps=0")
    model = plain_videomae.load(runs.checkpoint(run, 0))
    batches = runs.preview_tensors(keiko, file, folder / "batches.safetensors", steps=STEPS)
    keiko("train", file)

    torch.set_num_threads(1)
    lines = list(plain_videomae.train(model, batches, recipe, runs.learning_rate))
    return SimpleNamespace(recipe=recipe, batches=batches, ours=runs.metrics(run), plain=lines,
                           weights=runs.weights(run), model=model)


def assert_every_step_agrees(journey, field):
    assert [line["step"] for line in journey.ours] == list(range(1, STEPS + 1))
    for ours, plain in zip(journey.ours, journey.plain):
        assert math.isclose(ours[field], plain[field], rel_tol=RTOL, abs_tol=1e-15), \
            f"step {ours['step']}: {field} is {ours[field]!r}, plain PyTorch has {plain[field]!r}"


def test_the_loss_of_every_step_equals_plain_pytorch(journey):
    assert_every_step_agrees(journey, "loss")


def test_the_learning_rate_of_every_step_is_warm_up_then_cosine(journey):
    """Truth: the closed formula, runs.learning_rate."""
    assert_every_step_agrees(journey, "lr")


def test_the_gradient_norm_of_every_step_equals_plain_pytorch_before_clipping(journey):
    assert_every_step_agrees(journey, "grad_norm")
    limit = journey.recipe["optimizer"]["clip_grad"]
    assert max(line["grad_norm"] for line in journey.plain) > limit, "no step was clipped: the test proves too little"


def test_the_final_weights_equal_plain_pytorch(journey):
    """Tensor by tensor, the largest difference over the largest value."""
    plain = dict(journey.model.named_parameters())
    assert plain.keys() == journey.weights.keys()
    for name, ours in journey.weights.items():
        assert ours.dtype == torch.float64, f"{name} is stored as {ours.dtype}"
        assert runs.scaled_difference(ours, plain[name].detach()) < RTOL, name


def test_the_clips_differ_from_step_to_step(journey):
    """Guards the test itself: a hundred equal batches would prove far less."""
    assert len({batch["video"].numpy().tobytes() for batch in journey.batches}) == STEPS
