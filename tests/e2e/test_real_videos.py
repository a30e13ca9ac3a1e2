"""The main job on real input, in short: a folder of ordinary videos at 16x224x224, trained on and beaten.

The bar comes from outside the model: the best constant prediction of the same held-out targets.
"""

import json
import shutil

import pytest

import runs

HELD_OUT = ("bikes.mp4", "asl_yes.mkv", "asl_walk.mkv", "asl_no.mkv", "asl_book.mkv", "asl_milk.mkv",
            "carphone_pristine.mp4", "flipping_a_pancake.mkv", "one-by-one-person-detection.mp4", "nasa_13013.mp4")


@pytest.fixture(scope="module")
def catalogues(keiko, media, tmp_path_factory):
    """Two lists of paths, one held out, indexed."""
    folder = tmp_path_factory.mktemp("real")
    files = sorted((media / "real").iterdir())
    for name, chosen in (("train", [f for f in files if f.name not in HELD_OUT]),
                         ("heldout", [f for f in files if f.name in HELD_OUT])):
        (folder / f"{name}.txt").write_text("".join(f"{f}\n" for f in chosen))
        report = json.loads(keiko("index", folder / f"{name}.txt", "--out", folder / f"{name}.kix", "--json").stdout)
        assert report["videos"] == len(chosen) and not report["skipped"]
        assert report["direct_read"] == len(chosen), "every H.264 in MP4 and MKV can be read directly"
    return folder


def test_pretraining_on_real_videos_beats_the_constant_by_three_standard_errors(keiko, catalogues, tmp_path):
    """A small encoder and a plain pixel target: what 120 steps of 4 clips can learn. (Normalised targets, the
    published recipe, take thousands of steps to leave the constant.)"""
    keiko("train", runs.CONFIGS / "videomae_small.yaml", f"data={catalogues}/train.kix",
          f"eval.data={catalogues}/heldout.kix", f"run={tmp_path}/run", "epochs=0", "steps=120",
          "objective.model=custom", "objective.width=96", "objective.depth=2", "objective.heads=3",
          "objective.decoder_width=96", "objective.decoder_depth=1", "objective.decoder_heads=3", "batch_size=4",
          "micro_batch_size=0", "optimizer.lr_scale.linear=0", "optimizer.base_lr=0.002", "optimizer.warmup_lr=0",
          "optimizer.warmup_epochs=0", "optimizer.warmup_steps=10", "precision=fp32", "log.every=20",
          "eval.every=0", "objective.norm_pix_loss=false", "objective.pixel_target=imagenet", timeout=600)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert train[-1]["loss"] < train[0]["loss"]
    for field in ("clips_per_s", "frames_per_s", "decoded_frames_per_s", "data_wait_s", "step_s"):
        assert train[-1][field] >= 0
    assert train[-1]["clips_per_s"] > 0
    held_out = next(line for line in lines if line["kind"] == "eval")
    assert held_out["clips"] == len(HELD_OUT)
    assert held_out["gain_over_constant"] > 3 * held_out["gain_standard_error"], held_out


def test_bench_decode_reports_the_plan_and_its_bound(keiko, media, tmp_path):
    """The plan's form is that of the loaders' comparison: {media: [{file, frames, size}]}."""
    plan = {"media": [{"file": name, "frames": list(range(0, 61, 4)), "size": 112}
                      for name in ("bikes.mp4", "asl_yes.mkv")]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    figures = json.loads(keiko("bench", "decode", "--plan", tmp_path / "plan.json", "--media", media / "real",
                               "--repeat", 1).stdout)
    assert figures["clips"] == 2 and figures["videos"] == 2
    assert figures["opens_per_clip"] == 0, "nothing is opened or probed once a table exists"
    assert figures["packets_dropped_per_clip"] > 0
    assert figures["clips_per_s"]["min"] > 0 and figures["bound_clips_per_s"]["min"] > 0


def test_videos_with_spaces_and_labels_index_by_folder(keiko, media, tmp_path):
    folder = tmp_path / "my videos"
    for label, name in (("wave hello", "asl_yes.mkv"), ("go", "asl_walk.mkv")):
        (folder / label).mkdir(parents=True)
        shutil.copy(media / "real" / name, folder / label / name)
    report = json.loads(keiko("index", folder, "--out", tmp_path / "x.kix", "--json").stdout)
    assert report["class_names"] == ["go", "wave hello"]
