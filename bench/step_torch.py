#!/usr/bin/env python3
"""Keiko's training step written well in plain PyTorch: what `keiko bench step` has to beat besides a plain model.

The same algorithm, with what a careful PyTorch user can do from Python, eagerly or under torch.compile:

- patches are taken from the uint8 clip before anything else, so only those that are embedded become floats, and the
  embedding is one product;
- targets come from the hidden uint8 patches alone; only hidden tokens go through the decoder's head, and the decoder's
  last block computes nothing for the tokens that the head leaves out, except their keys and values;
- query, key and value are one product, whose bias has a constant part of zeros for the keys;
- scaled_dot_product_attention; fused AdamW over two long vectors, in which all parameters and gradients are views.

Prints one JSON object with the fields of `keiko bench step --json -`. FLOPs are counted by torch on meta tensors with
attention written out, because its counter does not see the CPU's fused attention.

Usage: step_torch.py --model videomae-s --batch 4 --steps 6 --threads 2 [--compile]
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENCODER = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}  # width, depth, heads
DECODER = {"s": (192, 4, 3), "b": (384, 4, 6), "l": (512, 12, 8), "h": (640, 12, 8)}
TUBELET, PATCH = 2, 16
PIXELS = TUBELET * PATCH * PATCH
CLASSES = 400
HIDDEN_SHARE = 0.9


class Block(nn.Module):
    """Pre-norm transformer block. `first`: tokens before it give keys and values, and are not returned."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("k_bias", torch.zeros(width), persistent=False)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, first=0):
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = F.linear(self.norm1(x), self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q[:, :, first:], k, v)
        x = x[:, first:] + self.proj(y.transpose(1, 2).reshape(b, n - first, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def sinusoids(tokens, width):
    j = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


def patches_of(clips):
    """uint8 [B, 3, T, H, W] -> uint8 [B, N, 3, pixels]."""
    b, _, t, h, w = clips.shape
    x = clips.view(b, 3, t // TUBELET, TUBELET, h // PATCH, PATCH, w // PATCH, PATCH)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, 3, PIXELS)


def rows(table, ids):
    """Rows `ids` [B, K] of [B, N, ...] -> [B, K, ...]."""
    starts = torch.arange(len(ids), device=ids.device)[:, None] * table.shape[1]
    return table.flatten(0, 1).index_select(0, (ids + starts).flatten()).unflatten(0, ids.shape)


class Encoder(nn.Module):
    def __init__(self, size, grid):
        super().__init__()
        width, depth, heads = ENCODER[size]
        self.width = width
        self.embed = nn.Linear(3 * PIXELS, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.register_buffer("positions", sinusoids(grid[0] * grid[1] * grid[2], width), persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None], persistent=False)

    def forward(self, patches, ids=None):
        x = self.embed(((patches.float() / 255 - self.mean) / self.std).flatten(2))
        x = x + (self.positions if ids is None else self.positions[ids])
        for block in self.blocks:
            x = block(x)
        return x


class Pretraining(nn.Module):
    def __init__(self, size, grid):
        super().__init__()
        self.grid = grid
        width, depth, heads = DECODER[size]
        self.encoder = Encoder(size, grid)
        self.norm = nn.LayerNorm(self.encoder.width, eps=1e-6)
        self.to_decoder = nn.Linear(self.encoder.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.decoder_norm, self.head = nn.LayerNorm(width, eps=1e-5), nn.Linear(width, 3 * PIXELS)
        self.register_buffer("positions", sinusoids(grid[0] * grid[1] * grid[2], width), persistent=False)

    def draw(self, batch, generator):
        """Token indices that are seen and hidden: one mask of places for all times of a clip."""
        times, places = self.grid[0], self.grid[1] * self.grid[2]
        seen = places - int(HIDDEN_SHARE * places)
        order = torch.rand(batch, places, generator=generator).argsort(1)
        first = (torch.arange(times) * places)[:, None]
        return tuple((part.sort(1).values[:, None] + first).flatten(1) for part in (order[:, :seen], order[:, seen:]))

    def forward(self, clips, visible, hidden):
        patches = patches_of(clips)
        seen = self.to_decoder(self.norm(self.encoder(rows(patches, visible), visible))) + self.positions[visible]
        x = torch.cat((seen, self.mask_token + self.positions[hidden]), 1)
        for block in self.decoder[:-1]:
            x = block(x)
        predicted = self.head(self.decoder_norm(self.decoder[-1](x, first=visible.shape[1])))
        with torch.no_grad():  # in units of a 255th: 1e-6 of the unit interval is 255e-6
            pixels = rows(patches, hidden).float()
            variance, mean = torch.var_mean(pixels, 3, correction=1, keepdim=True)
            wanted = ((pixels - mean) / (variance.sqrt() + 255e-6)).transpose(2, 3).flatten(2)
        return F.mse_loss(predicted.float(), wanted)


class Classifier(nn.Module):
    def __init__(self, size, grid):
        super().__init__()
        self.encoder = Encoder(size, grid)
        self.norm, self.head = nn.LayerNorm(self.encoder.width, eps=1e-5), nn.Linear(self.encoder.width, CLASSES)

    def draw(self, batch, generator):
        return (torch.randint(0, CLASSES, (batch,), generator=generator),)

    def forward(self, clips, labels):
        logits = self.head(self.norm(self.encoder(patches_of(clips)).mean(1)))
        return F.cross_entropy(logits.float(), labels)


MODELS = {"videomae": Pretraining, "classify": Classifier}


def flatten(parameters):
    """Moves the parameters and their gradients into one vector each; returns the vector, a leaf with .grad."""
    flat = torch.cat([p.detach().flatten() for p in parameters])
    flat.grad = torch.zeros_like(flat)
    start = 0
    for p in parameters:
        p.data = flat[start:start + p.numel()].view(p.shape)
        p.grad = flat.grad[start:start + p.numel()].view(p.shape)
        start += p.numel()
    return flat


def count_flops(kind, size, frames, side):
    """Of one clip, forward and backward."""
    with torch.device("meta"):
        model = MODELS[kind](size, (frames // TUBELET, side // PATCH, side // PATCH))
        clips = torch.empty(1, 3, frames, side, side, dtype=torch.uint8)
    drawn = [x.to("meta") for x in model.draw(1, torch.Generator().manual_seed(0))]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(clips, *drawn).backward()
    return counter.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="videomae-s", help="videomae-{s,b,l,h} or classify-{s,b,l,h}")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="bf16: autocast, weights stay float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    cuda = a.device.startswith("cuda")
    if cuda:
        torch.set_float32_matmul_precision("high")
    kind, size = a.model.rsplit("-", 1)
    grid = (a.frames // TUBELET, a.side // PATCH, a.side // PATCH)
    model = MODELS[kind](size, grid).to(a.device)
    decayed = flatten([p for p in model.parameters() if p.ndim > 1])
    plain = flatten([p for p in model.parameters() if p.ndim <= 1])
    optimizer = torch.optim.AdamW([{"params": [decayed], "weight_decay": 0.05}, {"params": [plain], "weight_decay": 0.0}],
                                  lr=1.5e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if a.compile else model
    generator = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 256, (a.batch, 3, a.frames, a.side, a.side), dtype=torch.uint8, generator=generator)
    clips = clips.to(a.device)

    def synchronized():
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step():
        """The loss, and seconds of its parts."""
        at = [synchronized()]
        decayed.grad.zero_()
        plain.grad.zero_()
        at.append(synchronized())
        with torch.autocast(a.device.split(":")[0], torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = run(clips, *(x.to(a.device) for x in model.draw(a.batch, generator)))
        at.append(synchronized())
        loss.backward()
        at.append(synchronized())
        torch.linalg.vector_norm(torch.stack([decayed.grad.norm(), plain.grad.norm()])).item()
        at.append(synchronized())
        optimizer.step()
        at.append(synchronized())
        return loss.item(), [after - before for before, after in zip(at, at[1:])]

    first, _ = step()
    for _ in range(a.warmup):
        step()
    parts = []
    for _ in range(a.steps):
        last, seconds = step()
        parts.append(seconds)
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = [sum(seconds) for seconds in parts]
    names = ("zero_grad", "forward", "backward", "norm", "optimizer")
    print(json.dumps({
        "model": a.model, "batch": a.batch, "frames": a.frames, "side": a.side, "device": a.device, "dtype": a.dtype,
        "compile": a.compile, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_clip": count_flops(kind, size, a.frames, a.side),
        "step_s": {"min": min(times), "median": statistics.median(times), "max": max(times), "all": times},
        "parts_s": {name: statistics.median(column) for name, column in zip(names, zip(*parts))},
        "clips_per_s": a.batch / statistics.median(times), "peak_bytes": peak, "loss": [first, last]}))


if __name__ == "__main__":
    main()
