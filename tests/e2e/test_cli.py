"""The commands as a user meets them: help, exit codes, JSON, pictures.

Truth: the command line of the design; json, numpy and Pillow open what keiko writes.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

import runs

OPTIONS = {
    "synth": ["--out", "--task", "--train", "--test", "--size", "--frames", "--seed", "drift", "sprites"],
    "index": ["--out", "--json", "--timeout"],
    "inspect": ["--json", "--plan", "--against"],
    "decode": ["--frames", "--md5", "--size", "--out"],
    "preview": ["--step", "--out", "--tensors", "--steps"],
    "train": ["key=value"],
    "eval": ["--json"],
    "bench": ["decode", "loader", "step", "reduce", "checkpoint"],
    "simulate": ["--costs", "--ranks", "--set", "--json", "--plot", "link_bytes_per_s"],
    "doctor": [],
}


def parsed(keiko, *args):
    """stdout as JSON: nothing else may stand there."""
    done = keiko(*args)
    try:
        return json.loads(done.stdout)
    except ValueError as e:
        pytest.fail(f"keiko {' '.join(map(str, args))}: stdout is not JSON ({e}): {done.stdout[:500]}")


@pytest.mark.parametrize("command", OPTIONS)
def test_help_exits_0_and_names_the_options(keiko, command):
    text = keiko(command, "--help").stdout
    for option in OPTIONS[command]:
        assert option in text, f"keiko {command} --help does not mention {option}:\n{text}"
    assert len(text.splitlines()) > 3


def test_the_general_help_lists_every_command(keiko):
    text = keiko("--help").stdout
    assert all(re.search(rf"\b{command}\b", text) for command in OPTIONS), text


@pytest.mark.parametrize("args", [["trian"], ["train"], ["decode"], ["index", "--uot", "x"], ["synth"],
                                  ["synth", "--out", "{tmp}", "--task", "swirl"],
                                  ["synth", "--out", "{tmp}", "--train", "-3"],
                                  ["bench", "sandwich"]],
                         ids=lambda args: " ".join(args))
def test_wrong_usage_exits_2_and_says_why(keiko, tmp_path, args):
    done = keiko(*(arg.format(tmp=tmp_path / "x") for arg in args), check=False)
    assert done.returncode == 2 and done.stderr.strip(), done.stdout


def test_an_error_begins_with_the_command_and_fits_a_line(keiko, tmp_path):
    """`keiko COMMAND: what was wrong`: no stack, no exception name."""
    done = keiko("decode", tmp_path / "no.mp4", "--frames", "0", "--md5", check=False)
    assert done.returncode in (1, 2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("keiko decode: ") and "no.mp4" in lines[0], done.stderr


def test_doctor_runs(keiko):
    assert keiko("doctor").stdout.strip()


def test_synth_is_deterministic_and_complete(keiko, few, tmp_path):
    """The same seed writes the same bytes; 8 classes; the numbers asked for. Another seed writes others."""
    for name, seed in (("again", 1), ("other", 2)):
        keiko("synth", "--task", "drift", "--out", tmp_path / name, "--train", 16, "--test", 8, "--seed", seed)
    wanted = {p.relative_to(few): p.read_bytes() for p in few.rglob("*.mp4")}
    found = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*.mp4")}
    assert found == wanted and len(wanted) == 24
    assert len({p.parts[1] for p in wanted}) == 8
    other = {p.relative_to(tmp_path / "other"): p.read_bytes() for p in (tmp_path / "other").rglob("*.mp4")}
    assert not set(other.values()) & set(wanted.values())


def test_synth_sprites_writes_clips_of_the_size_and_length_asked(keiko, tmp_path):
    keiko("synth", "--task", "sprites", "--out", tmp_path, "--train", 8, "--test", 8, "--size", 48, "--frames", 10)
    clip = min(tmp_path.glob("train/*/*.mp4"))
    assert len(keiko("decode", clip, "--frames", "all", "--md5").stdout.splitlines()) == 10
    keiko("decode", clip, "--frames", "0", "--out", tmp_path / "f.npy")
    assert sorted(np.load(tmp_path / "f.npy").shape) == [1, 3, 48, 48]


def test_index_and_inspect_speak_json(keiko, few, tmp_path):
    assert 16 in runs.numbers_in(parsed(keiko, "index", few / "train", "--out", tmp_path / "x.kix", "--json"))
    catalogue = parsed(keiko, "inspect", tmp_path / "x.kix", "--json")
    assert 16 in runs.numbers_in(catalogue)
    classes = {p.name for p in (few / "train").iterdir() if p.is_dir()}
    assert all(f'"{name}"' in json.dumps(catalogue) for name in classes)
    video = parsed(keiko, "inspect", min(few.glob("train/*/*.mp4")), "--json")
    assert {16, 32} <= set(runs.numbers_in(video))  # frames and pixels
    assert "h264" in json.dumps(video).lower()


def test_indexing_again_gives_a_catalogue_that_trains_alike(keiko, few, train, tmp_path):
    """Order and content come from the folder, not from the moment: the same samples either way."""
    keiko("index", few / "train", "--out", tmp_path / "x.kix")
    logs = [(train(name, runs.PRETRAIN, {"data": str(kix)}) / "samples-0.jsonl").read_bytes()
            for name, kix in (("a", few / "train.kix"), ("b", tmp_path / "x.kix"))]
    assert logs[0] == logs[1]


def test_a_decode_plan_is_printed_in_words_and_as_json(keiko, few):
    clip = min(few.glob("train/*/*.mp4"))
    assert keiko("inspect", clip, "--plan", "3,7").stdout.strip()
    plan = parsed(keiko, "inspect", clip, "--plan", "3,7", "--json")
    assert {3, 7} <= set(runs.numbers_in(plan))


def test_decoded_frames_are_the_same_as_png_and_as_npy(keiko, few, tmp_path):
    clip = min(few.glob("train/*/*.mp4"))
    for size in ([], ["--size", 24]):
        keiko("decode", clip, "--frames", "0,4,8", *size, "--out", tmp_path / f"png{len(size)}")
        keiko("decode", clip, "--frames", "0,4,8", *size, "--out", tmp_path / f"{len(size)}.npy")
        pictures = np.stack([np.asarray(Image.open(p).convert("RGB"))
                             for p in sorted((tmp_path / f"png{len(size)}").glob("*.png"))])
        array = np.load(tmp_path / f"{len(size)}.npy")
        if array.shape[1] == 3:  # channels first
            array = array.transpose(0, 2, 3, 1)
        assert pictures.shape == (3, *[24 if size else 32] * 2, 3)
        assert np.array_equal(pictures, array)


def test_preview_writes_pictures_that_open(keiko, drift, tmp_path):
    """A contact sheet of a batch of 8 clips of 8 frames of 32 pixels has at least that many pixels."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(tmp_path / "run")})
    keiko("preview", recipe, "--step", 2, "--out", tmp_path / "sheets")
    sheets = sorted((tmp_path / "sheets").rglob("*.png"))
    assert sheets
    for sheet in sheets:
        picture = np.asarray(Image.open(sheet).convert("RGB"))
        assert picture.std() > 1, f"{sheet} is blank"
    assert sum(np.prod(Image.open(sheet).size) for sheet in sheets) >= 8 * 8 * 32 * 32


