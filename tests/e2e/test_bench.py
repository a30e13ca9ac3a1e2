"""`keiko bench decode`, the pass on demand, and the comparison with other loaders in bench/.

Truth: ffprobe counts packets; what a comparison must say is worked out by hand.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
FRAMES = list(range(3, 48, 3))


@pytest.fixture(scope="module")
def tiny(ffmpeg, tmp_path_factory):
    """DIR/videos/{one,two}.mp4 and broken.mp4, DIR/plan.json with the lists `media` and `edge`."""
    folder = tmp_path_factory.mktemp("bench")
    videos = folder / "videos"
    videos.mkdir()
    for name, picture in (("one", "testsrc2=s=160x120"), ("two", "mandelbrot=s=128x96")):
        subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", picture, "-frames:v", "64", "-c:v", "libx264",
                        "-pix_fmt", "yuv420p", "-threads", "1", videos / f"{name}.mp4"], check=True)
    (videos / "broken.mp4").write_bytes(b"this is not a video" * 100)
    clip = {"frames": FRAMES, "size": 64}
    every_frame = {"frames": list(range(64)), "size": 32}
    (folder / "plan.json").write_text(json.dumps({
        "folder": "videos",
        "media": [{"file": "one.mp4", **clip}, {"file": "two.mp4", **every_frame}, {"file": "two.mp4", **every_frame}],
        "edge": [{"file": "broken.mp4", **clip}, {"file": "one.mp4", **clip}]}))
    return folder


def packets(path):
    return int(subprocess.run(["ffprobe", "-v", "error", "-count_packets", "-show_entries", "stream=nb_read_packets",
                               "-of", "csv=p=0", path], check=True, stdout=subprocess.PIPE).stdout)


def test_every_file_of_a_plan_is_reported_by_itself(keiko, tiny):
    figures = json.loads(keiko("bench", "decode", "--plan", tiny / "plan.json", "--repeat", 2).stdout)
    assert (figures["clips"], figures["videos"], figures["failed"], figures["failures"]) == (3, 2, 0, [])
    one, two = figures["files"]
    assert (one["file"], one["clips"], two["file"], two["clips"]) == ("one.mp4", 1, "two.mp4", 2)
    assert one["packets_dropped_per_clip"] > 0, "x264's B-frames between wanted frames are left out"
    assert one["packets_decoded_per_clip"] + one["packets_dropped_per_clip"] <= packets(tiny / "videos" / "one.mp4")
    assert two["packets_decoded_per_clip"] == packets(tiny / "videos" / "two.mp4")
    assert two["packets_dropped_per_clip"] == 0, "every frame is wanted"
    for file in (one, two):
        assert file["bound_ms_per_clip"] > 0 and file["best_ms_per_clip"] > 0
        assert file["index_ms"] > 0
    assert figures["index_ms_per_clip_of_one_epoch"] == pytest.approx((one["index_ms"] + two["index_ms"]) / 2)
    seconds = (one["best_ms_per_clip"] + 2 * two["best_ms_per_clip"]) / 1000
    assert figures["rate_best_of_each_clip"] == pytest.approx(3 / seconds)


def test_a_clip_that_cannot_be_decoded_is_counted_and_named(keiko, tiny):
    figures = json.loads(keiko("bench", "decode", "--plan", tiny / "plan.json", "--list", "edge", "--repeat", 1).stdout)
    assert figures["failed"] == 1 and [f["file"] for f in figures["failures"]] == ["broken.mp4"]
    assert figures["clips_per_s"]["min"] > 0
    broken, one = figures["files"]
    assert broken["failed"] == 1 and broken["best_ms_per_clip"] is None
    assert one["failed"] == 0 and one["best_ms_per_clip"] > 0


def test_a_list_or_folder_that_the_plan_lacks_is_named(keiko, tiny, tmp_path):
    done = keiko("bench", "decode", "--plan", tiny / "plan.json", "--list", "real", check=False)
    assert done.returncode == 2 and "`real`" in done.stderr
    (tmp_path / "plan.json").write_text('{"media": []}')
    done = keiko("bench", "decode", "--plan", tmp_path / "plan.json", check=False)
    assert done.returncode == 2 and "--media" in done.stderr


def test_passes_run_when_stdin_asks_for_them(keiko_bin, keiko_env, tiny, tmp_path):
    command = [keiko_bin, "bench", "decode", "--plan", tiny / "plan.json", "--list", "edge", "--passes-on-stdin", "--json",
               tmp_path / "figures.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=keiko_env) as process:
        ready = json.loads(process.stdout.readline())
        assert ready["ready"] is True and ready["clips"] == 2 and ready["index_s"] > 0
        for word in ("pass", "bound", "pass"):
            process.stdin.write(word + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["kind"] == word and answer["cpu_s"] >= 0
            failed, decoded = answer["per_clip_s"]
            assert failed == -1 and 0 < decoded <= answer["seconds"]
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["repeat"] == 2 and figures["bound_clips_per_s"]["min"] > 0


def test_another_word_on_stdin_is_refused(keiko_bin, keiko_env, tiny):
    done = subprocess.run([keiko_bin, "bench", "decode", "--plan", tiny / "plan.json", "--passes-on-stdin"],
                          input="dance\n", capture_output=True, text=True, env=keiko_env, timeout=60)
    assert done.returncode == 2 and "`dance`" in done.stderr


def make_plans(tiny, out, *options):
    """Runs make_plans.py on the two sound videos."""
    videos = out / "videos"
    videos.mkdir()
    for name in ("one.mp4", "two.mp4"):
        (videos / name).symlink_to(tiny / "videos" / name)
    subprocess.run([sys.executable, "-B", BENCH / "make_plans.py", "--media", videos, "--out", out, *options], check=True)


def module(name):
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


class Seen:
    def __init__(self, name, best):
        self.name, self.best, self.rates = name, best, [1.0]

    def failed(self):
        return sum(s is None for s in self.best)


def test_the_comparison_takes_the_loader_that_is_hardest_to_beat():
    peers = module("peers")
    clips = [{"file": "a", "frames": [0]}, {"file": "a", "frames": [9]}, {"file": "b", "frames": [0]},
             {"file": "b", "frames": [5]}, {"file": "b", "frames": [7]}]
    keiko, bound = Seen("keiko", [1.0, 1.0, 2.0, 1.0, 1.0]), Seen("bound", [0.5, 0.5, 1.0, 0.5, 0.5])
    # Seconds for a: 4 and 6 against 2; for b: 8 and 4.4 against 4. Ratios: 2, 2 and 3, 1.1.
    even = Seen("even", [2.0, 2.0, 4.0, 2.0, 2.0])
    uneven = Seen("uneven", [3.0, 3.0, 2.2, 1.1, 1.1])
    rarely = Seen("rarely", [0.1, None, None, None, None])
    s = peers.summarise(clips, keiko, bound, [even, uneven, rarely], True)
    assert s["best"] == "uneven", "the geometric mean of 3 and 1.1 is under 2; who fails most is not the best"
    assert s["against_best"]["geometric_mean"] == pytest.approx(3.3 ** 0.5)
    assert (s["against_best"]["worst_file"], s["against_best"]["worst"]) == ("b", pytest.approx(1.1))
    assert s["against_best_of_each_file"]["geometric_mean"] == pytest.approx(2.2 ** 0.5)
    assert s["bound_over_keiko"] == pytest.approx(2)
    # A clip that one side failed counts for neither.
    assert peers.compare(clips, keiko.best, rarely.best)["files"] == {"a": pytest.approx(0.1)}


def test_made_plans_are_decoded(keiko, tiny, tmp_path):
    make_plans(tiny, tmp_path, "--sets", "kinetics", "--shorten", "12")
    plan = json.loads((tmp_path / "kinetics.json").read_text())
    assert len(plan["media"]) == 4 and {(c["width"], c["height"]) for c in plan["media"]} == {(340, 256)}
    for clip in plan["media"]:
        path = tmp_path / "kinetics" / clip["file"]
        assert clip["num_frames"] == packets(path) == 64
        assert clip["frames"] == list(range(clip["frames"][0], clip["frames"][0] + 61, 4))
    figures = json.loads(keiko("bench", "decode", "--plan", tmp_path / "kinetics.json", "--repeat", 1).stdout)
    assert figures["clips"] == 4 and figures["failed"] == 0


def test_peers_take_turns_with_keiko(keiko_bin, keiko_env, tiny, tmp_path):
    folder = os.environ.get("KEIKO_PEERS", "")
    if not (Path(folder) / ".venv" / "ready").exists():
        pytest.skip("KEIKO_PEERS HAS NO ENVIRONMENT (.venv): the comparison with other loaders is not tried in this run")
    make_plans(tiny, tmp_path, "--sets", "hevc", "--shorten", "10")
    done = subprocess.run([sys.executable, "-B", BENCH / "peers.py", "--keiko", keiko_bin, "--peers", folder, "--plan",
                           tmp_path / "hevc.json", "--rounds", "2", "--only", "pyav", "--json", tmp_path / "x.json"],
                          capture_output=True, text=True, env=keiko_env, timeout=300)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "x.json").read_text())
    assert [c["name"] for c in result["contestants"]] == ["keiko", "keiko, no pixels (bound)", "pyav"]
    for c in result["contestants"]:
        assert c["error"] is None and len(c["clips_per_s_by_round"]) == 2 and c["failed"] == 0
    assert result["summary"]["best"] == "pyav" and "| pyav |" in done.stdout


STEP_FIELDS = {"model", "batch", "frames", "side", "device", "dtype", "compile", "threads", "torch", "parameters",
               "flops_per_clip", "step_s", "clips_per_s", "peak_bytes", "loss"}


@pytest.mark.parametrize("model", ["videomae-s", "classify-s"])
def test_a_step_is_timed_part_by_part_and_its_work_counted(keiko, model):
    shape = ["--model", model, "--batch", 2, "--frames", 4, "--side", 64, "--threads", 1]
    figures = json.loads(keiko("-q", "bench", "step", *shape, "--steps", 3, "--warmup", 0, "--json", "-").stdout)
    assert STEP_FIELDS <= set(figures)
    assert len(figures["step_s"]["all"]) == 3 and 0 < figures["step_s"]["min"] <= figures["step_s"]["median"]
    assert figures["clips_per_s"] == pytest.approx(2 / figures["step_s"]["median"])
    parts = figures["parts_s"]
    assert list(parts) == ["zero_grad", "forward", "backward", "norm", "optimizer"]
    assert 0.5 * figures["step_s"]["min"] < sum(parts.values()) < 2 * figures["step_s"]["max"]
    # The same algorithm in PyTorch: as many weights, and torch itself counts the operations.
    own = subprocess.run([sys.executable, "-B", BENCH / "step_torch.py", *map(str, shape), "--steps", "1", "--warmup", "0"],
                         capture_output=True, text=True, timeout=300)
    assert own.returncode == 0, own.stderr
    torch = json.loads(own.stdout)
    assert STEP_FIELDS <= set(torch)
    assert figures["parameters"] == torch["parameters"]
    assert figures["flops_per_clip"] == pytest.approx(torch["flops_per_clip"], rel=0.05)
    assert figures["loss"][0] == pytest.approx(torch["loss"][0], rel=0.3), "first weights of the same kind"


def test_a_step_without_json_is_a_page_for_people(keiko):
    page = keiko("-q", "bench", "step", "--batch", 1, "--frames", 2, "--side", 32, "--threads", 1, "--steps", 1).stdout
    assert len(page.splitlines()) < 25 and "optimizer" in page and "GFLOP/s" in page and "{" not in page


def test_step_ratios_are_taken_within_a_round():
    step = module("step")

    def ran(fastest, slowest, peak):
        return {"step_s": {"min": fastest, "all": [slowest, fastest]}, "peak_bytes": peak, "flops_per_clip": 1,
                "parameters": 1}

    rounds = [{"keiko": ran(1.0, 1.5, 10), "eager": ran(2.0, 9.0, 30)},  # a quiet minute
              {"keiko": ran(3.0, 3.5, 20), "eager": ran(4.0, 9.0, 10)}]  # a busy one
    keiko, eager = step.summarise(rounds, ["keiko", "eager"])
    assert keiko["step_s"] == {"min": 1.0, "median": 2.25, "max": 3.5} and keiko["peak_bytes"] == 20
    assert eager["keiko_over_it_by_round"] == [0.5, 0.75] and eager["keiko_over_it"]["median"] == 0.625


def test_keiko_takes_turns_with_pytorch(keiko_bin, keiko_env, tmp_path):
    folder = os.environ.get("KEIKO_PEERS")
    if not folder:
        pytest.skip("KEIKO_PEERS IS NOT SET: the comparison of training steps with PyTorch is not tried in this run")
    done = subprocess.run([sys.executable, "-B", BENCH / "step.py", "--keiko", keiko_bin, "--peers", folder, "--sides",
                           "keiko", "eager", "own-eager", "--batch", "1", "--frames", "4", "--side", "64", "--threads", "1",
                           "--rounds", "2", "--steps", "1", "--json", tmp_path / "x.json"],
                          capture_output=True, text=True, env=keiko_env, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "x.json").read_text())
    assert [row["side"] for row in result["sides"]] == ["keiko", "eager", "own-eager"] and len(result["runs"]) == 2
    assert all(len(row["keiko_over_it_by_round"]) == 2 for row in result["sides"][1:])
    assert "| plain PyTorch |" in done.stdout
