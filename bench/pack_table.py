#!/usr/bin/env python3
"""{Keiko, the best loader} x {the raw videos, Keiko's pack, a plain ffmpeg -g 16 re-encode}.

Takes a plan of clips on raw videos and makes two more sets with the same frames in the same order: the
members of `keiko pack --for speed`, taken out of their shards for the loaders' sake, and a re-encode by
the ffmpeg command line of the same size and rate with x264's defaults and `-g 16`. Bytes and SSIM (by
ffmpeg's filter, luma, against the raw video scaled to that size) are measured for both. Then peers.py
decodes all three plans; clips are compared one by one, by each clip's fastest time.

Sets that are already in --out are kept. Measuring can be left out (--no-speed).

Usage: pack_table.py --keiko BIN --peers DIR --plan PLAN.json --media DIR --out DIR [--rounds 5]
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

SETS = ("raw", "pack", "plain")


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {done.returncode}: {done.stderr[-2000:]}")
    return done


def probe(path):
    return json.loads(run("ffprobe", "-v", "error", "-count_packets", "-select_streams", "v:0", "-show_streams", "-of",
                          "json", path).stdout)["streams"][0]


def make_pack(a, files):
    """The members of Keiko's pack as files; {raw file: member's path}."""
    folder = a.out / "pack"
    names = {file: f"{i:08}-" for i, file in enumerate(files)}
    if not folder.exists():
        listing = a.out / "videos.txt"
        listing.write_text("".join(f"{(a.media / file).resolve()}\n" for file in files))
        run(a.keiko, "index", listing, "--out", a.out / "raw.kix")
        figures = run(a.keiko, "pack", a.out / "raw.kix", "--out", a.out / "shards", "--measure", 0, "--json",
                      *a.pack_options.split()).stdout
        (a.out / "pack-figures.json").write_text(figures)
        part = a.out / "pack.part"
        part.mkdir(exist_ok=True)
        for shard in sorted((a.out / "shards").glob("shard-*.tar")):
            with tarfile.open(shard) as tar:
                tar.extractall(part, filter="data")
        part.rename(folder)
    members = {p.name[:9]: p for p in folder.iterdir()}
    return {file: members[name] for file, name in names.items()}


def make_plain(a, entries, members):
    """`ffmpeg -g 16` of the size that the pack has."""
    folder = a.out / "plain"
    folder.mkdir(exist_ok=True)
    plain = {}
    for file, e in entries.items():
        path = plain[file] = folder / (Path(file).stem + ".mp4")
        if path.exists():
            continue
        s = probe(members[file])
        part = path.with_suffix(".part.mp4")
        run("ffmpeg", "-v", "error", "-y", "-i", a.media / file, "-map", f"0:{e['stream']}", "-vf",
            f"scale={s['width']}:{s['height']}:flags=bicubic+accurate_rnd,setsar=1", "-vsync", "passthrough",
            "-enc_time_base", -1, "-c:v", "libx264", "-g", 16, "-threads", 1, part)
        part.rename(path)
    return plain


def ssim(a, file, stream, path):
    """Mean SSIM of luma against the raw video, scaled; frames are paired by order."""
    s = probe(path)
    count = "settb=1/1000,setpts=N"
    text = run("ffmpeg", "-i", path, "-i", a.media / file, "-lavfi",
               f"[0:v]{count}[a];[1:{stream}]scale={s['width']}:{s['height']}:flags=bicubic+accurate_rnd,setsar=1,{count}[b];"
               "[a][b]ssim", "-f", "null", "-").stderr
    return float(re.search(r"SSIM Y:([\d.]+)", text).group(1))


def compare(a, files, entries, members, plain):
    """Bytes of every set, and SSIM of those that are re-encoded."""
    quality = {"raw": {"bytes": sum((a.media / f).stat().st_size for f in files)}}
    for name, paths in (("pack", members), ("plain", plain)):
        values = {f: ssim(a, f, entries[f]["stream"], paths[f]) for f in files}
        quality[name] = {"bytes": sum(p.stat().st_size for p in paths.values()),
                         "ssim": sum(values.values()) / len(values), "ssim_by_file": values}
        print(f"{name}: {quality[name]['bytes'] / quality['raw']['bytes']:.3f} of the raw bytes, SSIM {quality[name]['ssim']:.5f}",
              file=sys.stderr, flush=True)
    return quality


def entry(e, path):
    """The clip of the same frames in another file."""
    s = probe(path)
    if int(s["nb_read_packets"]) != e["num_frames"]:
        raise SystemExit(f"{path}: {s['nb_read_packets']} frames, {e['file']} has {e['num_frames']}")
    width, height = s["width"], s["height"]
    side = min(width, height)
    return e | {"file": path.name, "crop_box": [(width - side) // 2, (height - side) // 2, side, side], "stream": s["index"],
                "codec": s["codec_name"], "pix_fmt": s["pix_fmt"], "width": width, "height": height,
                "fps": str(Fraction(s["avg_frame_rate"])),
                "start_time": str(Fraction(s["time_base"]) * int(s.get("start_pts", 0)))}


def clip_times(result, name):
    [found] = [c for c in result["contestants"] if c["name"] == name]
    return found.get("clip_ms")


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def faster(slow, fast, files):
    """How many times: geometric mean over files of the times of their clips; and the worst file."""
    sums = {}
    for file, s, f in zip(files, slow, fast):
        if s is not None and f is not None:
            both = sums.setdefault(file, [0, 0])
            both[0] += s
            both[1] += f
    ratios = {file: s / f for file, (s, f) in sums.items()}
    worst = min(ratios, key=ratios.get)
    return geometric_mean(ratios.values()), ratios[worst], worst


def table(results, quality, files):
    by_set = {r["plan"]: r for r in results}
    best = {name: by_set[name]["summary"]["best"] for name in SETS}
    lines = ["| set | bytes | SSIM | Keiko, clips/s | CPU ms | best loader | clips/s | CPU ms |", "|---|---|---|---|---|---|---|---|"]
    for name in SETS:
        contestants = {c["name"]: c for c in by_set[name]["contestants"]}
        keiko, loader, q = contestants["keiko"], contestants[best[name]], quality[name]
        lines.append(f"| {name} | {q['bytes'] / 1e6:.1f} MB, {q['bytes'] / quality['raw']['bytes']:.2f}x | "
                     + (f"{q['ssim']:.4f}" if "ssim" in q else "-")
                     + f" | {keiko['rate_best_of_each_clip']:.1f} | {keiko['cpu_ms_per_clip']:.1f} | {best[name]} | "
                     f"{loader['rate_best_of_each_clip']:.1f} | {loader['cpu_ms_per_clip']:.1f} |")
    pack = clip_times(by_set["pack"], "keiko")
    lines += ["", "| Keiko on its pack over | geometric mean of files | worst file | in CPU time a clip |", "|---|---|---|---|"]
    cpu = {c["name"]: c for c in by_set["pack"]["contestants"]}["keiko"]["cpu_ms_per_clip"]
    rivals = [("raw", best["raw"]), ("plain", best["plain"]), ("pack", best["pack"]), ("raw", "keiko"), ("plain", "keiko")]
    for name, who in rivals:
        mean, worst, file = faster(clip_times(by_set[name], who), pack, files)
        theirs = {c["name"]: c for c in by_set[name]["contestants"]}[who]["cpu_ms_per_clip"]
        lines.append(f"| {who} on {name} | {mean:.2f}x | {worst:.2f}x {file} | {theirs / cpu:.2f}x |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keiko", required=True, help="the keiko binary")
    parser.add_argument("--peers", default=os.environ.get("KEIKO_PEERS"), help="folder of the loaders, as for peers.py")
    parser.add_argument("--plan", required=True, type=Path, help="clips on raw videos; its list `media` is taken")
    parser.add_argument("--media", required=True, type=Path, help="folder of the raw videos")
    parser.add_argument("--out", required=True, type=Path, help="folder for the sets, their plans and the figures")
    parser.add_argument("--pack-options", default="--for speed", help="for keiko pack (must keep the rate)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="LOADER", help="as for peers.py")
    parser.add_argument("--no-speed", action="store_true", help="make the sets and compare bytes and SSIM only")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    raw_clips = json.loads(a.plan.read_text())["media"]
    entries = {}
    for e in raw_clips:
        entries.setdefault(e["file"], e)
    if any(e["rotation"] for e in entries.values()):
        raise SystemExit("turned videos are left out of this comparison: loaders disagree about them")
    files = list(entries)
    members = make_pack(a, files)
    plain = make_plain(a, entries, members)

    known = a.out / "quality.json"
    quality = json.loads(known.read_text()) if known.exists() else compare(a, files, entries, members, plain)
    known.write_text(json.dumps(quality, indent=1) + "\n")

    plans = []
    for name, folder in (("raw", a.media), ("pack", a.out / "pack"), ("plain", a.out / "plain")):
        clips = raw_clips if name == "raw" else [entry(e, {"pack": members, "plain": plain}[name][e["file"]]) for e in raw_clips]
        plans.append(a.out / f"{name}.json")
        plans[-1].write_text(json.dumps({"set": name, "folder": str(folder.resolve()), "media": clips}, indent=1) + "\n")
    if a.no_speed:
        return
    command = [sys.executable, Path(__file__).with_name("peers.py"), "--keiko", a.keiko, "--threads", a.threads, "--rounds",
               a.rounds, "--json", a.out / "peers.json"]
    for plan in plans:
        command += ["--plan", plan]
    if a.peers:
        command += ["--peers", a.peers]
    if a.only:
        command += ["--only", *a.only]
    subprocess.run(list(map(str, command)), check=True)
    text = table(json.loads((a.out / "peers.json").read_text()), quality, [e["file"] for e in raw_clips])
    (a.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
