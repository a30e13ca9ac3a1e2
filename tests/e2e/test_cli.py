"""The commands as a user meets them: help, exit codes, JSON, pictures.

Truth: the command line of the design; json, numpy and Pillow open what keiko writes.
"""

import json
import os
import re
import shutil
import subprocess

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
    "train": ["key=value", "--trace", "ui.perfetto.dev"],
    "eval": ["--json"],
    "bench": ["decode", "loader", "step", "reduce", "checkpoint"],
    "simulate": ["--costs", "--ranks", "--set", "--json", "--plot", "link_bytes_per_s"],
    "doctor": ["--json"],
}


def parsed(keiko, *args, **kwargs):
    """stdout as JSON: nothing else may stand there."""
    done = keiko(*args, **kwargs)
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
                                  ["bench", "sandwich"], ["bench", "step", "--cuda-graph"]],
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


def test_doctor_says_the_same_in_words_and_in_json(keiko):
    report = parsed(keiko, "doctor", "--json")
    words = keiko("doctor").stdout
    for key, value in report.items():
        assert re.search(rf"^{key.removesuffix('_bytes')}\b", words, re.M), f"{key} is not in {words}"
        if isinstance(value, dict):
            for name in value:
                assert re.search(rf"^{key} +{re.escape(name)}: \S", words, re.M), f"{key} {name} is not in {words}"


def libraries_first_in(folder):
    return {"LD_LIBRARY_PATH": ":".join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))}


def test_doctor_says_what_is_missing_for_gpus_and_what_to_do(keiko, tmp_path):
    """A driver that is not one stands for a machine without: the answer does not depend on where this runs."""
    (tmp_path / "libcuda.so.1").write_text("not a library")
    gpu = parsed(keiko, "doctor", "--json", env=libraries_first_in(tmp_path))["gpu"]
    assert set(gpu) == {"driver", "nvdec", "ffmpeg", "torch", "nccl"}
    assert gpu["driver"].startswith("none: ") and "libcuda.so.1" in gpu["driver"]
    assert "install NVIDIA's driver" in gpu["driver"]
    assert gpu["nvdec"].startswith("none: ")
    assert "NVDEC" in gpu["ffmpeg"] and "CUDA" in gpu["torch"]
    assert re.match(r"none: .*nvidia-nccl|\d+\.\d+\.\d+$", gpu["nccl"])


# A driver with one GPU, as cuda.h and cuviddec.h declare what Keiko asks of it. It takes H.264 of 8 bits
# 4:2:0 and HEVC of up to 10 bits 4:2:0, on 7 engines.
FAKE_CUDA = """
#include <string.h>
int cuInit(unsigned f) { return FAILS ? 999 : 0; }
int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int i) { *d = 40 + i; return 0; }
int cuDeviceGetName(char* s, int n, int d) { strncpy(s, d == 40 ? "Paper H100" : "?", n); return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) { *v = a == 75 ? 9 : a == 76 ? 1 : -1; return 0; }
int cuDeviceTotalMem_v2(unsigned long* n, int d) { *n = 80ul << 30; return 0; }
static int held = 0, pushed = 0;
int cuDevicePrimaryCtxRetain(void** c, int d) { *c = &held; ++held; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { return --held < 0; }
int cuCtxPushCurrent_v2(void* c) { pushed += c == &held; return 0; }
int cuCtxPopCurrent_v2(void** c) { return --pushed < 0; }
int cuMemGetInfo_v2(unsigned long* f, unsigned long* t) {
  *f = 79ul << 30; *t = 80ul << 30;
  return held == 1 && pushed == 1 ? 0 : 201;  /* no context */
}
int cuGetErrorName(int e, const char** s) { *s = "CUDA_ERROR_OF_PAPER"; return 0; }
"""
FAKE_CUVID = """
struct caps { int codec, chroma; unsigned depth, r1[3]; unsigned char ok, engines; unsigned short formats;
              unsigned w, h, mbs; unsigned short min_w, min_h; unsigned char hist, bits; unsigned short bins;
              unsigned r3[10]; };
int cuvidGetDecoderCaps(struct caps* c) {
  c->ok = c->chroma == 1 && (c->codec == 4 ? c->depth == 0 : c->codec == 8 && c->depth <= 2);
  c->engines = 7; c->w = c->codec == 4 ? 4096 : 8192; c->h = c->w; c->mbs = 65536; c->min_w = 48; c->min_h = 16;
  return 0;
}
"""


def fake_library(path, code, *flags):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler to make a stand-in for NVIDIA's driver")
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", path, *flags], input=code, text=True, check=True)


def test_doctor_reports_gpus_and_what_their_decoders_take(keiko, tmp_path):
    fake_library(tmp_path / "libcuda.so.1", FAKE_CUDA, "-DFAILS=0")
    env = libraries_first_in(tmp_path)
    gpu = parsed(keiko, "doctor", "--json", env=env)["gpu"]
    assert gpu["driver"] == "knows CUDA up to 13.0"
    assert gpu["gpu 0"] == "Paper H100, compute capability 9.1, 84.8 GB of 85.9 GB free"
    assert "gpu 0 decodes" not in gpu and "libnvcuvid.so.1" in gpu["nvdec"] and "video" in gpu["nvdec"]
    fake_library(tmp_path / "libnvcuvid.so.1", FAKE_CUVID)
    gpu = parsed(keiko, "doctor", "--json", env=env)["gpu"]
    assert gpu["nvdec"].startswith("there")
    assert gpu["gpu 0 decodes"] == ("h264 4:2:0 8 bits to 4096x4096, hevc 4:2:0 8/10 bits to 8192x8192; 7 engines")
    fake_library(tmp_path / "libcuda.so.1", FAKE_CUDA, "-DFAILS=1")
    gpu = parsed(keiko, "doctor", "--json", env=env)["gpu"]
    assert "999 (CUDA_ERROR_OF_PAPER)" in gpu["driver"] and "gpu 0" not in gpu


def test_decoding_on_a_gpu_is_refused_by_name_where_there_is_none(keiko, few, tmp_path):
    """Asked for, it ends with what is missing before anything is trained or measured; left open, the CPU decodes."""
    (tmp_path / "libcuda.so.1").write_text("not a library")
    env = libraries_first_in(tmp_path)
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN, {"data": str(few / "train.kix")})
    (tmp_path / "plan.json").write_text('{"media": [{"file": "x.mp4", "frames": [0], "size": 32}]}')
    for command in (("train", recipe, f"run={tmp_path / 'run'}", "loader.decode=nvdec"),
                    ("train", recipe, "--dry-run", "loader.decode=nvdec"),
                    ("bench", "loader", recipe, "--steps", 1, "loader.decode=nvdec")):
        done = keiko(*command, check=False, env=env)
        assert done.returncode == 2 and "loader.decode = nvdec" in done.stderr, (command, done.stderr)
    assert not (tmp_path / "run").exists()
    done = keiko("bench", "decode", "--decoder", "nvdec", "--plan", tmp_path / "plan.json", "--media", few, check=False, env=env)
    assert done.returncode == 2 and "libcuda.so.1" in done.stderr, done.stderr
    assert "decoded on the CPU" in keiko("train", recipe, "--dry-run", env=env).stdout
    assert parsed(keiko, "bench", "loader", recipe, "--steps", 1, env=env)["decoder"] == "cpu"


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
