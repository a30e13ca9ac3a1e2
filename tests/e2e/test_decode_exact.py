"""Every decoded picture is the picture ffmpeg shows.

Truth: the ffmpeg command line's sequential decode of the stream it chooses by itself, as md5 of the
raw planes (`-f framemd5`) with the timestamps of the file (`-copyts -enc_time_base -1`).
"""

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

SEED = 20
LONGEST = "one-by-one-person-detection.mp4"
SETS_ON = ["asl_again.mkv", "nasa_13013.mp4", "bikes.mp4", "flipping_a_pancake.mkv", "carphone_pristine.mp4"]

MEDIA = Path(os.environ.get("KEIKO_TEST_MEDIA", "/nonexistent"))


def files(folder):
    """Names to run over; one stand-in without media, so that the skip is visible."""
    return sorted(p.name for p in (MEDIA / folder).glob("*")) or ["no-media"]


def ffmpeg_frames(ffmpeg, video):
    """[(pts, md5)] of every frame, sequentially decoded; unrotated, as coded. One decoder thread: what libavcodec
    conceals in a damaged file (decord_corrupted.mp4) depends on how many there are; good files are the same."""
    done = subprocess.run([ffmpeg, "-v", "error", "-threads", "1", "-noautorotate", "-copyts", "-i", video, "-an", "-sn", "-dn",
                           "-vsync", "passthrough", "-enc_time_base", "-1", "-f", "framemd5", "-"],
                          capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in done.stdout.splitlines() if not line.startswith("#")]
    return [(int(row[2]), row[5].strip()) for row in rows]


def keiko_frames(keiko, video, frames):
    """[(index, pts, md5)] as printed."""
    rows = [line.split() for line in keiko("decode", video, "--frames", frames, "--md5").stdout.splitlines()]
    return [(int(index), int(pts), md5) for index, pts, md5 in rows]


def assert_same(found, wanted, name):
    """`found` [(index, pts, md5)] against `wanted` [(pts, md5)], index by index, naming the first that differs."""
    for index, pts, md5 in found:
        assert md5 == wanted[index][1], f"{name}: frame {index} is {md5}, ffmpeg has {wanted[index][1]}"
        assert pts == wanted[index][0], f"{name}: frame {index} has pts {pts}, ffmpeg has {wanted[index][0]}"


def some_indices(count, size, rng):
    """`size` indices below `count` in no order, some twice."""
    chosen = [rng.randrange(count) for _ in range(size)]
    return chosen + rng.sample(chosen, 3)


@pytest.mark.parametrize("name", files("real"))
def test_every_frame_of_every_real_video_equals_ffmpeg(keiko, media, ffmpeg, name):
    wanted = ffmpeg_frames(ffmpeg, media / "real" / name)
    found = keiko_frames(keiko, media / "real" / name, "all")
    assert [index for index, _, _ in found] == list(range(len(wanted)))
    assert_same(found, wanted, name)


@pytest.mark.parametrize("name", SETS_ON)
def test_any_set_of_frames_comes_exact_and_in_the_order_asked(keiko, media, ffmpeg, name):
    """Seeded sets, unordered and with duplicates; one of few frames, one of many."""
    wanted = ffmpeg_frames(ffmpeg, media / "real" / name)
    rng = random.Random(f"{SEED} {name}")
    for size in (5, 40):
        asked = some_indices(len(wanted), size, rng)
        found = keiko_frames(keiko, media / "real" / name, ",".join(map(str, asked)))
        assert [index for index, _, _ in found] == asked
        assert_same(found, wanted, name)


def test_single_frames_of_the_longest_video_equal_ffmpeg(keiko, media, ffmpeg):
    """First, last, and seeded ones between; each in a process of its own."""
    wanted = ffmpeg_frames(ffmpeg, media / "real" / LONGEST)
    rng = random.Random(SEED)
    for index in [0, len(wanted) - 1, *(rng.randrange(len(wanted)) for _ in range(6))]:
        found = keiko_frames(keiko, media / "real" / LONGEST, index)
        assert [i for i, _, _ in found] == [index]
        assert_same(found, wanted, LONGEST)


