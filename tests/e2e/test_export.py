"""Weights go out, runs start from what came in, and features are what training sees.

Truth: transformers' own models (published_models.py), opened with nothing missing and nothing left over.
"""

import json

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import plain_videomae
import runs
from published_models import (
    MODELS, VJEPA2, assert_same_outputs, clips, features, opened, outputs_of, refused, respelled, saved,
    with_learned_positions)  # noqa: F401


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


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_a_vjepa_run_opens_in_transformers_student_or_teacher(keiko, few, train, tmp_path, weights):
    run = train("run", runs.VJEPA2, {"data": str(few / "train.kix"), "steps": 2, "optimizer.base_lr": 0.01})
    keiko("export", run, "--out", tmp_path / "theirs", "--weights", weights)
    model = opened("VJEPA2Model", tmp_path / "theirs")
    video = clips(frames=8, size=32)
    assert_same_outputs(features(keiko, tmp_path / "theirs", video, tmp_path), outputs_of(model, video))
    student, teacher = runs.weights(run), runs.weights(run, file="ema.safetensors")
    wanted = student | (teacher if weights == "ema" else {})
    exported = load_file(tmp_path / "theirs" / "model.safetensors")
    assert set(exported) == set(wanted) and all(torch.equal(exported[k], wanted[k]) for k in wanted)
    assert not all(torch.equal(student[k], teacher[k]) for k in teacher), "an average that is the model proves nothing"


def test_a_vjepa_classifier_that_was_trained_opens_in_transformers(keiko, few, train, tmp_path):
    base = runs.changed(runs.CLASSIFY, {"objective.backbone": "vjepa2", "objective.positions": "rope",
                                        "objective.heads": 3, "objective.pooler_depth": 1})
    run = train("run", base, {"data": str(few / "train.kix"), "steps": 2, "optimizer.base_lr": 0.01})
    keiko("export", run, "--out", tmp_path / "theirs")
    model = opened("VJEPA2ForVideoClassification", tmp_path / "theirs")
    video = clips(frames=8, size=32)
    want = outputs_of(model, video)
    assert_same_outputs(features(keiko, run, video, tmp_path), want)
    assert_same_outputs(features(keiko, tmp_path / "theirs", video, tmp_path), want)
    trained, exported = runs.weights(run), load_file(tmp_path / "theirs" / "model.safetensors")
    assert all(torch.equal(exported[k], trained[k]) for k in trained)
    assert all("predictor" in k for k in set(exported) - set(trained))


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
