"""A checkpoint folder opens in transformers as it is and computes there what it computes in Keiko.

Truth: transformers' VideoMAEForPreTraining and VideoMAEForVideoClassification.
"""

import math

import pytest
import torch
import transformers

import plain_videomae
import runs

MODELS = {"videomae": (runs.PRETRAIN, transformers.VideoMAEForPreTraining),
          "classification": (runs.CLASSIFY, transformers.VideoMAEForVideoClassification)}
# float32 on both sides: the golden README saw 1.2e-7 between implementations of one loss.
RTOL = 1e-5


def opened(model_class, folder):
    """The model of a checkpoint folder, every tensor accounted for."""
    model, report = model_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report.get(what), f"{folder}: {what}: {report[what]}"
    return model.eval()


def loss_and_logits(model, batch):
    pixels = plain_videomae.normalise_pixels(batch["video"], torch.float32)
    with torch.no_grad():
        if "mask" in batch:
            out = model(pixels, bool_masked_pos=batch["mask"])
        else:
            out = model(pixels, labels=batch["label"])
    return out.loss.item(), out.logits


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_losses_that_keiko_logged(keiko, drift, train, tmp_path, name):
    """Before training (checkpoint 0, loss of step 1) and after three steps (checkpoint 3, loss of step 4)."""
    base, model_class = MODELS[name]
    changes = {"data": str(drift / "train.kix"), "steps": 4, "optimizer.base_lr": 0.01}
    for steps in (0, 3):
        run = train("run", base, changes, f"steps={steps}")
    train("run", base, changes)
    batches = runs.preview_tensors(keiko, run, tmp_path / "b.safetensors", steps=4)
    logged = {line["step"]: line["loss"] for line in runs.metrics(run)}
    for step in (0, 3):
        model = opened(model_class, runs.checkpoint(run, step))
        loss, logits = loss_and_logits(model, batches[step])
        assert math.isclose(loss, logged[step + 1], rel_tol=RTOL), \
            f"step {step + 1}: Keiko logged {logged[step + 1]}, transformers has {loss}"
        plain = plain_videomae.load(runs.checkpoint(run, step), torch.float32)
        pixels = plain_videomae.normalise_pixels(batches[step]["video"], torch.float32)
        own = plain(pixels, batches[step]["mask"]) if "mask" in batches[step] else plain(pixels)
        assert runs.scaled_difference(own.detach(), logits) < RTOL


@pytest.mark.parametrize("name", MODELS)
def test_config_json_says_what_the_recipe_said(drift, train, name):
    """transformers' own reading of it; a 32 x 32 model of 8 frames, 48 wide, with the recipe's epsilon."""
    base, model_class = MODELS[name]
    run = train("run", base, {"data": str(drift / "train.kix")}, "steps=0")
    c = opened(model_class, runs.checkpoint(run)).config
    size = c.image_size if isinstance(c.image_size, int) else max(c.image_size)
    assert (size, c.num_frames, c.patch_size, c.tubelet_size) == (32, 8, 8, 2)
    assert (c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size) == (48, 2, 4, 96)
    assert c.layer_norm_eps == 1e-6 and c.hidden_act == "gelu"
    assert c.use_mean_pooling == (name == "classification")
    if name == "classification":
        assert c.num_labels == 8
    else:
        assert (c.decoder_hidden_size, c.decoder_num_hidden_layers, c.decoder_num_attention_heads) == (32, 1, 2)
        assert c.norm_pix_loss is True


def test_plain_pixels_are_a_target_too(keiko, drift, train, tmp_path):
    """norm_pix_loss false, against transformers."""
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix"), "objective.norm_pix_loss": False, "steps": 1},
                "steps=0")
    train("run", runs.PRETRAIN, {"data": str(drift / "train.kix"), "objective.norm_pix_loss": False, "steps": 1})
    [batch] = runs.preview_tensors(keiko, run, tmp_path / "b.safetensors")
    model = opened(transformers.VideoMAEForPreTraining, runs.checkpoint(run, 0))
    loss, _ = loss_and_logits(model, batch)
    assert math.isclose(loss, runs.metrics(run)[0]["loss"], rel_tol=RTOL)
