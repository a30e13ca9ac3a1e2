"""It really learns, and only from motion: the demo's classification and its control, in short.

The data set says by construction what a single frame can tell: nothing, so 1/8 is chance.
"""

import json

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
