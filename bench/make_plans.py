#!/usr/bin/env python3
"""Makes videos like those people train on, and plans of clips to decode from them.

Every set is a folder of videos encoded by the ffmpeg command line from the pictures of real videos, and
a plan beside it (OUT/kinetics.json for OUT/kinetics/*.mp4) that `keiko bench decode` and peers.py read.
The frames come from a seed. Videos that are already there are kept, so a stopped run goes on.

Usage: make_plans.py --media FOLDER_OF_REAL_VIDEOS --out FOLDER [--sets kinetics film hevc vp9]
"""

import argparse
import dataclasses
import json
import random
import subprocess
from fractions import Fraction
from pathlib import Path

FRAMES, STRIDE, SIZE = 16, 4, 224
SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}


@dataclasses.dataclass(frozen=True)
class Set:
    what: str
    width: int
    height: int
    fps: int
    frames: int  # of one video
    videos: int
    clips: int  # of one video
    suffix: str
    encoder: tuple


SETS = {
    "kinetics": Set("10-second clips as Kinetics is often kept", 340, 256, 30, 300, 24, 2, ".mp4",
                    ("-c:v", "libx264", "-crf", "23", "-g", "250")),
    "hevc": Set("10-second clips in HEVC", 640, 360, 30, 300, 10, 3, ".mp4",
                ("-c:v", "libx265", "-preset", "fast", "-x265-params", "pools=none:frame-threads=1:log-level=error",
                 "-tag:v", "hvc1")),
    "vp9": Set("10-second clips in VP9", 640, 360, 30, 300, 10, 3, ".webm",
               ("-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "32", "-deadline", "good", "-cpu-used", "5",
                "-row-mt", "1")),
    "film": Set("one film of half an hour", 1280, 720, 25, 45000, 1, 40, ".mp4",
                ("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-g", "250")),
}


@dataclasses.dataclass(frozen=True)
class Source:
    path: Path
    frames: int


@dataclasses.dataclass(frozen=True)
class Shot:
    """Consecutive frames of a source; a source that is too short starts again."""

    source: Source
    first: int
    frames: int
    zoom: float = 1.0  # 2: the middle half of the picture's width and height
    mirror: bool = False


def probe(path):
    """ffprobe's words on the video stream that ffmpeg takes: the largest; packets counted."""
    out = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v", "-count_packets", "-show_streams", "-of", "json", path],
        check=True, stdout=subprocess.PIPE).stdout
    streams = json.loads(out).get("streams", [])
    if not streams:
        raise SystemExit(f"{path}: no video stream")
    return max(streams, key=lambda s: s["width"] * s["height"])


def sources(folder):
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no videos ({', '.join(sorted(SUFFIXES))})")
    return [Source(p, int(probe(p)["nb_read_packets"])) for p in paths]


