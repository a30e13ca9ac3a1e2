"""Every sample is a function of (seed, position) alone, and is what samples-0.jsonl says it is.

Truth: the definition (same seed and position, same bytes) for threads, prefetch and previews; ffmpeg's
pictures for what a sample shows.
"""

import subprocess
from collections import defaultdict

import numpy as np
import pytest
import torch

import runs

LOADERS = {"threads=1, prefetch=1": {"loader.threads": 1, "loader.prefetch": 1},
           "threads=1, prefetch=4": {"loader.threads": 1, "loader.prefetch": 4},
           "threads=2, prefetch=1": {"loader.threads": 2, "loader.prefetch": 1},
           "threads=2, prefetch=4": {"loader.threads": 2, "loader.prefetch": 4}}


def assert_same_batches(found, wanted):
    for step, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), f"step {step}: {name} differs"


@pytest.mark.parametrize("objective, frames", [("videomae", "clip"), ("classification", "single"),
                                               ("classification", "shuffled"), ("vjepa2", "clip"),
                                               ("fine-tuning", "clip")])
def test_threads_and_prefetch_change_no_sample(keiko, drift, train, tmp_path, objective, frames):
    """samples-0.jsonl byte for byte, previewed batches (masks and mixes too) bit for bit, and (one compute
    thread) the losses."""
    base, seen = runs.OBJECTIVES[objective], []
    for i, loader in enumerate(LOADERS.values() if objective == "videomae" else list(LOADERS.values())[::3]):
        run = train(f"run-{i}", base, {"data": str(drift / "train.kix"), "clip.frames": frames} | loader)
        batches = runs.preview_tensors(keiko, tmp_path / f"run-{i}.yaml", tmp_path / f"{i}.safetensors", steps=3)
        seen.append(((run / "samples-0.jsonl").read_bytes(), [line["loss"] for line in runs.metrics(run)], batches))
    for log, losses, batches in seen[1:]:
        assert (log, losses) == seen[0][:2]
        assert_same_batches(batches, seen[0][2])


@pytest.mark.parametrize("objective", ["videomae", "vjepa2", "fine-tuning"])
def test_the_batch_of_a_past_step_can_be_rebuilt_from_the_run(keiko, drift, train, tmp_path, objective):
    """`preview RUN --step S` gives what the recipe gives, masks and mixes too, whichever step one starts from."""
    run = train("run", runs.OBJECTIVES[objective], {"data": str(drift / "train.kix")})
    whole = runs.preview_tensors(keiko, tmp_path / "run.yaml", tmp_path / "a.safetensors", steps=5)
    later = runs.preview_tensors(keiko, run, tmp_path / "b.safetensors", step=3, steps=2)
    assert_same_batches(later, whole[3:])


