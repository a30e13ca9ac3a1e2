"""V-JEPA 2 in plain PyTorch: a second opinion on Keiko's encoder, predictor, pooler and losses.

Written from the papers (V-JEPA 2, Assran et al. 2025; 2.1 for the context loss) and the published tensor
names with ordinary torch.nn modules and autograd: tokens are dropped after the patch embedding of whole
clips, masks are applied by gathering, nothing is fused. Runs in the dtype of its weights.
test_plain_vjepa2.py proves it against transformers' own float64 numbers.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from plain_videomae import Holder


def rotate(x, places, interleaved):
    """Rotary positions on queries or keys x [B, heads, N, d] at places [B, N, 3] (time, row, column).

    Each axis turns 2 * (d // 3 // 2) channels, the rest stay. Neighbours are a pair, whose members turn by
    angles of their own: V-JEPA 2 counts frequencies 0, 1, ..., h-1, 0, 1, ..., h-1; 2.1 0, 0, 1, 1, ....
    """
    part = 2 * (x.shape[-1] // 3 // 2)
    half, j = part // 2, torch.arange(part)
    frequency = 10000.0 ** -((j // 2 if interleaved else j % half).to(x.dtype) / half)
    turned = []
    for axis in range(3):
        y = x[..., axis * part:(axis + 1) * part]
        angle = places[:, None, :, axis, None].to(x.dtype) * frequency
        partner = torch.stack([-y[..., 1::2], y[..., 0::2]], -1).flatten(-2)
        turned.append(y * angle.cos() + partner * angle.sin())
    return torch.cat([*turned, x[..., 3 * part:]], -1)


def attend(q, k, v, heads, turn=lambda x: x):
    """Softmax attention of [B, N, D] projections; `turn` sees queries and keys by head."""
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    return F.scaled_dot_product_attention(turn(q), turn(k), v).transpose(1, 2).flatten(2)


def gather(x, ids):
    """Rows ids [B, K] of x [B, N, C]."""
    return torch.gather(x, 1, ids[..., None].expand(-1, -1, x.shape[2]))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm layer with rotary positions."""

    def __init__(self, c, width, heads, hidden):
        super().__init__()
        self.heads, self.interleaved = heads, c.get("keiko_positions") == "rope_interleaved"
        self.norm1, self.norm2 = (nn.LayerNorm(width, c["layer_norm_eps"]) for _ in range(2))
        self.attention = Holder(**{n: nn.Linear(width, width) for n in ("query", "key", "value", "proj")})
        self.mlp = Mlp(width, hidden)

    def forward(self, x, places, keep=None):
        """keep [2, B]: what the two branches of each clip are multiplied by (drop-path)."""
        first, second = (1, 1) if keep is None else keep[..., None, None].to(x)
        a, y = self.attention, self.norm1(x)
        attended = attend(a.query(y), a.key(y), a.value(y), self.heads, lambda z: rotate(z, places, self.interleaved))
        x = x + first * a.proj(attended)
        return x + second * self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, kernel = c["hidden_size"], (c["tubelet_size"], c["patch_size"], c["patch_size"])
        self.side = c["crop_size"] // c["patch_size"]
        self.embeddings = Holder(patch_embeddings=Holder(proj=nn.Conv3d(3, width, kernel, stride=kernel)))
        self.layer = nn.ModuleList(Block(c, width, c["num_attention_heads"], int(width * c["mlp_ratio"]))
                                   for _ in range(c["num_hidden_layers"]))
        self.layernorm = nn.LayerNorm(width, c["layer_norm_eps"])

    def places(self, ids):
        return torch.stack([ids // self.side**2, ids % self.side**2 // self.side, ids % self.side], -1)

    def forward(self, pixels, ids=None, keep=None):
        """pixels [B, T, 3, H, W] -> tokens [B, K, D]; ids [B, K]: the tokens that are left (default: all)."""
        x = self.embeddings.patch_embeddings.proj(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)
        if ids is None:
            ids = torch.arange(x.shape[1]).expand(len(x), -1)
        x = gather(x, ids)
        for i, layer in enumerate(self.layer):
            x = layer(x, self.places(ids), None if keep is None else keep[i])
        return self.layernorm(x)


class Predictor(nn.Module):
    def __init__(self, c, mask_token, says_context):
        super().__init__()
        width, heads = c["pred_hidden_size"], c["pred_num_attention_heads"]
        self.mask_token = mask_token % c["pred_num_mask_tokens"]
        self.embeddings = Holder(predictor_embeddings=nn.Linear(c["hidden_size"], width),
                                 mask_tokens=nn.Parameter(torch.zeros(c["pred_num_mask_tokens"], 1, 1, width)))
        self.layer = nn.ModuleList(Block(c, width, heads, int(width * c["pred_mlp_ratio"]))
                                   for _ in range(c["pred_num_hidden_layers"]))
        self.layernorm = nn.LayerNorm(width, c["layer_norm_eps"])
        self.proj = nn.Linear(width, c["hidden_size"])
        if says_context:
            self.proj_context = nn.Linear(width, c["hidden_size"])

    def forward(self, context, context_places, target_places):
        """Encoder tokens [B, K, D] -> (what the targets are said to be [B, M, D], the same of the context or None)."""
        seen = self.embeddings.predictor_embeddings(context)
        hidden = self.embeddings.mask_tokens[self.mask_token].expand(len(seen), target_places.shape[1], -1)
        x, places = torch.cat([seen, hidden], 1), torch.cat([context_places, target_places], 1)
        for layer in self.layer:
            x = layer(x, places)
        x, k = self.layernorm(x), seen.shape[1]
        return self.proj(x[:, k:]), self.proj_context(x[:, :k]) if hasattr(self, "proj_context") else None


class Pretraining(nn.Module):
    """Student encoder and predictor; the teacher is another Encoder, given to loss()."""

    def __init__(self, c, mask_token=1, says_context=False):
        super().__init__()
        self.encoder, self.predictor = Encoder(c), Predictor(c, mask_token, says_context)

    def said(self, pixels, context, target):
        places = self.encoder.places
        return self.predictor(self.encoder(pixels, context), places(context), places(target))

    def loss(self, teacher, pixels, splits, context_weight=0.0):
        """Mean over mask generators; splits: (context ids, target ids) of each."""
        with torch.no_grad():
            wanted = teacher(pixels)
            wanted = F.layer_norm(wanted, wanted.shape[-1:], eps=1e-5)
        losses = []
        for context, target in splits:
            said, said_context = self.said(pixels, context, target)
            losses.append((said - gather(wanted, target)).abs().mean())
            if said_context is not None:
                off = (said_context - gather(wanted, context)).abs().mean(2)
                losses[-1] = losses[-1] + context_weight * (off / self.distances(context, target).sqrt().to(off)).mean()
        return sum(losses) / len(losses)

    def distances(self, context, target):
        """From each context token to the nearest target, in tokens over time, row and column; [B, K]."""
        a, b = (self.encoder.places(ids).double() for ids in (context, target))
        return (a[:, :, None] - b[:, None]).square().sum(3).min(2).values.sqrt()


class PoolerBlock(nn.Module):
    """Pre-norm layer without positions."""

    def __init__(self, width, heads, eps):
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(width, eps) for _ in range(2))
        self.self_attn = Holder(**{n: nn.Linear(width, width) for n in ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x):
        a, y = self.self_attn, self.layer_norm1(x)
        x = x + a.out_proj(attend(a.q_proj(y), a.k_proj(y), a.v_proj(y), self.heads))
        return x + self.mlp(self.layer_norm2(x))


class Pooler(nn.Module):
    """Self-attention blocks, then one learned query attends to all tokens; no projection after it."""

    def __init__(self, c):
        super().__init__()
        width, self.heads, eps = c["hidden_size"], c["num_attention_heads"], c["layer_norm_eps"]
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.self_attention_layers = nn.ModuleList(PoolerBlock(width, self.heads, eps)
                                                   for _ in range(c["num_pooler_layers"]))
        self.cross_attention_layer = Holder(
            layer_norm1=nn.LayerNorm(width, eps), layer_norm2=nn.LayerNorm(width, eps), mlp=Mlp(width, 4 * width),
            cross_attn=Holder(**{n: nn.Linear(width, width) for n in ("q_proj", "k_proj", "v_proj")}))

    def forward(self, x):
        for layer in self.self_attention_layers:
            x = layer(x)
        query, cross = self.query_tokens.expand(len(x), -1, -1), self.cross_attention_layer
        a, y = cross.cross_attn, cross.layer_norm1(x)
        query = query + attend(a.q_proj(query), a.k_proj(y), a.v_proj(y), self.heads)
        return (query + cross.mlp(cross.layer_norm2(query)))[:, 0]


class Classifier(nn.Module):
    def __init__(self, c, classes):
        super().__init__()
        self.vjepa2, self.pooler = Holder(encoder=Encoder(c)), Pooler(c)
        self.classifier = nn.Linear(c["hidden_size"], classes)

    def forward(self, pixels, keep=None):
        return self.classifier(self.pooler(self.vjepa2.encoder(pixels, keep=keep)))

    def loss(self, pixels, targets, label_smoothing=0.0, keep=None):
        return F.cross_entropy(self(pixels, keep), targets, label_smoothing=label_smoothing)


def load(folder, dtype=torch.float64, mask_token=1):
    """The model of a checkpoint folder; every tensor must be used, but a predictor beside a classifier, and a
    regression's statistics of its targets."""
    c = json.loads((Path(folder) / "config.json").read_text())
    weights = load_file(Path(folder) / "model.safetensors")
    classes = weights.get("classifier.weight")
    if classes is None:
        model = Pretraining(c, mask_token, "predictor.proj_context.weight" in weights)
    else:
        model = Classifier(c, len(classes))
        weights = {n: w for n, w in weights.items() if not n.startswith(("vjepa2.predictor.", "regression."))}
    model = model.to(dtype)
    model.load_state_dict(weights, strict=True)
    return model


def load_teacher(folder, dtype=torch.float64):
    """The averaged encoder of a pretraining checkpoint (ema.safetensors)."""
    teacher = Holder(encoder=Encoder(json.loads((Path(folder) / "config.json").read_text()))).to(dtype)
    teacher.load_state_dict(load_file(Path(folder) / "ema.safetensors"), strict=True)
    return teacher.requires_grad_(False)
