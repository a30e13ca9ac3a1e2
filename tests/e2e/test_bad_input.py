"""Bad input is refused or survived, by name, and never crashed on.

Truth: the exit codes of the design (0 done, 1 failed, 2 wrong usage or recipe, 3 too much bad data), and
that a message says what, where, which value, and what to do. The `keiko` fixture fails a test whenever
the binary dies of a signal.
"""

import json
import os
import random
import re
import shutil
import struct
import subprocess

import pytest

import runs
from test_decode_exact import assert_same, ffmpeg_frames, keiko_frames


def clips(few, count=4):
    return sorted(few.glob("train/*/*.mp4"))[:count]


@pytest.fixture
def folder(few, tmp_path):
    """Four good clips in a folder to be spoiled."""
    good = tmp_path / "videos"
    good.mkdir()
    for i, clip in enumerate(clips(few)):
        shutil.copy(clip, good / f"good-{i}.mp4")
    return good


@pytest.fixture
def pretrain(keiko, tmp_path):
    """pretrain(catalogue, changes, *overrides): one short run on it; returns the finished process."""

    def start(catalogue, changes=None, *overrides, name="run"):
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN,
                                   {"data": str(catalogue), "run": str(tmp_path / name), "steps": 2} | (changes or {}))
        return keiko("train", recipe, *overrides, check=False, timeout=120)

    return start


def said(done):
    return done.stdout + done.stderr


def keiko_json(keiko, *args):
    return json.loads(keiko(*args).stdout)


# Indexing -----------------------------------------------------------------------------------------


def test_an_empty_folder_is_refused_by_name(keiko, tmp_path):
    (tmp_path / "nothing here").mkdir()
    done = keiko("index", tmp_path / "nothing here", "--out", tmp_path / "x.kix", check=False)
    assert done.returncode == 1 and "nothing here" in done.stderr
    assert not (tmp_path / "x.kix").exists()


def test_a_source_that_does_not_exist_is_refused_by_name(keiko, tmp_path):
    done = keiko("index", tmp_path / "no-such-folder", "--out", tmp_path / "x.kix", check=False)
    assert done.returncode in (1, 2) and "no-such-folder" in done.stderr
    assert not (tmp_path / "x.kix").exists()


@pytest.mark.parametrize("content", [b"This is a shopping list, not a film.\n" * 50, b"", bytes(5000)],
                         ids=["text", "empty", "zeros"])
def test_what_is_no_video_is_reported_and_skipped(keiko, folder, pretrain, tmp_path, content):
    (folder / "bad.mp4").write_bytes(content)
    done = keiko("index", folder, "--out", tmp_path / "x.kix")
    [line] = [line for line in said(done).splitlines() if "bad.mp4" in line]
    assert re.search(r"bad\.mp4: .+\. Skipped", line), line
    assert 4 in runs.numbers_in(keiko_json(keiko, "inspect", tmp_path / "x.kix", "--json"))
    assert pretrain(tmp_path / "x.kix").returncode == 0
    for command in (("inspect", folder / "bad.mp4"), ("decode", folder / "bad.mp4", "--frames", "all", "--md5")):
        refused = keiko(*command, check=False)
        assert refused.returncode == 1 and "bad.mp4" in refused.stderr


