"""The textbook training loop in plain PyTorch: a second opinion on Keiko's steps, whatever the model.

Whole batches, autograd, torch.optim.AdamW with a group for each parameter, clip_grad_norm_. What is
learned and what is averaged come as functions, so that every objective runs through this one loop.
"""

import re

import torch

import runs

TOKENS = ("mask_token", "mask_tokens", "query_tokens")


def decays(name, parameter):
    """Weight decay is for matrices and kernels alone: not for norms, biases and learned tokens."""
    return parameter.ndim >= 2 and name.split(".")[-1] not in TOKENS


def layers_below_head(name, depth):
    """0 for the head, 1 for the last block (and the norm after it), depth + 1 for the patch embedding."""
    if layer := re.search(r"\bencoder\.layer\.(\d+)\.", name):
        return depth - int(layer[1])
    if re.search(r"\bencoder\.layernorm\.", name):
        return 1
    return depth + 1 if ".embeddings." in name else 0


def adamw(model, recipe):
    """torch.optim.AdamW, a group for each parameter; every group knows its share of the learning rate."""
    o, depth = recipe["optimizer"], recipe["objective"]["depth"]
    layer_decay = o.get("layer_decay", 1)
    groups = [{"params": [p], "decays": decays(name, p),
               "share": 1 if layer_decay == 1 else layer_decay ** layers_below_head(name, depth)}
              for name, p in model.named_parameters()]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(o["betas"]), eps=o["eps"], foreach=False)


def train(model, batches, recipe, batch_loss, after_update=lambda step: None):
    """Yields {loss, lr, grad_norm} of each step.

    batch_loss(batch, step): the mean loss over the clips of a previewed batch, with its graph.
    after_update(step): for moving averages. Steps count from 0.
    """
    optimizer = adamw(model, recipe)
    limit = recipe["optimizer"]["clip_grad"] or float("inf")
    for s, batch in enumerate(batches):
        lr, weight_decay = runs.learning_rate(recipe, s), runs.weight_decay(recipe, s)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"]
            group["weight_decay"] = weight_decay if group["decays"] else 0.0
        optimizer.zero_grad()
        loss = batch_loss(batch, s)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        after_update(s)
        yield {"loss": loss.item(), "lr": lr, "grad_norm": norm.item()}


@torch.no_grad()
def follow(average, model, momentum):
    """Exponential moving average of parameters: momentum of the old, the rest of the new, name by name."""
    leader = dict(model.named_parameters())
    for name, mine in average.named_parameters():
        mine.copy_(momentum * mine + (1 - momentum) * leader[name])


def mixed(pixels, batch):
    """Mixup and CutMix as the batch's fields say; [B, T, 3, H, W] of floats, untouched without such fields."""
    if "mix_share" not in batch:
        return pixels
    out = pixels.clone()
    for i, (share, partner, box) in enumerate(zip(batch["mix_share"], batch["mix_partner"], batch["mix_box"])):
        top, left, bottom, right = box.tolist()
        if bottom > top and right > left:
            out[i, ..., top:bottom, left:right] = pixels[partner, ..., top:bottom, left:right]
        else:
            out[i] = share.item() * pixels[i] + (1 - share.item()) * pixels[partner]
    return out


def mixed_labels(batch, classes):
    """The share of each class in each clip, float64 [B, classes]."""
    own = torch.nn.functional.one_hot(batch["label"], classes).double()
    if "mix_share" not in batch:
        return own
    share = batch["mix_share"][:, None]
    return share * own + (1 - share) * own[batch["mix_partner"]]
