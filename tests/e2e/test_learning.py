"""It really learns, and only from motion: the demo's classification and its control, in short.

The data set says by construction what a single frame can tell: nothing, so 1/8 is chance.
"""

import json
import subprocess

import pytest

import runs


@pytest.fixture(scope="module")
def clips(keiko, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    keiko("synth", "--out", folder, "--train", 2000, "--test", 1000, "--seed", 5)
    return folder


@pytest.mark.parametrize("frames, steps", [("clip", 90), ("single", 60)])
def test_direction_is_learned_from_clips_and_not_from_single_frames(keiko, clips, tmp_path, frames, steps):
    run = tmp_path / frames
    keiko("train", runs.CONFIGS / "demo_classify.yaml", f"data={clips}/train.kix", f"eval.data={clips}/test.kix",
          f"run={run}", f"clip.frames={frames}", f"steps={steps}", "optimizer.warmup_steps=20", timeout=900)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "eval" and last["clips"] == 1000
    if frames == "clip":
        assert last["top1"] >= 0.90, last
    else:
        assert last["top1_high"] <= 0.20, last


def test_synth_writes_several_sprites_distractors_and_longer_clips(keiko, tmp_path):
    clips = {}
    for name, options in {"one": (), "several": ("--sprites", 3), "distractors": ("--distractors", 2),
                          "long": ("--frames", 40)}.items():
        folder = tmp_path / name
        keiko("synth", "--task", "sprites", *options, "--out", folder, "--train", 8, "--test", 8)
        videos = sorted((folder / "train").rglob("*.mp4"))
        assert len(videos) == 8 and (folder / "train.kix").exists() and (folder / "test.kix").exists()
        clips[name] = videos[0].read_bytes()
        frames = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames",
                                 "-of", "csv=p=0", videos[0]], check=True, stdout=subprocess.PIPE).stdout
        assert int(frames) == (40 if name == "long" else 16)
    assert len(set(clips.values())) == 4
    refused = keiko("synth", "--task", "drift", "--distractors", 1, "--out", tmp_path / "no", check=False)
    assert refused.returncode == 2 and "--task drift has no sprites" in refused.stderr
