"""What a run is fed with: windows of films, frames by time, labels from a list, indexing over ranks.

Truth: ffprobe's timestamps, the lists that the test writes, and the catalogue that one rank makes.
"""

import json
import shutil
import subprocess
import sys

import pytest

import runs


def inspected(keiko, *args):
    return json.loads(keiko("inspect", *args, "--json").stdout)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """One video of variable frame rate: every frame of the first two seconds, then one of five."""
    folder = tmp_path_factory.mktemp("uneven")
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=30:duration=12",
                    "-vf", "select='lt(n,60)+not(mod(n,5))'", "-vsync", "vfr", "-bf", "2",
                    folder / "uneven.mp4"], check=True)
    return folder


def shown_times(video):
    """When each frame is shown, in seconds, in presentation order."""
    out = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
                          "frame=best_effort_timestamp_time", "-of", "csv=p=0", video],
                         check=True, capture_output=True, text=True).stdout
    return [float(line.strip(",")) for line in out.split() if line.strip(",")]


def test_frames_by_time_follow_a_variable_frame_rate(keiko, uneven, train):
    """There is one start from which every frame is the last with pts <= start + t * rate / fps."""
    keiko("index", uneven, "--out", uneven / "x.kix")
    times = shown_times(uneven / "uneven.mp4")
    gaps = {round(b - a, 3) for a, b in zip(times, times[1:])}
    assert len(gaps) > 1, "the video is not of variable frame rate"
    run = train("vfr", runs.PRETRAIN, {"data": str(uneven / "x.kix"), "clip.fps": 10, "clip.sampling_rate": 2})
    strides = set()
    for line in runs.samples(run):
        low, high = -1e9, 1e9
        for t, frame in enumerate(line["frames"]):
            low = max(low, times[frame] - t * 0.2)
            if frame + 1 < len(times):
                high = min(high, times[frame + 1] - t * 0.2)
        assert low < high + 1e-6, f"no start gives the frames {line['frames']}"
        strides |= {b - a for a, b in zip(line["frames"], line["frames"][1:])}
    assert len(strides) > 2, "frames by index in disguise"


def test_a_film_weighs_what_it_holds(keiko, uneven, few, train, tmp_path):
    """Almost twelve seconds are six windows of 1.9, a short clip is one; each comes once in an epoch."""
    shutil.copy(uneven / "uneven.mp4", tmp_path / "film.mp4")
    shutil.copy(min(few.glob("train/*/*.mp4")), tmp_path / "short.mp4")
    keiko("index", tmp_path / "film.mp4", tmp_path / "short.mp4", "--out", tmp_path / "x.kix")
    times = shown_times(tmp_path / "film.mp4")
    run = train("film", runs.PRETRAIN, {"data": str(tmp_path / "x.kix"), "clip.sample_by": "duration",
                                        "clip.window_s": 1.9, "clip.num_frames": 2, "batch_size": 7,
                                        "micro_batch_size": 7, "steps": 2})
    lines = runs.samples(run)
    for epoch in (lines[:7], lines[7:]):
        seen = sorted((line["item"], line["window"]) for line in epoch)
        assert seen == [(0, w) for w in range(6)] + [(1, 0)]
    for line in lines:
        if line["item"] == 0:
            assert min(5, int(times[line["frames"][0]] / 1.9 + 1e-6)) == line["window"]


def test_one_index_serves_many_label_sets(keiko, few, train, tmp_path):
    videos = sorted((few / "train").rglob("*.mp4"))
    (tmp_path / "a.csv").write_text("label,note,path\n" + "".join(
        f"{'even' if i % 2 == 0 else 'odd'},\"a, b\",{video}\n" for i, video in enumerate(videos[:10])))
    (tmp_path / "b.txt").write_text("".join(f"{video.relative_to(few)} {i % 3}\n" for i, video in enumerate(videos)))
    hashes = set()
    for name, wanted in (("a.csv", 10), ("b.txt", 16)):
        run = train(name[0], runs.CLASSIFY, {"data": [{"path": str(few / "train.kix"), "labels": str(tmp_path / name)}]})
        lines = runs.samples(run)
        assert {line["item"] for line in lines} == set(range(wanted))
        for line in lines:
            # Items are in the order of the catalogue, which is that of the sorted files.
            truth = 0 if line["item"] % 2 == 0 else 1
            assert line["label"] == (truth if wanted == 10 else line["item"] % 3)
        hashes.add(json.loads((run / "run.json").read_text())["data_hash"])
        assert len(json.loads((runs.checkpoint(run) / "config.json").read_text())["id2label"]) == (2 if wanted == 10 else 3)
    assert len(hashes) == 2


def test_videos_of_both_splits_are_named_before_training(keiko, few, tmp_path):
    shutil.copy(min(few.glob("train/*/*.mp4")), tmp_path / "copy.mp4")
    keiko("index", tmp_path / "copy.mp4", "--out", tmp_path / "held.kix")
    found = inspected(keiko, few / "train.kix", "--against", tmp_path / "held.kix")
    assert found["videos_also_in_this"] == 1 and found["first_of_them"][0].endswith("copy.mp4")
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN, {
        "data": str(few / "train.kix"), "eval.data": str(tmp_path / "held.kix"), "steps": 1,
        "run": str(tmp_path / "run")})
    said = keiko("train", recipe)
    assert "1 videos of eval.data are in the training data too" in said.stderr and "copy.mp4" in said.stderr


def test_index_tells_what_is_strange_about_its_sources(keiko, few, tmp_path):
    video = min(few.glob("train/*/*.mp4"))
    shutil.copy(video, tmp_path / "a.mp4")
    shutil.copy(video, tmp_path / "b.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 1\nb.mp4 1\na.mp4 2\ngone.mp4 1\n")
    done = keiko("index", tmp_path / "list.txt", "--out", tmp_path / "x.kix", "--json")
    report = json.loads(done.stdout)
    assert [report[k] for k in ("videos", "items", "missing", "duplicate_paths", "duplicate_contents")] == [2, 3, 1, 1, 1]
    for text in ("gone.mp4: no such file", "a.mp4", "b.mp4"):
        assert text in done.stderr


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_under_torchrun_make_the_catalogue_of_one(keiko, keiko_bin, keiko_env, few, tmp_path, ranks):
    out = tmp_path / "x.kix"
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
                           f"--nproc-per-node={ranks}", keiko_bin, "index", few / "train", "--out", out, "--json"],
                          capture_output=True, text=True, timeout=240, env=keiko_env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["videos"] == 16, "rank 0 alone prints"
    keiko("index", few / "train", "--out", tmp_path / "one.kix")
    assert inspected(keiko, out)["hash"] == inspected(keiko, tmp_path / "one.kix")["hash"]
    assert sorted(p.name for p in tmp_path.glob("x.kix*")) == ["x.kix"]


def test_a_rank_that_never_came_is_named_and_its_share_can_be_done_by_others(keiko, few, tmp_path):
    env = {"RANK": "0", "WORLD_SIZE": "2"}
    done = keiko("index", few / "train", "--out", tmp_path / "x.kix", "--timeout", 1, env=env, check=False)
    assert done.returncode == 1 and "rank 1 of 2 has made no progress" in done.stderr
    again = json.loads(keiko("index", few / "train", "--out", tmp_path / "x.kix", "--json").stdout)
    assert (again["videos"], again["reused"]) == (16, 8)