def test_a_folder_of_nothing_but_bad_files_is_refused(keiko, tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.mp4").write_text("not a video")
    done = keiko("index", tmp_path / "bad", "--out", tmp_path / "x.kix", check=False)
    assert done.returncode == 1
    assert all(f"{i}.mp4" in said(done) for i in range(3))
    assert not (tmp_path / "x.kix").exists()


@pytest.mark.parametrize("flags", ["+faststart", "+frag_keyframe+empty_moov", ""],
                         ids=["index-first", "fragmented", "index-last"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_torn_mp4_is_skipped_or_trained_on_as_far_as_it_goes(keiko, ffmpeg, few, folder, pretrain, tmp_path, flags,
                                                               kept):
    """What is indexed must then be usable: exit 0, or 3 when the recipe's budget of bad samples is spent."""
    whole = tmp_path / "whole.mp4"
    subprocess.run([ffmpeg, "-v", "error", "-i", clips(few)[0], "-c", "copy", *(["-movflags", flags] if flags else []),
                    whole], check=True)
    (folder / "torn.mp4").write_bytes(whole.read_bytes()[:int(whole.stat().st_size * kept)])
    indexed = keiko("index", folder, "--out", tmp_path / "x.kix")
    done = pretrain(tmp_path / "x.kix")
    assert done.returncode in (0, 3), said(done)
    if not flags:  # without its index at the end an mp4 holds nothing
        assert re.search(r"torn\.mp4: .+\. Skipped", said(indexed))
        assert done.returncode == 0


def test_a_torn_real_video_is_skipped_or_trained_on_as_far_as_it_goes(keiko, media, folder, pretrain, tmp_path):
    """bikes.mp4 and asl_again.mkv, cut in the middle."""
    for name in ("bikes.mp4", "asl_again.mkv"):
        whole = (media / "real" / name).read_bytes()
        (folder / name).write_bytes(whole[:len(whole) // 2])
    keiko("index", folder, "--out", tmp_path / "x.kix")
    done = pretrain(tmp_path / "x.kix")
    assert done.returncode in (0, 3), said(done)


def test_a_video_shorter_than_a_clip_is_trained_on_with_repeats(keiko, ffmpeg, few, pretrain, tmp_path):
    """Three frames for clips of eight: only frames 0 to 2 are named, and all clips are full."""
    (tmp_path / "short").mkdir()
    for i, clip in enumerate(clips(few)):
        subprocess.run([ffmpeg, "-v", "error", "-i", clip, "-frames:v", "3", tmp_path / "short" / f"{i}.mp4"], check=True)
    keiko("index", tmp_path / "short", "--out", tmp_path / "x.kix")
    done = pretrain(tmp_path / "x.kix")
    assert done.returncode == 0, said(done)
    for line in runs.samples(tmp_path / "run"):
        assert len(line["frames"]) == 8 and set(line["frames"]) <= {0, 1, 2}


NAMES = ["Ein Ordner mit Leerzeichen/ein film.mp4", "日本語 ✓/稽古.mp4", "it's \"quoted\"/100% {} $HOME.mp4",
         "a,b;c/#1 & 2.mp4"]


def test_paths_with_spaces_and_unicode_work_everywhere(keiko, ffmpeg, few, pretrain, tmp_path):
    """From index to the run folder's own name; pictures as ffmpeg has them."""
    root = tmp_path / "Ä Ordner 稽古"
    for name, clip in zip(NAMES, clips(few)):
        (root / name).parent.mkdir(parents=True)
        shutil.copy(clip, root / name)
    keiko("index", root, "--out", root / "ein index.kix")
    assert 4 in runs.numbers_in(keiko_json(keiko, "inspect", root / "ein index.kix", "--json"))
    for name in NAMES:
        wanted = ffmpeg_frames(ffmpeg, root / name)
        assert_same(keiko_frames(keiko, root / name, "0,7"), wanted, name)
    done = pretrain(root / "ein index.kix", name="lauf mit ü und 空白")
    assert done.returncode == 0, said(done)
    assert len(runs.metrics(tmp_path / "lauf mit ü und 空白")) == 2


def test_a_relative_path_with_a_colon_is_a_file_not_a_protocol(keiko, few, tmp_path):
    """libavformat takes "12:30.mp4" for protocol "12"."""
    shutil.copy(clips(few)[0], tmp_path / "12:30.mp4")
    named = keiko("decode", "12:30.mp4", "--frames", "0,5", "--md5", cwd=tmp_path).stdout
    assert named == keiko("decode", clips(few)[0], "--frames", "0,5", "--md5").stdout


# Catalogues ---------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(keiko, folder, tmp_path):
    keiko("index", folder, "--out", tmp_path / "x.kix")
    return tmp_path / "x.kix"


def test_videos_that_moved_are_named_with_the_way_out(folder, catalogue, pretrain):
    folder.rename(folder.with_name("elsewhere"))
    done = pretrain(catalogue)
    assert done.returncode == 1, said(done)
    assert re.search(r"good-\d\.mp4", done.stderr) and "index" in done.stderr, done.stderr


def test_a_video_that_changed_is_named_with_the_way_out(few, folder, catalogue, pretrain):
    """A well-formed other clip, longer by a byte, so that not even the size tells the same story."""
    (folder / "good-2.mp4").write_bytes(clips(few, 6)[5].read_bytes() + b"\0")
    done = pretrain(catalogue)
    assert done.returncode == 1, said(done)
    assert "good-2.mp4" in done.stderr and "index" in done.stderr, done.stderr


def test_a_torn_catalogue_is_an_error_that_names_it(keiko, catalogue):
    whole = catalogue.read_bytes()
    rng = random.Random(3)
    for length in [0, 1, 15, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(4))]:
        catalogue.write_bytes(whole[:length])
        done = keiko("inspect", catalogue, "--json", check=False)
        assert done.returncode == 1 and "x.kix" in done.stderr, f"cut to {length} of {len(whole)}: {said(done)}"


def test_flipped_bytes_in_a_catalogue_are_an_error_or_change_nothing(keiko, catalogue, pretrain):
    """A byte that no checksum covers may be padding; then the catalogue must read as before.

    What inspect reads lies behind the records (docs/formats.md); those are read by who needs them."""
    whole = catalogue.read_bytes()
    offset, size = struct.unpack_from("<qq", whole, len(whole) - 176 + 5 * 24)
    clean = keiko("inspect", catalogue, "--json").stdout
    rng = random.Random(4)
    refused = 0
    for at in [0, 5, 9, *sorted(rng.randrange(offset + size, len(whole)) for _ in range(16))]:
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << rng.randrange(8)
        catalogue.write_bytes(spoilt)
        done = keiko("inspect", catalogue, "--json", check=False)
        where = f"byte {at} of {len(whole)}: {said(done)}"
        if done.returncode == 0:
            assert done.stdout == clean, where
        else:
            assert done.returncode == 1 and "x.kix" in done.stderr, where
            refused += 1
    assert refused > 10
    catalogue.write_bytes(whole[:len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert pretrain(catalogue).returncode in (1, 2)


def test_what_is_no_catalogue_is_refused_by_name(keiko, few, pretrain, tmp_path):
    (tmp_path / "text.kix").write_text("hello\n" * 100)
    for wrong in (tmp_path / "text.kix", tmp_path / "missing.kix", tmp_path, clips(few)[0]):
        done = pretrain(wrong, name=f"run-{wrong.name}")
        assert done.returncode in (1, 2) and wrong.name in done.stderr, said(done)


# Recipes ------------------------------------------------------------------------------------------


def refused_recipe(keiko, tmp_path, text, *overrides):
    """What keiko says to this recipe; it must exit with 2 and leave no run folder."""
    (tmp_path / "my.yaml").write_text(text)
    done = keiko("train", tmp_path / "my.yaml", *overrides, check=False)
    assert done.returncode == 2, said(done)
    assert not (tmp_path / "run").exists()
    return done.stderr


@pytest.fixture
def recipe_text(few, tmp_path):
    """A good recipe as text, to be spoiled."""
    return runs.write_recipe(tmp_path / "good.yaml", runs.PRETRAIN,
                             {"data": str(few / "train.kix"), "run": str(tmp_path / "run")}).read_text()


def line_of(text, word):
    return next(i for i, line in enumerate(text.splitlines(), 1) if word in line)


SPOILT = [
    # what stands there, what is written instead, what the message must name besides file and line
    ("mask_ratio: 0.75", "mask_ration: 0.75", ["mask_ration", "mask_ratio"]),
    ("batch_size: 8", "batchsize: 8", ["batchsize", "batch_size"]),
    ("base_lr: 0.001", "base_rl: 0.001", ["optimizer.base_rl", "base_lr"]),
    ("mask: tube", "mask: tub", ["objective.mask", "tub", "tube"]),
    ("name: videomae", "name: videome", ["videome", "videomae"]),
    ("mask_ratio: 0.75", "mask_ratio: 1.5", ["objective.mask_ratio", "1.5"]),
    ("num_frames: 8", "num_frames: -8", ["clip.num_frames", "-8"]),
    ("steps: 5", "steps: many", ["steps", "many"]),
    ("micro_batch_size: 4", "micro_batch_size: -1", ["micro_batch_size", "-1"]),
    ("precision: fp32", "precision: fp23", ["precision", "fp23", "fp32"]),
    ("threads: 1", "threads: 1.5", ["threads", "1.5"]),
]


@pytest.mark.parametrize("old, new, named", SPOILT, ids=[new for _, new, _ in SPOILT])
def test_a_wrong_key_or_value_is_refused_with_line_value_and_nearest(keiko, tmp_path, recipe_text, old, new, named):
    assert old in recipe_text
    text = recipe_text.replace(old, new, 1)
    message = refused_recipe(keiko, tmp_path, text)
    for word in [f"my.yaml:{line_of(text, new)}:", *named]:
        assert word in message, message


def test_a_missing_key_is_refused_by_name(keiko, tmp_path, recipe_text):
    text = re.sub(r"^data: .*\n", "", recipe_text, flags=re.M)
    assert "data" in refused_recipe(keiko, tmp_path, text)


def test_values_that_do_not_fit_together_are_refused_with_both(keiko, tmp_path, recipe_text):
    """7 frames do not make tubelets of 2, 32 pixels no patches of 7, a width of 48 no 5 heads."""
    for override, named in (("clip.num_frames=7", ["num_frames", "7", "tubelet_size", "2"]),
                            ("objective.patch_size=7", ["patch_size", "7", "32"]),
                            ("objective.heads=5", ["heads", "5", "48"])):
        message = refused_recipe(keiko, tmp_path, recipe_text, override)
        assert all(word in message for word in named), message


def test_a_wrong_override_is_refused_with_the_nearest_key(keiko, tmp_path, recipe_text):
    message = refused_recipe(keiko, tmp_path, recipe_text, "optimizer.wieght_decay=0.1")
    assert "wieght_decay" in message and "weight_decay?" in message, message
    assert "key=value" in refused_recipe(keiko, tmp_path, recipe_text, "nonsense")


def test_a_recipe_that_is_no_yaml_is_refused_by_name(keiko, tmp_path):
    for text in ("clip: [1, 2\n", "\0\1\2", "just words\n", "", "extends: my.yaml\n", "extends: missing.yaml\n"):
        assert "my.yaml" in refused_recipe(keiko, tmp_path, text) or "missing.yaml" in text


def test_a_missing_recipe_is_refused_by_name(keiko, tmp_path):
    done = keiko("train", tmp_path / "nowhere.yaml", check=False)
    assert done.returncode in (1, 2) and "nowhere.yaml" in done.stderr


def test_labels_that_the_data_does_not_have_are_refused(keiko, catalogue, tmp_path):
    """The good videos lie in one folder without classes."""
    recipe = runs.write_recipe(tmp_path / "c.yaml", runs.CLASSIFY, {"data": str(catalogue), "run": str(tmp_path / "run")})
    done = keiko("train", recipe, check=False)
    assert done.returncode in (1, 2) and re.search("label|class", done.stderr), said(done)


# Run folders --------------------------------------------------------------------------------------


def test_a_run_folder_that_cannot_be_written_is_named(few, pretrain):
    """A path under a file: not even root can create it."""
    done = pretrain(few / "train.kix", {"run": "/dev/null/x"})
    assert done.returncode in (1, 2) and "/dev/null" in done.stderr, said(done)


def test_a_read_only_run_folder_is_named(few, pretrain, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("ROOT WRITES EVERYWHERE: a read-only run folder is not tried in this run (/dev/null/x is)")
    (tmp_path / "sealed").mkdir(mode=0o500)
    done = pretrain(few / "train.kix", {"run": str(tmp_path / "sealed" / "run")})
    assert done.returncode == 1 and "sealed" in done.stderr, said(done)


def test_the_run_folder_of_another_recipe_is_left_alone(keiko, few, pretrain, tmp_path):
    """Another objective, another data set: exit 2, the difference shown, nothing written."""
    assert pretrain(few / "train.kix").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    other = runs.write_recipe(tmp_path / "other.yaml", runs.CLASSIFY,
                              {"data": str(few / "train.kix"), "run": str(tmp_path / "run"), "steps": 3})
    done = keiko("train", other, check=False)
    assert done.returncode == 2 and "objective.name" in done.stderr, said(done)
    assert "videomae" in done.stderr and "classification" in done.stderr
    done = pretrain(few / "test.kix", {"steps": 3})
    assert done.returncode == 2 and "test.kix" in done.stderr and "train.kix" in done.stderr, said(done)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


@pytest.fixture
def small_disk(tmp_path):
    """mount(size) puts a tmpfs of that size at the returned folder, or resizes it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        options = f"size={size}" if not os.path.ismount(disk) else f"remount,size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"MOUNTING A TMPFS IS NOT PERMITTED: a full disk is not tried in this run ({done.stderr.strip()})")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_while_saving_is_named_and_loses_no_checkpoint(few, pretrain, small_disk, tmp_path):
    """The disk holds the run's small files but no checkpoint; on a larger one the run goes on to the same weights."""
    disk = small_disk("1m")
    big = {"objective.width": 96, "objective.depth": 4, "objective.mlp_ratio": 4.0, "steps": 4, "checkpoint.every": 2}
    assert pretrain(few / "train.kix", big, name="elsewhere").returncode == 0
    wanted = runs.weights(tmp_path / "elsewhere")

    done = pretrain(few / "train.kix", big | {"run": str(disk / "run")}, name="full")
    assert done.returncode == 1 and "No space left" in done.stderr and str(disk) in done.stderr, said(done)
    assert not list(disk.rglob("COMMIT"))
    small_disk("64m")
    done = pretrain(few / "train.kix", big | {"run": str(disk / "run")}, name="full")
    assert done.returncode == 0, said(done)
    found = runs.weights(disk / "run")
    assert all(found[name].equal(wanted[name]) for name in wanted)


def test_a_spoilt_checkpoint_is_an_error_that_names_the_file(few, pretrain, tmp_path):
    """Torn weights behind a COMMIT, as after a bad copy: never resumed from in silence."""
    assert pretrain(few / "train.kix").returncode == 0
    file = runs.checkpoint(tmp_path / "run") / "model.safetensors"
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    file.write_bytes(spoilt)
    done = pretrain(few / "train.kix", {"steps": 3})
    assert done.returncode == 1 and "model.safetensors" in done.stderr, said(done)
