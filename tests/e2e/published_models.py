"""Tiny published models with random values in every tensor, and what transformers computes from them.

Truth: transformers' own models, made tiny, with random values in every tensor (a bias left at zero
would hide one that is not read), in all dtypes and spellings that the Hub has. Everything is computed
in float64 from the same numbers, so a wrong tensor anywhere shows.
"""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import plain_videomae
import runs

TOLERANCE = 1e-9  # float64 on both sides; measured: some 1e-14
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

VIDEOMAE = dict(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
                num_attention_heads=3, intermediate_size=56, decoder_hidden_size=16, decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2, decoder_intermediate_size=37, layer_norm_eps=1e-6)
VJEPA2 = dict(patch_size=8, crop_size=16, frames_per_clip=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
              num_attention_heads=2, mlp_ratio=2, pred_hidden_size=12, pred_num_attention_heads=1,
              pred_num_hidden_layers=1, pred_num_mask_tokens=3, num_pooler_layers=1)
NAMES = {i: f"class {i}" for i in range(5)}
MODELS = {
    "VideoMAEModel": lambda: transformers.VideoMAEModel(transformers.VideoMAEConfig(**VIDEOMAE)),
    "VideoMAEForPreTraining": lambda: transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(**VIDEOMAE, use_mean_pooling=False)),
    "VideoMAEForVideoClassification": lambda: transformers.VideoMAEForVideoClassification(
        transformers.VideoMAEConfig(**VIDEOMAE, id2label=NAMES)),
    "VJEPA2Model": lambda: transformers.VJEPA2Model(transformers.VJEPA2Config(**VJEPA2)),
    "VJEPA2ForVideoClassification": lambda: transformers.VJEPA2ForVideoClassification(
        transformers.VJEPA2Config(**VJEPA2, id2label=NAMES)),
}


def made(name, seed=0):
    """A model with random values in every tensor, biases and norms included."""
    model = MODELS[name]().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2 + (0.1 if tensor.dim() == 1 else 0))
    return model


@pytest.fixture
def saved(tmp_path):
    """saved(name, dtype, ...): a folder as transformers writes it, and the model that reads it back."""

    def save(name, dtype="fp32", shards=False, folder="hub"):
        model = made(name).to(DTYPES[dtype])
        model.save_pretrained(tmp_path / folder, max_shard_size="9KB" if shards else "5GB")
        assert (tmp_path / folder / "model.safetensors.index.json").exists() == shards
        return tmp_path / folder, opened(name, tmp_path / folder)

    return save


def opened(name, folder):
    """The folder in transformers, in float64, with no tensor missing and none left over."""
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, dtype=torch.float64)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report.get(what), f"{folder}: {what}: {report[what]}"
    return model.eval()


def clips(count=2, frames=4, size=16, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, frames, size, size), generator=generator, dtype=torch.uint8)


def outputs_of(model, video):
    """transformers' last tokens and logits, by Keiko's names for them."""
    pixels = plain_videomae.normalise_pixels(video, torch.float64)
    base = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        if model.base_model_prefix == "vjepa2":
            out = {"tokens": base(pixels, skip_predictor=True).last_hidden_state}
        else:
            out = {"tokens": base(pixels).last_hidden_state}
        if type(model).__name__.endswith("Classification"):
            out["logits"] = model(pixels).logits
    return out


def features(keiko, source, video, tmp_path, *options, check=True):
    save_file({"video": video}, tmp_path / "clips.safetensors")
    keiko("features", source, "--input", tmp_path / "clips.safetensors", "--out", tmp_path / "f.safetensors",
          "--tokens", "--dtype", "float64", *options)
    return load_file(tmp_path / "f.safetensors")


def assert_same_outputs(got, want):
    assert set(want) <= set(got) and ("logits" in got) == ("logits" in want)
    for name, value in want.items():
        assert got[name].dtype == torch.float64 and got[name].shape == value.shape
        error = runs.scaled_difference(got[name], value)
        assert error < TOLERANCE, f"{name}: Keiko and transformers differ by {error}"
    assert torch.allclose(got["features"], want["tokens"].mean(1), rtol=0, atol=1e-9)


def refused(keiko, *args, code):
    """What keiko says when it refuses."""
    done = keiko(*args, check=False)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr + done.stdout


def respelled(folder, spelling):
    """Renames VideoMAE's attention biases as transformers 5.5 to 5.17 wrote them; adds a key bias."""
    tensors = {}
    for key, value in load_file(folder / "model.safetensors").items():
        for ours, theirs in spelling.items():
            if key.endswith(ours):
                key = key[:-len(ours)] + theirs
        tensors[key] = value
        if key.endswith("query.bias"):
            tensors[key.replace("query", "key")] = torch.randn_like(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_learned_positions(folder):
    """Gives a pretraining folder Keiko's learned positions, which transformers does not have."""
    generator = torch.Generator().manual_seed(3)
    tensors = load_file(folder / "model.safetensors")
    tables = {"videomae.embeddings.position_embeddings": torch.randn(1, 8, 24, generator=generator),
              "decoder.position_embeddings": torch.randn(1, 8, 16, generator=generator)}
    save_file(tensors | tables, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"keiko_positions": "learned"}))
    return tables
