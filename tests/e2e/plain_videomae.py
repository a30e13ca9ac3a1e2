"""VideoMAE in plain PyTorch: a second opinion on Keiko's model and losses.

Written from the paper and the published tensor names with ordinary torch.nn modules and autograd, so
that it shares neither code nor structure with Keiko. Parameters carry the names of the published
checkpoints, so load_state_dict(strict=True) proves that a checkpoint is complete. Runs in the dtype
of its weights. test_plain_videomae.py proves it against transformers' own float64 numbers.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

# ImageNet statistics, rounded to float32 whatever the dtype, as transformers does.
MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float32).reshape(1, 1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float32).reshape(1, 1, 3, 1, 1)


def normalise_pixels(video, dtype):
    """uint8 [B,3,T,H,W], as a batch holds it -> normalised [B,T,3,H,W], as the model takes it."""
    x = video.permute(0, 2, 1, 3, 4).to(dtype) / 255
    return (x - MEAN.to(dtype)) / STD.to(dtype)


def position_table(tokens, width):
    """[tokens, width] float32: sine on even, cosine on odd channels; computed in double, rounded once."""
    j = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos()).float()


class Holder(nn.Module):
    """Gives its parts the nested names of the published checkpoints."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x):
        def by_head(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = self.query(x) + self.q_bias, self.key(x), self.value(x) + self.v_bias
        return F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v)).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Pre-norm transformer layer with exact GELU."""

    def __init__(self, width, heads, hidden, eps):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps)
        self.attention = Holder(attention=Attention(width, heads), output=Holder(dense=nn.Linear(width, width)))
        self.layernorm_after = nn.LayerNorm(width, eps)
        self.intermediate = Holder(dense=nn.Linear(width, hidden))
        self.output = Holder(dense=nn.Linear(hidden, width))

    def forward(self, x, keep=None):
        """keep [2, B]: what the two branches of each clip are multiplied by (drop-path)."""
        first, second = (1, 1) if keep is None else keep[..., None, None].to(x)
        x = x + first * self.attention.output.dense(self.attention.attention(self.layernorm_before(x)))
        return x + second * self.output.dense(F.gelu(self.intermediate.dense(self.layernorm_after(x))))


def blocks(count, *args):
    return nn.ModuleList(Block(*args) for _ in range(count))


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, kernel = c["hidden_size"], (c["tubelet_size"], c["patch_size"], c["patch_size"])
        self.embeddings = Holder(patch_embeddings=Holder(projection=nn.Conv3d(3, width, kernel, stride=kernel)))
        self.encoder = Holder(layer=blocks(c["num_hidden_layers"], width, c["num_attention_heads"],
                                           c["intermediate_size"], c["layer_norm_eps"]))
        self.layernorm = None if c["use_mean_pooling"] else nn.LayerNorm(width, c["layer_norm_eps"])

    def forward(self, pixels, masked=None, keep=None):
        x = self.embeddings.patch_embeddings.projection(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = x + position_table(x.shape[1], x.shape[2]).to(x)
        if masked is not None:  # only visible tokens enter the encoder, in raster order
            x = x[~masked].unflatten(0, (len(x), -1))
        for i, layer in enumerate(self.encoder.layer):
            x = layer(x, None if keep is None else keep[i])
        return x if self.layernorm is None else self.layernorm(x)


def patch_targets(pixels, tubelet, patch, per_patch):
    """[B, tokens, tubelet*patch*patch*3], in the order time, row, column, channel; from pixels in [0, 1].

    per_patch (norm_pix_loss): each token and channel gets mean 0 and (unbiased) variance 1.
    """
    x = pixels * STD.to(pixels.dtype) + MEAN.to(pixels.dtype)
    x = x.unflatten(1, (-1, tubelet)).unflatten(4, (-1, patch)).unflatten(6, (-1, patch))
    x = torch.einsum("btucivjw->btijuvwc", x).flatten(1, 3).flatten(2, 4)  # [B, tokens, values, channel]
    if per_patch:
        x = (x - x.mean(2, keepdim=True)) / (x.std(2, unbiased=True, keepdim=True) + 1e-6)
    return x.flatten(2)


class Pretraining(nn.Module):
    """Masked autoencoder: the decoder sees the encoded visible tokens, then a mask token per hidden one."""

    def __init__(self, c):
        super().__init__()
        self.c, width = c, c["decoder_hidden_size"]
        self.videomae = Encoder(c)
        self.encoder_to_decoder = nn.Linear(c["hidden_size"], width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = Holder(
            decoder_layers=blocks(c["decoder_num_hidden_layers"], width, c["decoder_num_attention_heads"],
                                  c["decoder_intermediate_size"], c["layer_norm_eps"]),
            norm=nn.LayerNorm(width, 1e-5),
            head=nn.Linear(width, 3 * c["tubelet_size"] * c["patch_size"] ** 2))

    def forward(self, pixels, masked):
        """Predictions for the masked tokens, [B, masked, values]."""
        visible = self.encoder_to_decoder(self.videomae(pixels, masked))
        positions = position_table(masked.shape[1], visible.shape[2]).to(visible).expand(len(masked), -1, -1)
        x = torch.cat([visible + positions[~masked].unflatten(0, (len(masked), -1)),
                       self.mask_token + positions[masked].unflatten(0, (len(masked), -1))], 1)
        for layer in self.decoder.decoder_layers:
            x = layer(x)
        return self.decoder.head(self.decoder.norm(x[:, visible.shape[1]:]))

    def targets(self, pixels, masked):
        values = patch_targets(pixels, self.c["tubelet_size"], self.c["patch_size"], self.c["norm_pix_loss"])
        return values[masked].unflatten(0, (len(masked), -1))

    def loss(self, pixels, masked):
        return F.mse_loss(self(pixels, masked), self.targets(pixels, masked))


class Classifier(nn.Module):
    """Encoder, mean over tokens, norm, linear layer."""

    def __init__(self, c, classes):
        super().__init__()
        assert c["use_mean_pooling"], "only the mean-pooling classifier is written here"
        self.videomae = Encoder(c)
        self.fc_norm = nn.LayerNorm(c["hidden_size"], 1e-5)
        self.classifier = nn.Linear(c["hidden_size"], classes)

    def forward(self, pixels, keep=None):
        return self.classifier(self.fc_norm(self.videomae(pixels, keep=keep).mean(1)))

    def loss(self, pixels, targets, label_smoothing=0.0, keep=None):
        """targets: a class of each clip, or the share of every class."""
        return F.cross_entropy(self(pixels, keep), targets, label_smoothing=label_smoothing)


def load(folder, dtype=torch.float64):
    """The model of a checkpoint folder (config.json, model.safetensors); every tensor must be used, but a
    regression's statistics of its targets, which stand beside the model."""
    c = json.loads((Path(folder) / "config.json").read_text())
    weights = load_file(Path(folder) / "model.safetensors")
    weights = {n: w for n, w in weights.items() if not n.startswith("regression.")}
    classes = weights.get("classifier.weight")
    model = Pretraining(c) if classes is None else Classifier(c, len(classes))
    model = model.to(dtype)
    model.load_state_dict(weights, strict=True)
    return model
