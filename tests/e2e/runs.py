"""Recipes and run folders as plain data: what goes into keiko and what it leaves behind."""

import copy
import json
import math
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

COMMON = {
    "seed": 7,
    "clip": {"num_frames": 8, "sampling_rate": 1, "size": 32},
    "augment": {"flip": 0},
    "objective": {"model": "custom", "width": 48, "depth": 2, "heads": 4, "mlp_ratio": 2.0, "tubelet_size": 2,
                  "patch_size": 8, "positions": "sinusoid", "layer_norm_eps": 1e-6},
    "batch_size": 8,
    "micro_batch_size": 4,
    "steps": 5,
    "optimizer": {"base_lr": 0.001, "lr_scale": {"linear": 0}, "warmup_steps": 2, "weight_decay": 0.05,
                  "betas": [0.9, 0.95], "eps": 1e-8, "clip_grad": 1.0},
    "precision": "fp32",
    "train": {"threads": 1},
    "loader": {"threads": 1, "prefetch": 2},
    "checkpoint": {"every": 1000, "keep": 100},
    "log": {"every": 1, "samples": True},
}


def changed(base, changes):
    """A copy of `base` with changes {"optimizer.base_lr": 1}; the value None removes the key."""
    recipe = copy.deepcopy(base)
    for path, value in changes.items():
        *folders, name = path.split(".")
        here = recipe
        for folder in folders:
            here = here.setdefault(folder, {})
        if value is None:
            here.pop(name, None)
        else:
            here[name] = value
    return recipe


PRETRAIN = changed(COMMON, {
    "augment.flip": 0.5, "objective.name": "videomae", "objective.mask": "tube", "objective.mask_ratio": 0.75,
    "objective.norm_pix_loss": True, "objective.decoder_width": 32, "objective.decoder_depth": 1,
    "objective.decoder_heads": 2})

CLASSIFY = changed(COMMON, {"objective.name": "classification", "objective.label_smoothing": 0.0})

# Heads of 16 and 12 channels: rotary positions leave 4 and 0 of them as they are. Two kinds of masks, and a
# teacher that slows down within the few steps of a test.
VJEPA2 = changed(COMMON, {
    "augment.flip": 0.5, "objective.name": "vjepa2", "objective.heads": 3, "objective.positions": "rope",
    "objective.predictor_width": 24, "objective.predictor_depth": 1, "objective.predictor_heads": 2,
    "objective.masks": [{"blocks": 2, "scale": 0.2}, {"blocks": 1, "scale": 0.5}], "objective.ema": [0.9, 1.0]})

# Everything that fine-tuning draws: several views of a clip, mixed pairs, dropped branches; averaged weights.
# What belongs together (two views each of two clips) comes to a rank whole: 12 clips are three such groups.
FINE_TUNE = changed(CLASSIFY, {
    "batch_size": 12, "augment.repeats": 2, "augment.flip": 0.5, "objective.label_smoothing": 0.1, "objective.mixup": 0.8,
    "objective.cutmix": 1.0, "objective.drop_path": 0.2, "objective.ema": 0.9, "optimizer.layer_decay": 0.75})

OBJECTIVES = {"videomae": PRETRAIN, "classification": CLASSIFY, "vjepa2": VJEPA2, "fine-tuning": FINE_TUNE}


def write_recipe(path, base, changes=None):
    """Writes a recipe file and returns its path."""
    Path(path).write_text(yaml.safe_dump(changed(base, changes or {}), sort_keys=False, allow_unicode=True))
    return path


def json_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def metrics(run, kind="train"):
    """The lines of metrics.jsonl of one kind, in file order."""
    return [line for line in json_lines(run / "metrics.jsonl") if line["kind"] == kind]


def samples(run, rank=0):
    return json_lines(run / f"samples-{rank}.jsonl")


def checkpoint(run, step=None):
    """The folder of a committed checkpoint; the newest by default."""
    name = f"step-{step:08d}" if step is not None else (run / "checkpoints" / "latest").read_text().strip()
    folder = run / "checkpoints" / name
    assert (folder / "COMMIT").exists(), f"{folder} has no COMMIT"
    return folder


def weights(run, step=None, file="model.safetensors"):
    return load_file(checkpoint(run, step) / file)


def moments(run, step=None):
    """The optimiser's whole state, joined from the parts that a checkpoint holds, in the order of their numbers."""
    folder = checkpoint(run, step)
    parts = sorted(folder.glob("optimizer-*.safetensors"), key=lambda p: int(p.name.split("-")[1]))
    loaded = [load_file(p) for p in parts]
    return {name: torch.cat([part[name] for part in loaded]) for name in loaded[0]}


def preview_tensors(keiko, target, file, step=0, steps=1):
    """The batches of steps [step, step + steps) exactly as the model gets them: [{name: tensor}]."""
    keiko("preview", target, "--step", step, "--tensors", file, "--steps", steps)
    flat = load_file(file)
    batches = [{} for _ in range(steps)]
    for key, tensor in flat.items():
        k, name = key.split("/")
        batches[int(k) - step][name] = tensor
    return batches


def scaled_difference(a, b):
    """max|a - b| over the largest value of b: the golden README's measure."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-300)).item()


def half_cosine(first, last, share):
    """From first to last along half a cosine; share of the way in [0, 1]."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


def learning_rate(recipe, s):
    """Linear warm-up, then half a cosine, a straight line or nothing; s counts updates from 0."""
    o, steps = recipe["optimizer"], recipe["steps"]
    warmup, low, high = o["warmup_steps"], o.get("min_lr", 0.0), o["base_lr"]
    if s < warmup:
        return o.get("warmup_lr", 0.0) + (high - o.get("warmup_lr", 0.0)) * s / warmup
    share = (s - warmup) / (steps - warmup)
    return {"cosine": half_cosine(high, low, share), "linear": high + (low - high) * share,
            "constant": high}[o.get("schedule", "cosine")]


def weight_decay(recipe, s):
    """Constant, or half a cosine over the whole run to weight_decay_end."""
    o = recipe["optimizer"]
    first, last = o["weight_decay"], o.get("weight_decay_end", -1)
    return first if last < 0 else half_cosine(first, last, s / recipe["steps"])


def numbers_in(tree):
    """All numbers anywhere in parsed JSON."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [n for branch in tree for n in numbers_in(branch)]
    return [tree] if isinstance(tree, (int, float)) and not isinstance(tree, bool) else []