@pytest.fixture
def run(drift, train):
    return train("run", runs.CLASSIFY, {"data": str(drift / "train.kix"),
                                        "eval": {"every": 5, "data": str(drift / "test.kix")}})


def test_eval_repeats_the_figures_of_the_training_run(keiko, run):
    """Truth: the last eval line of metrics.jsonl; every one of the 64 test clips counted."""
    figures = parsed(keiko, "eval", run, "--json")
    [line] = runs.metrics(run, "eval")
    assert 64 in runs.numbers_in(figures)
    for field in ("top1", "loss"):
        assert any(abs(n - line[field]) <= 1e-6 * abs(line[field]) for n in runs.numbers_in(figures)), \
            f"{field} = {line[field]} is not among {figures}"


def test_a_run_folder_holds_what_the_design_lists(run):
    for name in ("recipe.yaml", "run.json", "metrics.jsonl", "log.txt", "report.html", "checkpoints/latest", "tensorboard"):
        assert (run / name).exists(), name
    json.loads((run / "run.json").read_text())
    for line in runs.metrics(run):
        assert line.keys() >= {"kind", "step", "time", "position", "epoch", "loss", "lr", "grad_norm", "step_s",
                               "data_wait_s", "clips_per_s", "frames_per_s"}
    assert runs.metrics(run)[-1]["step"] == 5


def test_the_resolved_recipe_is_a_recipe_that_defines_the_same_run(keiko, run):
    """recipe.yaml from the run folder resumes that run, and nothing is left to do."""
    before = (runs.checkpoint(run) / "model.safetensors").read_bytes()
    keiko("train", run / "recipe.yaml", f"run={run}")
    assert (runs.checkpoint(run) / "model.safetensors").read_bytes() == before
    assert len(runs.metrics(run)) == 5
