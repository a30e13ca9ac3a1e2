"""What docs/learning.md fixes: tasks, methods, arms and their settings, as plain data and recipes.

Nothing here runs anything. A recipe is a dict; written as JSON it is a recipe file of keiko.
"""

import copy

# What synth draws; frames of a video and of a clip; steps of an arm.
TASKS = {
    "drift": {"synth": ["--task", "drift"], "frames": 8, "steps": 150},
    "sprites": {"synth": ["--task", "sprites"], "frames": 8, "steps": 300},
    "several": {"synth": ["--task", "sprites", "--sprites", "3"], "frames": 8, "steps": 300},
    "distractors": {"synth": ["--task", "sprites", "--sprites", "3", "--distractors", "2"], "frames": 8,
                    "steps": 300},
    "long": {"synth": ["--task", "drift"], "frames": 16, "steps": 150},
}
METHODS = {"future": "videomae", "tube": "videomae", "vjepa2": "vjepa2"}  # and their backbones
CONTROLS = ("single", "shuffled")
PROBES = ("linear", "attentive")

# Everything that a result depends on, but for the tasks and recipes below.
PROTOCOL = {
    "seeds": [1, 2, 3],
    "clips": {"train": 8000, "validation": 400, "test": 1000},
    "labelled": 500,  # of the training clips, a class: the first
    "labels": [2, 5, 10, 50, 0],  # a class; 0: all that are labelled
    "pretrain_steps": {"future": 1200, "tube": 1200, "vjepa2": 600},
    "pretrain_warmup": 100,
    "pretrain_batch": 64,
    "steps": {name: task["steps"] for name, task in TASKS.items()},
    "warmup": 15,
    "batch": 32,
    "rates": [3e-4, 1e-3, 3e-3],
    "linear_rates": [1e-3, 1e-2, 1e-1],
}
# For the runner's own test: its figures mean nothing.
QUICK = PROTOCOL | {
    "seeds": [1, 2],
    "clips": {"train": 48, "validation": 16, "test": 24},
    "labelled": 4,
    "labels": [2],
    "pretrain_steps": {"future": 2, "tube": 2, "vjepa2": 2},
    "pretrain_warmup": 1,
    "pretrain_batch": 8,
    "steps": {name: 2 for name in TASKS},
    "warmup": 1,
    "batch": 8,
    "rates": [1e-3, 3e-3],
}

ENCODER = {"model": "custom", "width": 96, "depth": 4, "heads": 3, "tubelet_size": 2, "patch_size": 8}
POSITIONS = {"videomae": "learned", "vjepa2": "rope"}
POOLER = {"pooler_depth": 0}
PIXELS = {"name": "videomae", **ENCODER, "positions": "learned", "decoder_width": 64, "decoder_depth": 2,
          "decoder_heads": 2, "norm_pix_loss": False, "pixel_target": "imagenet"}
PRETRAINING = {
    "future": ({**PIXELS, "mask": "future", "mask_ratio": 0.5}, {"weight_decay": 0.05, "betas": [0.9, 0.95]}),
    "tube": ({**PIXELS, "mask": "tube", "mask_ratio": 0.75}, {"weight_decay": 0.05, "betas": [0.9, 0.95]}),
    # Published blocks (8 x 0.15, 2 x 0.7) would hide nearly all of 4 x 4 places; the published momentum
    # (0.99925) would leave the teacher where it began after 600 steps.
    "vjepa2": ({"name": "vjepa2", **ENCODER, "predictor_width": 64, "predictor_depth": 2, "predictor_heads": 2,
                "masks": [{"blocks": 4, "scale": 0.15}, {"blocks": 1, "scale": 0.6}], "ema": [0.99, 1.0]},
               {"weight_decay": 0.04, "betas": [0.9, 0.999]}),
}


