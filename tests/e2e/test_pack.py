"""`keiko pack`: shards that other tools read, and that training takes in the place of the videos.

Truth: Python's tarfile, ffprobe and the ffmpeg command line for the members; the source's own frames
for exact packs; an undisturbed run for stopped ones.
"""

import json
import random
import shutil
import subprocess
import tarfile

import pytest

import runs

ARGUMENTS = ("--shard-bytes", 20000, "--threads", 2, "--measure", 0)


@pytest.fixture
def pack(keiko, few, tmp_path):
    """pack(name, *options): packs the 16 clips of `few` into tmp_path / name and returns that folder."""

    def start(name, *options, check=True, **kwargs):
        arguments = ARGUMENTS[:-2] if "--measure" in options else ARGUMENTS
        done = keiko("pack", few / "train.kix", "--out", tmp_path / name, *arguments, *options, check=check, **kwargs)
        return tmp_path / name if check else done

    return start


def members(folder):
    """{name: bytes} of all shards, by Python's tarfile."""
    found = {}
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    return found


def frame_md5s(path, *filters):
    text = subprocess.run(["ffmpeg", "-v", "error", "-i", path, *filters, "-vsync", "passthrough", "-f", "framemd5", "-"],
                          capture_output=True, text=True, check=True).stdout
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


def test_members_are_ordinary_videos_for_other_tools(pack, few, tmp_path):
    shards = pack("p")
    found = members(shards)
    assert len(found) == 16 and len(list(shards.glob("shard-*.tar"))) > 1
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
        probe = json.loads(subprocess.run(
            ["ffprobe", "-v", "error", "-of", "json", "-show_streams", tmp_path / name],
            capture_output=True, check=True).stdout)["streams"]
        assert [(s["codec_name"], s["width"], s["height"], s["nb_frames"]) for s in probe] == [("h264", 32, 32, "16")]
        assert len(frame_md5s(tmp_path / name)) == 16


def test_an_exact_pack_shows_the_source_bit_by_bit(keiko, pack, few, tmp_path):
    """Members against the sources, both by keiko decode --md5 and by ffmpeg."""
    sources = {p.stem: p for p in few.glob("train/*/*.mp4")}
    found = members(pack("p", "--for", "exact"))
    assert len(found) == 16
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
        source = sources[name.split("-", 1)[1].rsplit(".", 1)[0]]
        truth = frame_md5s(source)
        assert frame_md5s(tmp_path / name) == truth
        lines = keiko("decode", tmp_path / name, "--md5").stdout.splitlines()
        assert [line.split()[2] for line in lines] == truth


def test_an_exact_pack_of_real_videos(keiko, media, tmp_path):
    keiko("index", media / "edge", "--out", tmp_path / "edge.kix")
    keiko("pack", tmp_path / "edge.kix", "--out", tmp_path / "p", "--for", "exact", "--measure", 0, "--max-bad", 1,
          timeout=600)
    found = members(tmp_path / "p")
    assert len(found) >= 15
    sources = {p.stem: p for p in (media / "edge").iterdir()}
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
        source = sources[name.split("-", 1)[1].rsplit(".", 1)[0]]
        truth = [line.split()[2] for line in keiko("decode", source, "--md5").stdout.splitlines()]
        ours = [line.split()[2] for line in keiko("decode", tmp_path / name, "--md5").stdout.splitlines()]
        # A cut may begin with frames that the source's edit list hides.
        assert ours[len(ours) - len(truth):] == truth, name


