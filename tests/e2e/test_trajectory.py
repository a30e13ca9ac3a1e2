"""A hundred training steps are right, not only one.

Truth: a textbook PyTorch loop (plain_training.py, with the models of plain_videomae.py and
plain_vjepa2.py) started from Keiko's own initial checkpoint and fed the clips, labels, masks, mixes and
dropped branches that `keiko preview --tensors` hands out. Everything in float64, where the two differ
only by the order of additions (seen: 1e-14 after 100 steps), so that 1e-6 leaves no room for a small
mistake: a bias that decays, an epsilon elsewhere, a schedule off by one step, a teacher that follows
one update late.
"""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

import plain_training
import plain_videomae
import plain_vjepa2
import runs

STEPS = 100
RTOL = 1e-6
LONG = {"precision": "float64", "steps": STEPS, "optimizer.warmup_steps": 10, "optimizer.base_lr": 0.003,
        "optimizer.min_lr": 1e-5, "log.samples": False}
# The clipping limits lie inside the range of the gradient norms, so that some steps are clipped and some are not.
RECIPES = {
    "videomae": runs.changed(runs.PRETRAIN, LONG | {"optimizer.clip_grad": 0.02}),
    "classification": runs.changed(runs.CLASSIFY, LONG | {"optimizer.clip_grad": 1.0, "objective.label_smoothing": 0.1}),
    "vjepa2": runs.changed(runs.VJEPA2, LONG | {"optimizer.clip_grad": 0.5, "optimizer.schedule": "constant"}),
    "vjepa2.1": runs.changed(runs.VJEPA2, LONG | {
        "optimizer.clip_grad": 0.5, "optimizer.schedule": "linear", "optimizer.weight_decay": 0.04,
        "optimizer.weight_decay_end": 0.4, "objective.positions": "rope_interleaved", "objective.mask_token": 0,
        "objective.context_loss": 0.5, "objective.context_loss_warmup": [20, 60]}),
    "fine-tuning": runs.changed(runs.FINE_TUNE, LONG | {"optimizer.clip_grad": 2.5}),
    "fine-tuning vjepa2": runs.changed(runs.FINE_TUNE, LONG | {
        "optimizer.clip_grad": 1.0, "optimizer.weight_decay_end": 0.3, "objective.backbone": "vjepa2",
        "objective.heads": 3, "objective.positions": "rope", "objective.pooler_depth": 1}),
}


def pixels_of(batch, model):
    return plain_videomae.normalise_pixels(batch["video"], next(model.parameters()).dtype)


def pretrain(model, batches, recipe):
    """VideoMAE's loop; nothing is averaged."""
    def loss(batch, step):
        return model.loss(pixels_of(batch, model), batch["mask"])

    return plain_training.train(model, batches, recipe, loss), None


def distil(model, teacher, batches, recipe):
    """V-JEPA 2's loop: the teacher follows the encoder after every update."""
    o = recipe["objective"]

    def loss(batch, step):
        splits = [(batch[f"context.{g}"], batch[f"target.{g}"]) for g in range(len(o["masks"]))]
        first, last = o.get("context_loss_warmup", (0, 1))
        weight = o.get("context_loss", 0) * min(1, max(0, (step - first) / (last - first)))
        return model.loss(teacher.encoder, pixels_of(batch, model), splits, weight)

    def follow(step):  # the momentum of the first step is the first one of the recipe, of the last the last
        first, last = o["ema"]
        plain_training.follow(teacher, model, first + (last - first) * step / (recipe["steps"] - 1))

    return plain_training.train(model, batches, recipe, loss, follow), teacher


def classify(model, batches, recipe):
    """Classification of whichever backbone, mixed and dropped as the batches say."""
    o = recipe["objective"]
    average = copy.deepcopy(model) if o.get("ema") else None

    def loss(batch, step):
        pixels = plain_training.mixed(pixels_of(batch, model), batch)
        targets = plain_training.mixed_labels(batch, len(model.classifier.weight)).to(pixels)
        return model.loss(pixels, targets, o["label_smoothing"], batch.get("keep"))

    def follow(step):
        if average:
            plain_training.follow(average, model, o["ema"])

    return plain_training.train(model, batches, recipe, loss, follow), average


def plain_loop(start, batches, recipe, dtype=torch.float64):
    """(the loop's lines, the trained model, what averages it or None) from Keiko's checkpoint of step 0."""
    o = recipe["objective"]
    if o["name"] == "vjepa2":
        model = plain_vjepa2.load(start, dtype, mask_token=o.get("mask_token", 1))
        lines, average = distil(model, plain_vjepa2.load_teacher(start, dtype), batches, recipe)
    else:
        model = (plain_vjepa2 if o.get("backbone") == "vjepa2" else plain_videomae).load(start, dtype)
        loop = pretrain if o["name"] == "videomae" else classify
        lines, average = loop(model, batches, recipe)
    return list(lines), model, average