def test_a_frame_outside_the_video_is_refused_by_its_index(keiko, media, ffmpeg):
    video = media / "real" / "bigbuckbunny.mp4"
    count = len(ffmpeg_frames(ffmpeg, video))
    for index in (count, 10**12):
        refused = keiko("decode", video, "--frames", index, "--md5", check=False)
        assert refused.returncode in (1, 2) and str(index) in refused.stderr


@pytest.mark.parametrize("name", files("edge"))
def test_an_awkward_video_is_decoded_exactly_or_refused_by_name(keiko, media, ffmpeg, name):
    """10-bit, 4:4:4, odd sizes, other codecs, damage: a wrong picture is never an answer."""
    if name == "no-media":
        pytest.fail(f"{media}/edge holds no files")
    done = keiko("decode", media / "edge" / name, "--frames", "all", "--md5", check=False)
    if done.returncode != 0:
        assert done.returncode == 1 and name in done.stderr, done.stderr
        return
    wanted = ffmpeg_frames(ffmpeg, media / "edge" / name)
    found = [line.split() for line in done.stdout.splitlines()]
    assert [md5 for _, _, md5 in found] == [md5 for _, md5 in wanted]


def test_every_synthesised_clip_decodes_as_ffmpeg_does(keiko, few, ffmpeg):
    """The embedded data set needs no media folder, so this runs everywhere."""
    clips = sorted(few.glob("*/*/*.mp4"))
    assert len(clips) == 24
    for clip in clips[::6]:
        wanted = ffmpeg_frames(ffmpeg, clip)
        found = keiko_frames(keiko, clip, "all")
        assert len(found) == len(wanted)
        assert_same(found, wanted, clip)


def test_indexing_and_decoding_leave_the_videos_as_they_are(keiko, few, tmp_path):
    """Truth: their md5 before and after."""
    before = {p: hashlib.md5(p.read_bytes()).hexdigest() for p in few.glob("train/*/*.mp4")}
    keiko("index", few / "train", "--out", tmp_path / "again.kix")
    keiko("decode", min(before), "--frames", "0,3", "--md5")
    assert before == {p: hashlib.md5(p.read_bytes()).hexdigest() for p in few.glob("train/*/*.mp4")}


@pytest.mark.parametrize("name", ["asl_again.mkv", "bikes.mp4"])
def test_decoded_colours_are_those_of_ffmpeg(keiko, media, ffmpeg, tmp_path, name):
    """RGB of ffmpeg's swscale at full chroma precision (full-range and limited-range source).

    Filters for chroma differ, so the mean difference may be 1 level; a wrong range or matrix is 5 or more.
    """
    video, asked = media / "real" / name, [0, 4, 11]
    keiko("decode", video, "--frames", ",".join(map(str, asked)), "--out", tmp_path / "f.npy")
    found = np.load(tmp_path / "f.npy")
    probe = subprocess.run([Path(ffmpeg).with_name("ffprobe"), "-v", "error", "-select_streams", "v", "-of", "json",
                            "-show_entries", "stream=width,height", video], capture_output=True, check=True)
    size = json.loads(probe.stdout)["streams"][0]
    picture = (size["height"], size["width"], 3)
    raw = subprocess.run([ffmpeg, "-v", "error", "-i", video, "-an", "-vsync", "passthrough", "-frames:v", "12", "-pix_fmt",
                          "rgb24", "-sws_flags", "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp", "-f",
                          "rawvideo", "-"], capture_output=True, check=True).stdout
    wanted = np.frombuffer(raw, np.uint8).reshape(12, *picture)[asked]
    if found.shape[1] == 3:  # channels first
        found = found.transpose(0, 2, 3, 1)
    assert found.shape == wanted.shape and found.dtype == np.uint8
    assert np.abs(found.astype(float) - wanted).mean() < 1.0
