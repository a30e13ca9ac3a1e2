"""Augmentation and repeated views as a user meets them: what preview says is what the model sees.

Truth: Pillow applied to the clip without augmentation. tests/augment holds every operation to Pillow alone.
"""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

import runs

STRONG = {"augment.random_resized_crop": {"scale": [0.3, 1.0]}, "augment.flip": 0.5,
          "augment.color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
          "augment.rand_augment": {"num_ops": 4}, "augment.random_erasing": {"probability": 0.5}}
FILL = (128, 128, 128)


def recipe(tmp_path, name, data, changes):
    return runs.write_recipe(tmp_path / f"{name}.yaml", runs.CLASSIFY,
                             {"data": str(data / "train.kix"), "run": str(tmp_path / name)} | changes)


def affine(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR,
                           fillcolor=FILL)


def in_pillow(image, op, a):
    n = image.size[0]
    return {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Posterize": lambda: image.point([i & ~(2 ** (8 - int(a)) - 1) for i in range(256)] * 3),
        "Solarize": lambda: ImageOps.solarize(image, int(a)),
        "SolarizeAdd": lambda: image.point([min(255, i + int(a)) if i < 128 else i for i in range(256)] * 3),
        "Color": lambda: ImageEnhance.Color(image).enhance(a),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(a),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(a),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(a),
        "Rotate": lambda: image.rotate(a, resample=Image.Resampling.BILINEAR, fillcolor=FILL),
        "ShearX": lambda: affine(image, 1, a, 0, 0, 1, 0),
        "ShearY": lambda: affine(image, 1, 0, 0, a, 1, 0),
        "TranslateXRel": lambda: affine(image, 1, 0, a * n, 0, 1, 0),
        "TranslateYRel": lambda: affine(image, 1, 0, 0, 0, 1, a * n),
    }[op]()


def test_preview_says_what_was_drawn_and_the_model_sees_it(keiko, drift, tmp_path):
    plain = {k: v for k, v in STRONG.items() if k in ("augment.random_resized_crop", "augment.flip")}
    with_all = recipe(tmp_path, "all", drift, STRONG | {"batch_size": 32})
    without = recipe(tmp_path, "plain", drift, plain | {"batch_size": 32})
    seen = runs.preview_tensors(keiko, with_all, tmp_path / "a.safetensors")[0]["video"].numpy()
    before = runs.preview_tensors(keiko, without, tmp_path / "b.safetensors")[0]["video"].numpy()
    out = json.loads(keiko("preview", with_all, "--clips", 32, "--out", tmp_path / "sheets", "--json").stdout)
    assert Image.open(out["sheets"]["clips"]).size[0] > 0
    words = keiko("preview", with_all, "--clips", 32, "--out", tmp_path / "sheets").stdout
    ops, erased = set(), 0
    for i, clip in enumerate(out["clips"]):
        assert clip["position"] == i
        moves = [s for s in clip["augment"] if s["op"] in ("Rotate", "ShearX", "ShearY", "TranslateXRel",
                                                           "TranslateYRel")]
        keep = np.ones(before.shape[-2:], bool)
        if clip["erased"]:
            x, y, w, h = clip["erased"]
            keep[y:y + h, x:x + w] = False
            erased += 1
            inside = seen[i][:, :, ~keep]
            assert inside.std() > 30 and len(np.unique(inside)) > 20, f"clip {i}: the box holds no noise"
            assert f"erased {w}x{h} at {x},{y}" in words
        for t in range(before.shape[2]):
            image = Image.fromarray(before[i][:, t].transpose(1, 2, 0).copy())
            for step in clip["augment"]:
                image = in_pillow(image, step["op"], step["argument"])
                ops.add(step["op"])
            off = np.abs(np.asarray(image).astype(int).transpose(2, 0, 1) - seen[i][:, t])[:, keep]
            # A level of an interpolation may be stretched or cross a threshold in later steps.
            assert off.max() == 0 if not moves else (off > 1).mean() < 0.25, (
                f"clip {i}, frame {t}: {off.max()} levels, {(off > 1).mean():.3f} of the values; {clip['augment']}")
    assert len(ops) >= 10 and 5 <= erased <= 27


def test_repeats_are_other_views_of_the_same_frames_and_an_epoch_has_every_item_so_often(few, train):
    run = train("repeats", runs.CLASSIFY, STRONG | {"data": str(few / "train.kix"), "augment.repeats": 2,
                                                    "batch_size": 8, "micro_batch_size": 4, "steps": 4})
    lines = runs.samples(run)
    assert [line["position"] for line in lines] == list(range(32))  # 16 items, twice
    for a, b in zip(lines[::2], lines[1::2]):
        assert (a["item"], a["frames"], a["label"]) == (b["item"], b["frames"], b["label"])
        assert a["crop"] != b["crop"]
    assert sorted(line["item"] for line in lines) == sorted(list(range(16)) * 2)
    assert any("augment" in line for line in lines)
    assert runs.metrics(run)[-1]["epoch"] == 1


def test_threads_change_nothing(keiko, drift, tmp_path):
    base = recipe(tmp_path, "threads", drift, STRONG | {"augment.repeats": 4, "batch_size": 32})
    one, three = (runs.preview_tensors(keiko, runs.write_recipe(tmp_path / f"t{n}.yaml", runs.yaml.safe_load(
        base.read_text()), {"loader.threads": n}), tmp_path / f"{n}.safetensors", steps=2) for n in (1, 3))
    for a, b in zip(one, three):
        assert all((a[k] == b[k]).all() for k in a)


@pytest.mark.parametrize("changes, says", [
    ({"batch_size": 30}, "batch_size = 30 is not a multiple of 4"),
    ({"micro_batch_size": 6}, "micro_batch_size = 6 is not a multiple of 4"),
    ({"augment.rand_augment": {"num_ops": 4, "magnitude": 11}}, "augment.rand_augment.magnitude = 11"),
    ({"augment.random_erasing": {"area": [0.5, 0.1]}}, "low <= high"),
], ids=str)
def test_what_does_not_fit_is_refused_by_name(keiko, drift, tmp_path, changes, says):
    bad = recipe(tmp_path, "bad", drift, {"augment.repeats": 4, "batch_size": 32} | changes)
    done = keiko("train", bad, check=False)
    assert done.returncode == 2 and says in done.stderr, done.stderr