@pytest.fixture(scope="module", params=RECIPES)
def journey(request, keiko, drift, tmp_path_factory):
    """Both runs: keiko's metric lines, final and averaged weights, the plain loop's lines and models."""
    folder = tmp_path_factory.mktemp("journey")
    run = folder / "run"
    recipe = runs.changed(RECIPES[request.param], {"data": str(drift / "train.kix"), "run": str(run)})
    file = runs.write_recipe(folder / "recipe.yaml", recipe)

    keiko("train", file, "steps=0")
    start = runs.checkpoint(run, 0)
    batches = runs.preview_tensors(keiko, file, folder / "batches.safetensors", steps=STEPS)
    keiko("train", file)

    torch.set_num_threads(1)
    lines, model, average = plain_loop(start, batches, recipe)
    has_ema = (runs.checkpoint(run) / "ema.safetensors").exists()
    return SimpleNamespace(recipe=recipe, batches=batches, ours=runs.metrics(run), plain=lines, model=model,
                           weights=runs.weights(run), average=average,
                           ema=runs.weights(run, file="ema.safetensors") if has_ema else None)


def assert_every_step_agrees(journey, field):
    assert [line["step"] for line in journey.ours] == list(range(1, STEPS + 1))
    for ours, plain in zip(journey.ours, journey.plain):
        assert math.isclose(ours[field], plain[field], rel_tol=RTOL, abs_tol=1e-15), \
            f"step {ours['step']}: {field} is {ours[field]!r}, plain PyTorch has {plain[field]!r}"


def assert_same_weights(weights, model):
    """Tensor by tensor, the largest difference over the largest value; what is zero but for rounding (the key
    bias of an attention without positions, which softmax cancels) absolutely."""
    plain = dict(model.named_parameters())
    assert plain.keys() == weights.keys()
    for name, ours in weights.items():
        assert ours.dtype == torch.float64, f"{name} is stored as {ours.dtype}"
        wanted = plain[name].detach()
        if wanted.abs().max() < 1e-6:
            assert (ours - wanted).abs().max() < 1e-6, name
        else:
            assert runs.scaled_difference(ours, wanted) < RTOL, name


def test_the_loss_of_every_step_equals_plain_pytorch(journey):
    assert_every_step_agrees(journey, "loss")


def test_the_learning_rate_of_every_step_is_the_schedule_s(journey):
    """Truth: the closed formulas, runs.learning_rate."""
    assert_every_step_agrees(journey, "lr")


def test_the_gradient_norm_of_every_step_equals_plain_pytorch_before_clipping(journey):
    assert_every_step_agrees(journey, "grad_norm")
    limit, norms = journey.recipe["optimizer"]["clip_grad"], [line["grad_norm"] for line in journey.plain]
    assert min(norms) < limit < max(norms), f"norms from {min(norms)} to {max(norms)}: the test proves too little"


def test_the_final_weights_equal_plain_pytorch(journey):
    assert_same_weights(journey.weights, journey.model)


def test_the_final_averaged_weights_equal_plain_pytorch(journey):
    """ema.safetensors: V-JEPA 2's teacher, classification's averaged weights; none where nothing is averaged."""
    if journey.average is None:
        assert journey.ema is None
        return
    assert_same_weights(journey.ema, journey.average)
    moved = [name for name, ema in journey.ema.items() if not torch.equal(ema, journey.weights[name])]
    assert len(moved) > len(journey.ema) / 2, "the average is the model itself: the test proves too little"


def test_the_clips_differ_from_step_to_step(journey):
    """Guards the test itself: a hundred equal batches would prove far less."""
    assert len({batch["video"].numpy().tobytes() for batch in journey.batches}) == STEPS


def test_what_a_recipe_draws_was_drawn(journey):
    """Guards the test itself: masks of more than one size, mixes and cuts, branches dropped and kept."""
    o = journey.recipe["objective"]
    if o["name"] == "vjepa2":
        for name in ("context.0", "target.0", "context.1", "target.1"):
            assert len({batch[name].shape for batch in journey.batches}) > 1, name
    if o.get("drop_path"):
        keep = torch.stack([batch["keep"] for batch in journey.batches])
        assert (keep[:, 0] == 1).all() and {round(v, 12) for v in keep[:, -1].unique().tolist()} == {0, 1.25}
    if o.get("mixup"):
        share = torch.cat([batch["mix_share"] for batch in journey.batches])
        box = torch.cat([batch["mix_box"] for batch in journey.batches])
        is_cut = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        assert 0.3 < is_cut.double().mean() < 0.7 and ((share > 0.05) & (share < 0.95)).double().mean() > 0.5