def arms(methods):
    """Names of the arms for these methods: (arm, kind, backbone, method or None), controls of a backbone first."""
    found = []
    for backbone in dict.fromkeys(METHODS[m] for m in methods):
        own = [m for m in methods if METHODS[m] == backbone]
        found.append((f"scratch-{backbone}", "scratch", backbone, None))
        found += [(f"finetune-{m}", "finetune", backbone, m) for m in own]
        for probe in PROBES:
            found.append((f"{probe}-random-{backbone}", probe, backbone, None))
            found += [(f"{probe}-{m}", probe, backbone, m) for m in own]
    return found


def control_of(arm):
    """The arm that this one is compared with, or None when it is such an arm itself."""
    kind, _, method = arm.partition("-")
    if kind == "scratch" or method not in METHODS:
        return None
    return f"scratch-{METHODS[method]}" if kind == "finetune" else f"{kind}-random-{METHODS[method]}"


def _recipe(task, seed, data, evaluated, clip=None):
    return copy.deepcopy({
        "seed": seed, "data": [data], "eval": {"data": [{"path": evaluated}], "batch_size": 50},
        "clip": {"num_frames": TASKS[task]["frames"], "sampling_rate": 1, "size": 32, **(clip or {})},
        "precision": "fp32", "train": {"threads": 1}, "loader": {"threads": 1},
        "checkpoint": {"every": 0, "keep": 1}, "log": {"every": 50}})


def pretraining_recipe(p, task, method, seed, train, test):
    """Pretraining on the catalogue `train`; at its end it is evaluated on `test`."""
    objective, optimizer = PRETRAINING[method]
    return _recipe(task, seed, {"path": train}, test) | {
        "objective": objective, "batch_size": p["pretrain_batch"], "steps": p["pretrain_steps"][method],
        "optimizer": {"base_lr": 1e-3, "warmup_steps": p["pretrain_warmup"], **optimizer},
        "checkpoint": {"every": 200, "keep": 1}}


def classifier_recipe(p, task, backbone, seed, train, validation, labels, rate, init_from="", frames="clip"):
    """Scratch or fine-tuning at one learning rate, judged on `validation`."""
    objective = {"name": "classification", "backbone": backbone, **ENCODER, "positions": POSITIONS[backbone]}
    if backbone == "vjepa2":
        objective |= POOLER
    return _recipe(task, seed, {"path": train, "items_per_class": labels or p["labelled"]}, validation, {"frames": frames}) | {
        "objective": objective, "batch_size": p["batch"], "steps": p["steps"][task], "init_from": init_from,
        "optimizer": {"base_lr": rate, "warmup_steps": p["warmup"], "weight_decay": 0.05}}


def probe_recipe(p, task, kind, backbone, seed, train, validation, labels, init_from=""):
    """A probe with one head for each rate, judged on `validation`."""
    objective = {"name": "probe", "backbone": backbone, **ENCODER, "positions": POSITIONS[backbone]}
    rates = p["linear_rates"]
    if kind == "attentive":
        rates = p["rates"]
        objective |= {"pooling": "attentive", "pooler_heads": 3, **POOLER}
    return _recipe(task, seed, {"path": train, "items_per_class": labels or p["labelled"]}, validation) | {
        "objective": objective | {"lr_scales": [r / rates[0] for r in rates]}, "batch_size": p["batch"],
        "steps": p["steps"][task], "init_from": init_from, "optimizer": {"base_lr": rates[0], "weight_decay": 0}}


# CPU-seconds of one core, measured on a shared cloud machine (AMD EPYC): of a process, of a clip.
START_S = 0.6
CLIP_S = {"synth": 0.002, "future": 0.0030, "tube": 0.0025, "vjepa2": 0.0075, "scratch": 0.0044, "finetune": 0.0044,
          "linear": 0.0018, "attentive": 0.0021, "eval": 0.0022, "eval-vjepa2": 0.012}
RIDGE_S = {"future": 22, "tube": 40}


def cost(p, task, part, steps=0, batch=0, evaluated=0):
    """Expected CPU-seconds of one training run and its evaluation."""
    longer = TASKS[task]["frames"] / 8
    look = CLIP_S["eval-vjepa2" if part == "vjepa2" else "eval"]
    return START_S + longer * (steps * batch * CLIP_S[part] + evaluated * look)