def test_step_s_takes_the_positions_from_s_times_b_on(keiko, drift, train, tmp_path):
    """In the preview and in the samples file alike; one line per clip."""
    run = train("run", runs.CLASSIFY, {"data": str(drift / "train.kix")})
    batches = runs.preview_tensors(keiko, tmp_path / "run.yaml", tmp_path / "a.safetensors", steps=5)
    for step, batch in enumerate(batches):
        assert batch["position"].tolist() == list(range(8 * step, 8 * step + 8))
        assert batch["video"].dtype == torch.uint8 and batch["video"].shape == (8, 3, 8, 32, 32)
        assert batch["label"].dtype == torch.int64 and batch["label"].shape == (8,)
    assert sorted(line["position"] for line in runs.samples(run)) == list(range(40))
    for line in runs.samples(run):
        assert line["step"] - line["position"] // 8 in (0, 1)  # counted from 0 or 1, but always the same
    assert len({line["step"] - line["position"] // 8 for line in runs.samples(run)}) == 1


@pytest.mark.parametrize("objective", runs.OBJECTIVES)
def test_micro_batches_change_only_the_order_of_additions(drift, train, objective):
    """Whole batches against the smallest parts there may be; in float64, where order is all that can differ
    and 1e-9 leaves no room for a mask, a mix or a mean over a part instead of the batch."""
    base = runs.OBJECTIVES[objective]
    smallest = 4 if objective == "fine-tuning" else 1
    whole, parts = (train(f"micro-{micro}", base, {"data": str(drift / "train.kix"), "precision": "float64",
                                                   "steps": 4, "micro_batch_size": micro}) for micro in (0, smallest))
    for a, b in zip(runs.metrics(parts), runs.metrics(whole), strict=True):
        for field in ("loss", "grad_norm"):
            assert a[field] == pytest.approx(b[field], rel=1e-9), f"step {a['step']}: {field}"
    files = [p.name for p in runs.checkpoint(whole).glob("*.safetensors") if not p.name.startswith("optimizer")]
    assert ("ema.safetensors" in files) == ("ema" in base["objective"])
    for file in files:
        found, wanted = (runs.weights(run, file=file) for run in (parts, whole))
        for name in wanted:
            assert runs.scaled_difference(found[name], wanted[name]) < 1e-9, f"{file}: {name}"


def test_an_epoch_visits_every_item_once_and_epochs_differ(few, train):
    """16 items, batches of 8: every two steps are an epoch. Truth: the definition of an epoch."""
    run = train("run", runs.PRETRAIN, {"data": str(few / "train.kix"), "steps": 8})
    items = [line["item"] for line in sorted(runs.samples(run), key=lambda line: line["position"])]
    epochs = [items[i:i + 16] for i in range(0, 64, 16)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 16 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_another_seed_gives_other_samples(drift, train):
    logs = {(train(f"run-{seed}", runs.PRETRAIN, {"data": str(drift / "train.kix"), "seed": seed}) /
             "samples-0.jsonl").read_bytes() for seed in (1, 2, 3)}
    assert len(logs) == 3


def test_shuffled_frames_are_the_clips_frames_and_single_is_one_frame(keiko, drift, tmp_path):
    """Truth: the words. Sorted by content, shuffled and plain clips of a position hold the same frames."""
    batch = {}
    for frames in ("clip", "single", "shuffled"):
        recipe = runs.write_recipe(tmp_path / f"{frames}.yaml", runs.CLASSIFY,
                                   {"data": str(drift / "train.kix"), "clip.frames": frames, "run": str(tmp_path / "r")})
        [batch[frames]] = runs.preview_tensors(keiko, recipe, tmp_path / f"{frames}.safetensors")
    video = {frames: b["video"].transpose(1, 2) for frames, b in batch.items()}  # [B,T,3,H,W]
    assert torch.equal(batch["clip"]["label"], batch["shuffled"]["label"])
    assert (video["single"] == video["single"][:, :1]).all()
    assert not torch.equal(video["shuffled"], video["clip"])
    for a, b in zip(video["shuffled"], video["clip"]):
        assert sorted(f.numpy().tobytes() for f in a) == sorted(f.numpy().tobytes() for f in b)


@pytest.mark.parametrize("mask", ["tube", "random", "future"])
def test_masks_are_what_their_name_says(keiko, drift, tmp_path, mask):
    """Tokens count time, row, column (4 x 4 x 4). Tube: one picture of 12 of 16 in every frame; random: 48 of 64;
    future: all of the second half and nothing of the first. Clips get different ones where there is a choice."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "objective.mask": mask, "run": str(tmp_path / "r"),
                                "objective.mask_ratio": 0.5 if mask == "future" else 0.75})
    for batch in runs.preview_tensors(keiko, recipe, tmp_path / "m.safetensors", steps=3):
        masks = batch["mask"].reshape(8, 4, 16)
        assert masks.dtype == torch.bool
        if mask == "future":
            assert masks[:, 2:].all() and not masks[:, :2].any()
            continue
        assert (masks.sum((1, 2)) == 48).all()
        assert ((masks == masks[:, :1]).all() and (masks[:, 0].sum(1) == 12).all()) == (mask == "tube")
        assert len({m.numpy().tobytes() for m in masks}) > 1


def test_block_masks_are_what_their_name_says(keiko, drift, tmp_path):
    """Tokens count time, row, column (4 x 4 x 4). Of each clip context and target lie apart, in raster order;
    no place is in both, at any time; all clips of a batch have equal numbers, and other
    clips other tokens; nothing is lost from one end of the clip alone."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.VJEPA2,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "r")})
    last_times = []
    for batch in runs.preview_tensors(keiko, recipe, tmp_path / "m.safetensors", steps=20):
        for g in range(2):
            for context, target in zip(batch[f"context.{g}"].tolist(), batch[f"target.{g}"].tolist()):
                assert context == sorted(set(context)) and target == sorted(set(target))
                assert context and target and not set(context) & set(target)
                assert 0 <= min(context + target) and max(context + target) < 64
                assert not {t % 16 for t in context} & {t % 16 for t in target}, "a place is both seen and hidden"
                last_times.append(max(context) >= 48 and max(target) >= 48)
        assert len({tuple(target) for target in batch["target.0"].tolist()}) > 1
    assert sum(last_times) > 0.95 * len(last_times)


def rgb_frames(ffmpeg, video):
    raw = subprocess.run([ffmpeg, "-v", "error", "-i", video, "-vsync", "passthrough", "-pix_fmt", "rgb24", "-sws_flags",
                          "bilinear+accurate_rnd+full_chroma_int", "-f", "rawvideo", "-"],
                         capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 32, 32, 3).astype(np.float32)


def resized(frames, crop):
    """The crop rectangle of [T,H,W,3] frames at 32 x 32: antialiased bilinear, half-pixel centres."""
    x, y, w, h = (round(v) for v in crop)
    t = torch.from_numpy(frames[:, y:y + h, x:x + w]).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(t, size=(32, 32), mode="bilinear", antialias=True, align_corners=False)


def test_a_sample_shows_the_frames_crop_and_flip_that_its_line_names(keiko, few, ffmpeg, train, tmp_path):
    """Truth: ffmpeg's RGB pictures. Each sample must look like those frames of exactly one video, each item
    like always the same video, and labels must follow the class folders one to one.

    Mean difference under 4 levels: colours go through another conversion; another video or frame is 10 off.
    """
    changes = {"data": str(few / "train.kix"), "steps": 4}
    pretrain = train("p", runs.PRETRAIN, changes)
    classify = train("c", runs.CLASSIFY, changes)
    videos = {p: rgb_frames(ffmpeg, p) for p in sorted(few.glob("train/*/*.mp4"))}
    assert len(videos) == 16
    for run, flips in ((pretrain, {True, False}), (classify, {False})):
        batches = runs.preview_tensors(keiko, run, tmp_path / f"{run.name}.safetensors", steps=4)
        items, labels = defaultdict(set), defaultdict(set)
        assert {bool(line["flip"]) for line in runs.samples(run)} == flips
        for line in runs.samples(run):
            batch, row = batches[line["position"] // 8], line["position"] % 8
            seen = batch["video"][row].transpose(0, 1).float()
            off = {}
            for path, frames in videos.items():
                wanted = resized(frames[line["frames"]], line["crop"])
                off[path] = (seen - (wanted.flip(-1) if line["flip"] else wanted)).abs().mean().item()
            best, second = sorted(off, key=off.get)[:2]
            assert off[best] < 4 < off[second], f"{line}: nearest {best} is {off[best]} off, next {off[second]}"
            items[line["item"]].add(best)
            if "label" in batch:
                labels[best.parent.name].add(batch["label"][row].item())
        assert all(len(paths) == 1 for paths in items.values())
        assert all(len(numbers) == 1 for numbers in labels.values())
        assert len({n for numbers in labels.values() for n in numbers}) == len(labels)