def test_training_from_a_pack_needs_only_another_path(pack, few, train):
    """The same items, frames and crops; an exact pack gives the very same weights."""
    exact, speed = pack("exact", "--for", "exact"), pack("speed")
    folders = [train(name, runs.PRETRAIN, {"data": str(data)})
               for name, data in (("a", few / "train.kix"), ("b", exact), ("c", speed / "pack.kix"))]
    samples = [runs.samples(folder) for folder in folders]
    assert samples[0] == samples[1] == samples[2]
    weights = [(runs.checkpoint(folder) / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]
    assert runs.metrics(folders[2])[-1]["step"] == 5


def test_a_killed_pack_goes_on_and_ends_the_same(pack, keiko_bin, keiko_env, few, tmp_path):
    truth = members(pack("whole"))
    rng = random.Random(3)
    command = [keiko_bin, "pack", few / "train.kix", "--out", tmp_path / "killed", *ARGUMENTS]
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(list(map(str, command)), env=keiko_env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.05, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        if (tmp_path / "killed" / "pack.kix").exists():
            break
    assert killed > 0, "nothing was killed"
    assert members(pack("killed")) == truth
    assert not list((tmp_path / "killed").glob("*.tmp"))


def test_two_ranks_share_a_folder(pack, keiko_bin, keiko_env, few, tmp_path):
    truth = members(pack("one"))
    started = [subprocess.Popen([keiko_bin, "pack", *map(str, (few / "train.kix", "--out", tmp_path / "two", *ARGUMENTS))],
                                env=keiko_env | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                                                 "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                                                 "MASTER_PORT": "29555"},
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for rank in (1, 0)]
    texts = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    assert members(tmp_path / "two") == truth
    assert "rank 1" in texts[0] and (tmp_path / "two" / "pack.kix").exists()


def test_the_table_says_what_was_gained_and_lost(pack):
    done = pack("p", "--fps", "12.5", "--measure", 4, "--json", check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["items"] == 16 and figures["whole"]
    assert (figures["source_frames"], figures["packed_frames"]) == (256, 128)
    assert "1 of 2 temporal phases are gone" in figures["lost"][0]
    assert "stride 4 of the source is now stride 2" in figures["lost"][0]
    assert figures["measured"]["pack"]["clips_per_s"] > 0
    assert 0.9 < figures["ssim_y"] <= 1
    for word in ("items", "bytes", "PSNR", "SSIM", "clips/s", "limited by", "lost"):
        assert word in done.stderr, done.stderr


def test_checking_finds_a_flipped_byte(keiko, pack):
    folder = pack("p")
    assert keiko("pack", "--out", folder, "--check").returncode == 0
    path = min(folder.glob("shard-*.tar"))
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    done = keiko("pack", "--out", folder, "--check", check=False)
    assert done.returncode == 1 and "00000000-" in done.stderr, done.stderr


def test_a_damaged_video_is_left_out_by_name(keiko, few, tmp_path):
    shutil.copytree(few / "train", tmp_path / "v")
    clips = sorted((tmp_path / "v").rglob("*.mp4"))
    content = bytearray(clips[3].read_bytes())
    at = content.find(b"mdat")
    size = int.from_bytes(content[at - 4:at], "big")
    start = at + size // 2  # behind the encoder's own words, in the pictures
    content[start:start + size // 3] = random.Random(1).randbytes(size // 3)
    clips[3].write_bytes(content)
    keiko("index", tmp_path / "v", "--out", tmp_path / "v.kix")
    done = keiko("pack", tmp_path / "v.kix", "--out", tmp_path / "p", *ARGUMENTS, "--max-bad", 0, check=False)
    assert done.returncode == 3 and clips[3].name in done.stderr, done.stderr
    assert not (tmp_path / "p" / "pack.kix").exists()
    figures = json.loads(keiko("pack", tmp_path / "v.kix", "--out", tmp_path / "p", *ARGUMENTS, "--max-bad", 0.1,
                               "--json").stdout)
    assert figures["items"] == 15
    lines = runs.json_lines(tmp_path / "p" / "skipped.jsonl")
    assert [line["path"] for line in lines] == [str(clips[3].resolve())]


@pytest.mark.parametrize("options, words", [
    (["--for", "exact", "--crf", 20], "--for exact copies"),
    (["--keep-rate", "--fps", 10], "--keep-rate"),
    (["--for", "beauty"], "beauty"),
    (["--max-bad", 2], "max-bad"),
])
def test_wrong_options_are_refused(pack, options, words):
    done = pack("p", *options, check=False)
    assert done.returncode == 2 and words in done.stdout + done.stderr


def test_other_options_than_before_are_refused_with_the_difference(pack):
    pack("p")
    done = pack("p", "--crf", 30, check=False)
    assert done.returncode == 2 and "--crf was 18, is 30" in done.stderr, done.stderr
    pack("p", "--crf", 30, "--restart")