def short_videos(sources, frames, count):
    """`count` lists of shots of `frames` frames: stretches of long sources, short sources joined; when
    those are used up, the same again mirrored and closer."""
    plain, joined = [], []
    for s in sources:
        if 3 * s.frames >= 2 * frames:
            plain += [[Shot(s, k * frames, frames)] for k in range(max(1, s.frames // frames))]
            continue
        if not joined or sum(shot.frames for shot in joined[-1]) >= frames:
            joined.append([])
        left = frames - sum(shot.frames for shot in joined[-1])
        joined[-1].append(Shot(s, 0, min(left, s.frames)))
    for shots in joined:  # the last one may be too short: it goes on with its last source
        left = frames - sum(shot.frames for shot in shots)
        shots[-1] = dataclasses.replace(shots[-1], frames=shots[-1].frames + left)
    videos = joined + plain
    chosen = [videos[k * len(videos) // count] for k in range(count)] if count < len(videos) else videos
    k = 0
    while len(chosen) < count:
        round_ = 1 + k // len(videos)
        chosen = chosen + [[dataclasses.replace(shot, zoom=1 + 0.25 * round_, mirror=round_ % 2 == 1)
                            for shot in videos[-1 - k % len(videos)]]]
        k += 1
    return chosen


def film(sources, frames, fps, seed):
    """Shots of 2 to 12 seconds, the sources in random order, each time from another place."""
    rng = random.Random(f"film/{seed}")
    shots, left = [], frames
    while left > 0:
        for s in rng.sample(sources, len(sources)):
            n = min(left, rng.randint(2 * fps, 12 * fps))
            shots.append(Shot(s, rng.randrange(s.frames), n, rng.choice((1.0, 1.2, 1.5)), rng.random() < 0.5))
            left -= n
            if left == 0:
                break
    return shots


def encode(shots, kind, path):
    """Pours the shots' raw pictures, cut to the set's shape, into one encoder."""
    part = path.with_name("part-" + path.name)
    encoder = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s",
         f"{kind.width}x{kind.height}", "-framerate", str(kind.fps), "-i", "pipe:0", "-threads", "1", *kind.encoder,
         part], stdin=subprocess.PIPE)
    shape = f"{kind.width}/{kind.height}"
    for shot in shots:
        crop = f"crop='min(iw,ih*{shape})/{shot.zoom}':'min(ih,iw/({shape}))/{shot.zoom}'"
        scale = f"scale={kind.width}:{kind.height}:flags=bicubic:out_range=tv,setsar=1,format=yuv420p"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-filter_threads", "1", "-stream_loop", "-1", "-i",
             shot.source.path, "-an", "-sn", "-vf",
             f"trim=start_frame={shot.first},{crop}{',hflip' if shot.mirror else ''},{scale}",
             "-fps_mode", "passthrough", "-frames:v", str(shot.frames), "-f", "rawvideo", "pipe:1"],
            check=True, stdout=encoder.stdin)
    encoder.stdin.close()
    if encoder.wait() != 0:
        raise SystemExit(f"ffmpeg could not encode {path}")
    part.rename(path)


def plan_entries(path, clips, seed):
    """Clips of 16 frames at stride 4 from random starts, centre square to 224x224, with what a catalogue
    would know of the video."""
    s = probe(path)
    n, width, height = int(s["nb_read_packets"]), s["width"], s["height"]
    side = min(width, height)
    stride = max(1, min(STRIDE, (n - 1) // (FRAMES - 1)))
    start_time = Fraction(s["time_base"]) * int(s.get("start_pts", 0))
    known = {"crop": "centre square", "size": SIZE, "crop_box": [(width - side) // 2, (height - side) // 2, side, side],
             "num_frames": n, "stream": s["index"], "codec": s["codec_name"], "pix_fmt": s["pix_fmt"],
             "width": width, "height": height, "rotation": 0, "fps": str(Fraction(s["avg_frame_rate"])),
             "start_time": str(start_time)}
    entries = []
    for k in range(clips):
        first = random.Random(f"{seed}/{path.name}/{k}").randint(0, max(0, n - 1 - stride * (FRAMES - 1)))
        frames = [min(n - 1, first + i * stride) for i in range(FRAMES)]
        entries.append({"file": path.name, "frames": frames, "clip": k, **known})
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", required=True, type=Path, help="folder of real videos")
    parser.add_argument("--out", required=True, type=Path, help="folder for the sets and their plans")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shorten", type=int, default=1, help="make everything this many times smaller, to try it out")
    a = parser.parse_args()
    found = sources(a.media)
    for name in a.sets:
        kind = SETS[name]
        if a.shorten > 1:
            kind = dataclasses.replace(kind, frames=max(64, kind.frames // a.shorten),
                                       videos=max(1, kind.videos // a.shorten), clips=max(2, kind.clips // a.shorten))
        folder = a.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "film":
            videos = [film(found, kind.frames, kind.fps, a.seed)]
        else:
            videos = short_videos(found, kind.frames, kind.videos)
        entries = []
        for k, shots in enumerate(videos):
            path = folder / f"{k:02d}-{shots[0].source.path.stem if len(shots) == 1 else 'joined'}{kind.suffix}"
            if not path.exists():
                encode(shots, kind, path)
            entries += plan_entries(path, kind.clips, a.seed)
            print(f"{name}: {path.name}, {entries[-1]['num_frames']} frames, {path.stat().st_size} bytes", flush=True)
        text = json.dumps({"set": name, "what": kind.what, "folder": name, "encoder": list(kind.encoder),
                           "seed": a.seed, "frames_per_clip": FRAMES, "stride": STRIDE, "media": entries})
        (a.out / f"{name}.json").write_text(text.replace('{"file"', '\n{"file"') + "\n")
        print(f"{a.out / name}.json: {len(entries)} clips of {len(videos)} videos", flush=True)


if __name__ == "__main__":
    main()
