"""Weights come in: what transformers wrote is what Keiko computes.

Truth: transformers' own models (published_models.py). Everything is computed in float64 from the same
numbers, so a wrong tensor anywhere shows.
"""

import json
import shutil
import struct

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from published_models import (
    DTYPES, MODELS, assert_same_outputs, clips, features, opened, outputs_of, refused, respelled, saved,
    with_learned_positions)  # noqa: F401


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
