"""Damaged videos change no sample that another number of ranks, or a resumed run, would not change too.

Two kinds of damage, told apart by the ffmpeg command line: some frames do not come out at all, or all
come out and some are patched up (concealed). `clip.damaged: replace` takes both for bad samples,
`keep` only the first. Truth: the one-rank run that nothing interrupts.
"""

import math
import random
import re
import signal
import subprocess

import pytest

import runs
from test_ranks import LOSS_TOLERANCE, by_hand, under_torchrun
from test_resume import assert_same_run, launch, trained_steps, wait_until  # noqa: F401 (a fixture)

STEPS = 12  # as test_resume's, whose comparison is used here
VIDEOS, FRAMES, GOP = 12, 24, 8


def packets_of(path):
    """(position, size) of every packet, in decode order."""
    said = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=pos,size", "-of",
                           "csv=p=0", path], check=True, capture_output=True, text=True).stdout
    packets = [tuple(map(int, re.findall(r"\d+", line))) for line in said.split()]
    return [(position, size) for size, position in packets]


def decoded(path):
    """How many frames come out of ffmpeg, and whether it patched some of them up."""
    done = subprocess.run(["ffmpeg", "-v", "info", "-threads", "1", "-i", path, "-f", "null", "-"], capture_output=True,
                          text=True, errors="replace")
    return int(re.findall(r"frame= *(\d+)", done.stderr)[-1]), "concealing" in done.stderr


def overwrite(path, at, content):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.fixture(scope="module")
def damaged(keiko, ffmpeg, tmp_path_factory):
    """A catalogue of 12 videos, and the names of those with concealed frames and of those with missing ones."""
    folder = tmp_path_factory.mktemp("damaged")
    rng = random.Random(3)
    concealed, missing = set(), set()
    (folder / "v").mkdir()
    for i in range(VIDEOS):
        path = folder / "v" / f"{i:02}.mp4"
        subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", f"mandelbrot=s=128x96:r=25:start_x={-0.7 - i / 100}",
                        "-frames:v", str(FRAMES), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", str(GOP), "-crf", "18",
                        "-threads", "1", path], check=True)
        if i % 3 == 1:  # the second half of two pictures in the middle
            for position, size in packets_of(path)[FRAMES // 2 - 1:FRAMES // 2 + 1]:
                overwrite(path, position + size // 2, rng.randbytes(size // 4))
            assert decoded(path) == (FRAMES, True), f"{path}: not the damage that the test needs"
            concealed.add(path.name)
        elif i % 6 == 2:  # slices of a whole group of pictures name picture parameters that are not there
            for position, _ in packets_of(path)[GOP:2 * GOP]:
                overwrite(path, position + 5, b"\x88\x01\x00")  # first_mb 0, slice_type 7, PPS 127
            assert decoded(path)[0] < FRAMES, f"{path}: not the damage that the test needs"
            missing.add(path.name)
    keiko("index", folder / "v", "--out", folder / "v.kix")
    return folder / "v.kix", concealed, missing


@pytest.fixture(scope="module", params=["replace", "keep"])
def alone(request, keiko, damaged, tmp_path_factory):
    """How damage is treated, the one-rank run's folder, and a function that writes its recipe for another folder."""
    folder = tmp_path_factory.mktemp(request.param)

    def recipe(name):
        return runs.write_recipe(folder / f"{name}.yaml", runs.PRETRAIN, {
            "data": str(damaged[0]), "steps": STEPS, "checkpoint.every": 4, "clip.damaged": request.param,
            "loader.max_bad_samples": 1000, "run": str(folder / name)})

    keiko("train", recipe("alone"))
    return request.param, folder / "alone", recipe


def names(run):
    return {line["path"].split("/")[-1] for line in runs.json_lines(run / "quarantine.jsonl")}


def by_position(lines):
    return sorted(lines, key=lambda line: (line["position"], line.get("attempt", 0)))


def test_what_is_replaced_is_what_the_recipe_says(alone, damaged):
    treatment, run, _ = alone
    _, concealed, missing = damaged
    assert names(run) == (concealed | missing if treatment == "replace" else missing)


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_replaces_the_same_samples(alone, keiko_bin, keiko_env, tmp_path, ranks):
    _, wanted, recipe = alone
    found = wanted.parent / f"ranks-{ranks}"
    start = under_torchrun if ranks == 2 else by_hand
    start(keiko_bin, keiko_env, recipe(found.name), ranks, tmp_path)
    quarantines = [by_position(runs.json_lines(run / "quarantine.jsonl")) for run in (found, wanted)]
    assert quarantines[0] == quarantines[1]
    union = [line for rank in range(ranks) for line in runs.samples(found, rank)]
    assert by_position(union) == by_position(runs.samples(wanted))
    # The pictures are the same, patched up or not: so is the loss of every step.
    for a, b in zip(runs.metrics(found), runs.metrics(wanted), strict=True):
        assert math.isclose(a["loss"], b["loss"], rel_tol=LOSS_TOLERANCE), f"step {a['step']}"


def test_a_run_killed_on_the_way_ends_with_the_same_bytes(alone, keiko, launch):  # noqa: F811
    _, wanted, recipe = alone
    run = wanted.parent / "killed"
    file = recipe(run.name)
    kills = 0
    for target in (3, 7, 10):
        process = launch("train", file)
        wait_until(process, lambda: trained_steps(run) >= target)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    keiko("train", file)
    assert_same_run(run, wanted)
    assert (run / "quarantine.jsonl").read_bytes() == (wanted / "quarantine.jsonl").read_bytes()
