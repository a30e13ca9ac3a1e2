"""Weights go in and out: what transformers wrote is what Keiko computes, and the other way round.

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


# Import


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("name", MODELS)
def test_keiko_computes_what_transformers_computes(keiko, saved, tmp_path, name, shards, dtype):
    folder, model = saved(name, dtype, shards)
    said = keiko("import", folder, "--out", tmp_path / "ours").stdout
    want = outputs_of(model, clips())
    assert_same_outputs(features(keiko, tmp_path / "ours", clips(), tmp_path), want)
    if shards:  # straight from the Hub's folder too
        assert_same_outputs(features(keiko, folder, clips(), tmp_path), want)
    # What the encoder's outputs do not show, decoder and predictor: every number is the file's.
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = model.state_dict()
    assert all(t.dtype == torch.float32 for t in ours.values())
    theirs = {(f"videomae.{k}" if name == "VideoMAEModel" else k): v for k, v in theirs.items()}
    theirs = {k.replace("query.bias", "q_bias").replace("value.bias", "v_bias") if "videomae" in k or "decoder" in k
              else k: v for k, v in theirs.items()}
    assert set(ours) == set(theirs)
    for key in ours:
        assert torch.equal(ours[key].double(), theirs[key]), key
    assert f"{sum(t.numel() for t in ours.values()):,}" in said


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


@pytest.mark.parametrize("name", [m for m in MODELS if m.startswith("VideoMAE")])
def test_both_spellings_of_attention_biases_are_one_model(keiko, saved, tmp_path, name):
    folder, model = saved(name)
    respelled(folder, {".q_bias": ".query.bias", ".v_bias": ".value.bias"})
    said = keiko("import", folder, "--out", tmp_path / "ours").stdout
    assert_same_outputs(features(keiko, tmp_path / "ours", clips(), tmp_path), outputs_of(model, clips()))
    assert "softmax cancels" in said and "key.bias" in said


def test_a_vjepa_model_with_the_classifiers_prefix_is_the_same_model(keiko, saved, tmp_path):
    folder, model = saved("VJEPA2Model")
    save_file({f"vjepa2.{k}": v for k, v in load_file(folder / "model.safetensors").items()},
              folder / "model.safetensors", {"format": "pt"})
    keiko("import", folder, "--out", tmp_path / "ours")
    assert_same_outputs(features(keiko, tmp_path / "ours", clips(), tmp_path), outputs_of(model, clips()))


def test_vjepa_runs_on_longer_clips_than_it_was_trained_on(keiko, saved, tmp_path):
    folder, model = saved("VJEPA2Model")
    video = clips(frames=10)
    assert_same_outputs(features(keiko, folder, video, tmp_path), outputs_of(model, video))


def test_another_crop_size_moves_vjepas_positions_as_in_transformers(keiko, saved, tmp_path):
    folder, _ = saved("VJEPA2Model")
    said = keiko("import", folder, "--out", tmp_path / "ours", "--size", 24, "--num-frames", 6).stdout
    assert "square of 3 tokens a side instead of 2" in said
    model = transformers.VJEPA2Model.from_pretrained(folder, crop_size=24, frames_per_clip=6, dtype=torch.float64)
    video = clips(frames=6, size=24)
    assert_same_outputs(features(keiko, tmp_path / "ours", video, tmp_path), outputs_of(model.eval(), video))


def test_a_fixed_table_grows_as_in_transformers(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    said = keiko("import", folder, "--out", tmp_path / "ours", "--size", 24, "--num-frames", 6).stdout
    assert "not interpolated" in said
    model = transformers.VideoMAEModel.from_pretrained(folder, image_size=24, num_frames=6, dtype=torch.float64)
    video = clips(frames=6, size=24)
    assert_same_outputs(features(keiko, tmp_path / "ours", video, tmp_path), outputs_of(model.eval(), video))
    assert "no learned positions" in refused(keiko, "import", folder, "--out", tmp_path / "no", "--size", 24,
                                             "--interpolate-positions", code=2)


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


def test_learned_positions_are_interpolated_only_when_asked(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEForPreTraining")
    tables = with_learned_positions(folder)
    change = ("--size", 32, "--num-frames", 6)
    said = refused(keiko, "import", folder, "--out", tmp_path / "no", *change, code=1)
    assert "position_embeddings: [1, 8, 24] in the file, [1, 48, 24] in the model" in said
    assert "--interpolate-positions" in said
    keiko("import", folder, "--out", tmp_path / "ours", *change, "--interpolate-positions")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    for name, table in tables.items():
        volume = table.reshape(1, 2, 2, 2, -1).permute(0, 4, 1, 2, 3)
        want = torch.nn.functional.interpolate(volume, size=(3, 4, 4), mode="trilinear", align_corners=False)
        want = want.permute(0, 2, 3, 4, 1).reshape(1, 48, -1)
        assert torch.allclose(ours[name], want, atol=1e-6), name
    # The other tensors stay, and at the old size the table stays too.
    keiko("import", folder, "--out", tmp_path / "same")
    same = load_file(tmp_path / "same" / "model.safetensors")
    assert all(torch.equal(same[name], table) for name, table in tables.items())
    assert all(torch.equal(same[k], ours[k]) for k in same if k not in tables)


CARD = """---
tags:
- vision
license: "cc-by-nc-4.0"
---
# license: not this one
"""


def test_the_model_cards_licence_is_shown_and_kept(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    assert "licence      not stated" in keiko("import", folder, "--out", tmp_path / "a").stdout
    for text, shown in [(CARD, "cc-by-nc-4.0"), ("# no front matter\nlicense: mit\n", "not stated"),
                        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
                        ("---\nlicense: other\nlicense_name: research-only\n---\n", "other (research-only)")]:
        (folder / "README.md").write_text(text)
        shutil.rmtree(tmp_path / "a")
        assert f"licence      {shown}\n" in keiko("import", folder, "--out", tmp_path / "a").stdout
        assert (tmp_path / "a" / "README.md").read_text() == text


def test_pixels_that_the_model_was_not_made_for_are_said(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    transformers.VideoMAEImageProcessorPil().save_pretrained(folder)  # mean 0.5, not ImageNet's
    assert "image_mean" in keiko("import", folder, "--out", tmp_path / "a").stderr


# A new head


@pytest.mark.parametrize("name", ["VideoMAEForVideoClassification", "VJEPA2ForVideoClassification"])
def test_a_new_head_is_made_only_when_asked(keiko, saved, tmp_path, name):
    folder, model = saved(name)
    names = tmp_path / "names.txt"
    names.write_text("left\nright\nup\n")
    said = refused(keiko, "import", folder, "--out", tmp_path / "no", "--class-names", names, code=2)
    assert "3 classes" in said and "has 5" in said and "--allow-missing" in said
    said = keiko("import", folder, "--out", tmp_path / "ours", "--class-names", names, "--allow-missing").stdout
    assert "initialised  classifier.weight: truncated normal" in said
    assert "initialised  classifier.bias: zeros" in said
    ours, theirs = load_file(tmp_path / "ours" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours["classifier.weight"].shape == (3, 24) and ours["classifier.weight"].abs().max() > 0
    assert ours["classifier.bias"].abs().max() == 0
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if not k.startswith("classifier."))
    again = opened(name, tmp_path / "ours")
    assert again.config.id2label == {0: "left", 1: "right", 2: "up"}
    got = features(keiko, tmp_path / "ours", clips(), tmp_path)
    assert_same_outputs(got, outputs_of(again, clips()))
    assert_same_outputs({k: got[k] for k in ("tokens", "features")},
                        {"tokens": outputs_of(model, clips())["tokens"]})


def test_missing_parts_of_an_encoder_are_never_made_up(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEForVideoClassification")
    tensors = load_file(folder / "model.safetensors")
    for lost, allowed in (("fc_norm.weight", 0), ("videomae.encoder.layer.1.output.dense.bias", 1)):
        save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
        said = refused(keiko, "import", folder, "--out", tmp_path / "no", code=1)
        assert f"missing    {lost}" in said and ("--allow-missing" in said) == (allowed == 0)
        assert keiko("import", folder, "--out", tmp_path / "ours", "--allow-missing",
                     check=False).returncode == allowed
    assert not (tmp_path / "no").exists()


# Bad folders


def test_every_tensor_that_does_not_fit_is_listed(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEForPreTraining")
    tensors = load_file(folder / "model.safetensors")
    lost = ["mask_token", "videomae.encoder.layer.0.layernorm_before.bias"]
    for name in lost:
        del tensors[name]
    tensors["decoder.extra"] = torch.zeros(3)
    tensors["decoder.norm.weight"] = torch.zeros(17)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = refused(keiko, "import", folder, "--out", tmp_path / "no", code=1)
    for line in [*(f"missing    {name}" for name in lost), "extra      decoder.extra",
                 "misshapen  decoder.norm.weight: [17] in the file, [16] in the model"]:
        assert line in said, f"{line} is not in:\n{said}"
    assert list(tmp_path.iterdir()) == [folder], "a refused import left something behind"


def test_numbers_that_are_none_are_refused(keiko, saved, tmp_path):
    folder, _ = saved("VJEPA2Model")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layernorm.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "encoder.layernorm.bias holds NaN" in refused(keiko, "import", folder, "--out", tmp_path / "no", code=1)
    assert list(tmp_path.iterdir()) == [folder]


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_damaged_shards_and_hostile_indices_are_named(keiko, saved, tmp_path):
    good, _ = saved("VideoMAEModel", shards=True)
    index = index_of(good)
    shards = sorted(set(index["weight_map"].values()))
    first = next(t for t, s in index["weight_map"].items() if s == shards[0])
    of_shard = list(index["weight_map"].values())
    last = next(t for t, s in index["weight_map"].items() if s != shards[0] and of_shard.count(s) > 1)
    outside = tmp_path / "outside.safetensors"
    save_file({first: torch.zeros(1)}, outside)
    folder = tmp_path / "bad"

    def attempt(change, code=1):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        change()
        said = refused(keiko, "import", folder, "--out", tmp_path / "no", code=code)
        assert not (tmp_path / "no").exists()
        return said

    def index_with(**entries):
        text = json.dumps(index | {"weight_map": index["weight_map"] | entries})
        return lambda: (folder / "model.safetensors.index.json").write_text(text)

    def truncate():
        data = (folder / shards[1]).read_bytes()
        (folder / shards[1]).write_bytes(data[:len(data) - 40])

    assert shards[1] in attempt(truncate)
    assert shards[0] in (said := attempt(lambda: (folder / shards[0]).unlink())) and "missing" in said
    for path in ("../outside.safetensors", str(outside), "a/b.safetensors", "..", "", "config.json", "a\\b.safetensors"):
        assert "plain name" in attempt(index_with(**{first: path})), path
    assert f"says that {first} is in this file" in attempt(index_with(**{first: index["weight_map"][last]}))
    assert "it is nowhere" in attempt(index_with(ghost=shards[0]))

    def drop():
        short = {k: v for k, v in index["weight_map"].items() if k != last}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": short}))

    assert f"holds {last}" in attempt(drop)

    def twice():
        shard = folder / index["weight_map"][last]
        save_file(load_file(shard) | {first: torch.zeros(2)}, shard)

    assert f"{first} is in {shards[0]} and in {index['weight_map'][last]}" in attempt(twice)

    def same_key_twice():
        text = json.dumps(index).replace('"weight_map": {', f'"weight_map": {{"{first}": "x.safetensors", ')
        (folder / "model.safetensors.index.json").write_text(text)

    assert "is there twice" in attempt(same_key_twice)
    for text in ("{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": []}'):
        attempt(lambda: (folder / "model.safetensors.index.json").write_text(text))


def test_hostile_headers_are_named(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    path = folder / "model.safetensors"
    for header in (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
                   b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
                   b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}',
                   b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
                   b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}',
                   b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', b'[1]', b'\xff\xfe', b'{"a":3}'):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        assert str(path) in refused(keiko, "import", folder, "--out", tmp_path / "no", code=1), header
    path.write_bytes(struct.pack("<Q", 1 << 60) + bytes(100))
    assert "claims" in refused(keiko, "import", folder, "--out", tmp_path / "no", code=1)


def test_pickles_other_models_and_other_folders_are_refused_by_name(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "timesformer",
                                                             "architectures": ["TimesformerModel"]}))
    said = refused(keiko, "import", folder, "--out", tmp_path / "no", code=1)
    assert "timesformer" in said and "VJEPA2Model" in said
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refused(keiko, "import", folder, "--out", tmp_path / "no", code=2)
    assert "pickle" in said and "save_pretrained" in said
    (folder / "pytorch_model.bin").unlink()
    assert "model.safetensors" in refused(keiko, "import", folder, "--out", tmp_path / "no", code=2)
    (folder / "config.json").unlink()
    assert "config.json" in refused(keiko, "import", folder, "--out", tmp_path / "no", code=2)


def test_nothing_is_written_over(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for command in ("import", "export"):
        assert "it exists" in refused(keiko, command, folder, "--out", folder, code=2)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# Export


@pytest.mark.parametrize("name", MODELS)
def test_what_was_imported_goes_out_as_it_came(keiko, saved, tmp_path, name):
    folder, model = saved(name)
    keiko("import", folder, "--out", tmp_path / "ours")
    keiko("export", tmp_path / "ours", "--out", tmp_path / "theirs")
    again = opened(name, tmp_path / "theirs")
    state, wanted = again.state_dict(), model.state_dict()
    assert set(state) == set(wanted) and all(torch.equal(state[k], wanted[k]) for k in wanted)
    want = outputs_of(model, clips())
    assert all(torch.equal(v, want[k]) for k, v in outputs_of(again, clips()).items())
    with safe_open(folder / "model.safetensors", "pt") as a, safe_open(tmp_path / "theirs" / "model.safetensors", "pt") as b:
        assert set(a.keys()) == set(b.keys()), "transformers itself writes other names"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_export_rounds_to_the_dtype_that_was_asked_for(keiko, saved, tmp_path, dtype):
    folder, model = saved("VideoMAEForVideoClassification")
    keiko("export", folder, "--out", tmp_path / "theirs", "--dtype", dtype)
    wanted = load_file(folder / "model.safetensors")
    for name, tensor in load_file(tmp_path / "theirs" / "model.safetensors").items():
        assert torch.equal(tensor, wanted[name].to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["dtype"] == dtype


TRAINED = {"videomae": (runs.PRETRAIN, "VideoMAEForPreTraining"),
           "classification": (runs.CLASSIFY, "VideoMAEForVideoClassification")}


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_run_opens_in_transformers_and_computes_the_same(keiko, few, train, tmp_path, name):
    base, model_name = TRAINED[name]
    changes = {"data": str(few / "train.kix"), "steps": 2, "optimizer.base_lr": 0.01}
    run = train("run", base, changes)
    video = clips(frames=8, size=32)
    keiko("export", run, "--out", tmp_path / "theirs")
    model = opened(model_name, tmp_path / "theirs")
    want = outputs_of(model, video)
    assert_same_outputs(features(keiko, run, video, tmp_path), want)
    assert_same_outputs(features(keiko, tmp_path / "theirs", video, tmp_path), want)
    trained = runs.weights(run)
    exported = load_file(tmp_path / "theirs" / "model.safetensors")
    assert set(trained) == set(exported) and all(torch.equal(trained[k], exported[k]) for k in trained)
    biases = [v for k, v in trained.items() if k.endswith("q_bias")]
    assert biases and all(b.abs().max() > 0 for b in biases), "biases that stayed zero prove nothing"
    card = (tmp_path / "theirs" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and model_name in card and "2 steps" in card
    processor = transformers.VideoMAEImageProcessorPil.from_pretrained(tmp_path / "theirs")
    assert list(processor.image_mean) == [0.485, 0.456, 0.406] and processor.crop_size["height"] == 32
    said = refused(keiko, "export", run, "--out", tmp_path / "no", "--step", 1, code=2)
    assert "step-00000002" in said
    assert "ema" in refused(keiko, "export", run, "--out", tmp_path / "no", "--weights", "ema", code=2)


def test_the_running_average_goes_out_instead_of_the_model(keiko, saved, tmp_path):
    """A V-JEPA run's average is of its encoder; the predictor is the model's own."""
    folder, _ = saved("VJEPA2Model")
    average = {k: v + 0.25 for k, v in load_file(folder / "model.safetensors").items() if k.startswith("encoder.")}
    save_file(average, folder / "ema.safetensors")
    plain = features(keiko, folder, clips(), tmp_path)
    averaged = features(keiko, folder, clips(), tmp_path, "--weights", "ema")
    said = keiko("export", folder, "--out", tmp_path / "theirs", "--weights", "ema").stdout
    assert f"{len(average)} tensors are running averages" in said
    want = outputs_of(opened("VJEPA2Model", tmp_path / "theirs"), clips())
    assert_same_outputs(averaged, want)
    assert runs.scaled_difference(plain["tokens"], want["tokens"]) > 1e-3
    exported, model = load_file(tmp_path / "theirs" / "model.safetensors"), load_file(folder / "model.safetensors")
    for key in model:
        assert torch.equal(exported[key], average.get(key, model[key])), key
    save_file({"encoder.unknown": torch.zeros(2)}, folder / "ema.safetensors")
    assert "encoder.unknown" in refused(keiko, "export", folder, "--out", tmp_path / "no", "--weights", "ema", code=1)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_the_mask_token_that_was_trained_is_the_one_transformers_reads(keiko, saved, tmp_path, trained):
    folder, model = saved("VJEPA2Model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"keiko_mask_token": trained}))
    keiko("export", folder, "--out", tmp_path / "theirs")
    again = opened("VJEPA2Model", tmp_path / "theirs")
    tokens, ours = again.predictor.embeddings.mask_tokens, model.predictor.embeddings.mask_tokens
    assert torch.equal(tokens[1], ours[trained]) and torch.equal(tokens[0], ours[0])
    # A second export finds the token in its new place.
    keiko("export", tmp_path / "theirs", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
def test_a_vjepa_model_without_a_predictor_opens_complete(keiko, saved, tmp_path, name):
    """As runs leave it that train no predictor: classification, probes."""
    folder, model = saved(name)
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if "predictor." not in k}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = keiko("export", folder, "--out", tmp_path / "theirs").stdout
    assert "predictor    none was trained" in said
    again = opened(name, tmp_path / "theirs")
    want = outputs_of(model, clips())
    assert all(torch.equal(v, want[k]) for k, v in outputs_of(again, clips()).items())
    assert "predictor is empty" in (tmp_path / "theirs" / "README.md").read_text()


def test_a_probe_goes_out_as_its_encoder_and_says_what_stays(keiko, few, train, tmp_path):
    probe = runs.changed(runs.COMMON, {"objective.name": "probe", "data": str(few / "train.kix"), "steps": 2})
    run = train("run", probe)
    said = keiko("export", run, "--out", tmp_path / "theirs").stdout
    kept = set(load_file(tmp_path / "theirs" / "model.safetensors"))
    for name in runs.weights(run):
        in_file = name.removeprefix("videomae.")
        assert (in_file in kept) != (f"left out     {name}:" in said), name
    model = opened("VideoMAEModel", tmp_path / "theirs")
    video = clips(frames=8, size=32)
    assert_same_outputs(features(keiko, run, video, tmp_path), outputs_of(model, video))


def test_positions_that_transformers_does_not_have_are_refused(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEForPreTraining")
    with_learned_positions(folder)
    said = refused(keiko, "export", folder, "--out", tmp_path / "no", code=2)
    assert "learned" in said and "--force" in said
    keiko("export", folder, "--out", tmp_path / "theirs", "--force")
    assert "does not compute this model" in (tmp_path / "theirs" / "README.md").read_text()
    got = features(keiko, folder, clips(), tmp_path)
    assert torch.equal(features(keiko, tmp_path / "theirs", clips(), tmp_path)["tokens"], got["tokens"])


# Training from what was imported


@pytest.mark.parametrize("shape", ["imported", "the Hub's shards in bf16", "older spelling"])
def test_training_starts_from_the_published_weights(keiko, few, train, tmp_path, saved, shape):
    """The first loss of a run is the one that transformers computes on the same clips and masks."""
    folder, model = saved("VideoMAEForPreTraining", "bf16" if "bf16" in shape else "fp32", "shards" in shape)
    if shape == "older spelling":
        respelled(folder, {".q_bias": ".query.bias", ".v_bias": ".value.bias"})
    said = keiko("import", folder, "--out", tmp_path / "ours").stdout
    # The keys that import prints make this model.
    recipe = yaml.safe_load(said.split("recipe:\n")[1])
    assert recipe["init_from"] == str(tmp_path / "ours")
    base = runs.changed(runs.PRETRAIN, {"objective": recipe["objective"] | {"mask": "tube", "mask_ratio": 0.5}})
    base["clip"] = {"sampling_rate": 1} | recipe["clip"]
    source = tmp_path / "ours" if shape == "imported" else folder
    changes = {"data": str(few / "train.kix"), "steps": 1, "init_from": str(source), "precision": "float64"}
    run = train("run", base, changes)
    [batch] = runs.preview_tensors(keiko, run, tmp_path / "b.safetensors")
    pixels = plain_videomae.normalise_pixels(batch["video"], torch.float64)
    with torch.no_grad():
        want = model(pixels, bool_masked_pos=batch["mask"]).loss.item()
    got = runs.metrics(run)[0]["loss"]
    assert abs(got / want - 1) < 1e-9, f"Keiko logged {got}, transformers has {want}"


# Features


def test_features_of_videos_are_those_of_the_clips_that_training_sees(keiko, few, train, tmp_path):
    """From files, against the same clips given as tensors; .npy and safetensors hold the same numbers."""
    run = train("run", runs.CLASSIFY, {"data": str(few / "train.kix"), "steps": 1})
    videos = sorted((few / "test").glob("*/*.mp4"))[:3]
    # The clip in the middle of a video, cut by another command.
    frames = []
    for i, video in enumerate(videos):
        count = json.loads(keiko("inspect", video, "--json").stdout)["frames"]
        first = (count - 8) // 2
        keiko("decode", video, "--frames", f"{first}-{first + 7}", "--size", 32, "--out", tmp_path / f"{i}.npy")
        frames.append(torch.from_numpy(np.load(tmp_path / f"{i}.npy")).permute(3, 0, 1, 2))
    want = features(keiko, run, torch.stack(frames).contiguous(), tmp_path)
    keiko("features", run, *videos, "--out", tmp_path / "v.safetensors", "--dtype", "float64")
    got = load_file(tmp_path / "v.safetensors")
    assert set(got) == {"features", "logits"}
    assert torch.equal(got["features"], want["features"]) and torch.equal(got["logits"], want["logits"])
    with safe_open(tmp_path / "v.safetensors", "pt") as f:
        assert json.loads(f.metadata()["clips"]) == [str(v) for v in videos]
    keiko("features", run, *videos, "--out", tmp_path / "v.npy", "--dtype", "float64")
    assert np.array_equal(np.load(tmp_path / "v.npy"), got["features"].numpy())
    keiko("features", run, *videos, "--out", tmp_path / "s.npy")
    single = np.load(tmp_path / "s.npy")
    assert single.dtype == np.float32 and np.abs(single - got["features"].numpy()).max() < 1e-4


def test_features_refuses_clips_of_another_shape(keiko, saved, tmp_path):
    folder, _ = saved("VideoMAEModel")
    for video in (clips(frames=6), clips(size=24), clips()[:, :2].contiguous(), clips().float()):
        save_file({"video": video}, tmp_path / "c.safetensors")
        said = refused(keiko, "features", folder, "--input", tmp_path / "c.safetensors", "--out",
                       tmp_path / "f.npy", code=1)
        assert "3, 4, 16, 16" in said
    assert "either videos or --input" in refused(keiko, "features", folder, "--out", tmp_path / "f.npy", code=2)
