#!/usr/bin/env bash
# Checks and measures Keiko on a machine with a GPU that has torch and no compiler, network or FFmpeg.
#
#   scripts/gpu_check.sh pack DIR        here: what that machine needs, from build/release, into DIR (some 60 MB)
#   scripts/gpu_check.sh run DIR OUT     there: every test with the label gpu, and the benchmarks, into OUT
#
# pack takes an FFmpeg with NVDEC from KEIKO_GPU_FFMPEG (a folder with lib/, or a .tar.zst of one), or else the
# libraries that the program here is linked with; test videos from KEIKO_TEST_MEDIA, and PyTorch's side of the
# steps (step_peers.py) from KEIKO_PEERS, where these are set.
# run ends within 9 minutes whatever happens: each part has a time limit, and none stops the others. It prints a
# line for each part, and fails if one failed. Without a GPU every test skips itself; run says so and fails.
#
# KEIKO_TORCH   there: the folder that `python3 -c 'import torch; print(torch.__path__[0])'` prints, if python3
#               does not find it. It must be the torch version that Keiko was built with.
set -euo pipefail

usage() {
  sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

pack() {
  local dir="$1" here build
  here="$(cd "$(dirname "$0")/.." && pwd)"
  build="$here/build/release"
  [ -x "$build/src/keiko" ] || { echo "gpu_check: no build in $build; run scripts/build.sh --tests" >&2; exit 1; }
  [ -e "$build/src/keiko_gpu.so" ] || { echo "gpu_check: $build was built without CUDA (no keiko_gpu.so)" >&2; exit 1; }
  rm -rf "$dir"
  mkdir -p "$dir/bin" "$dir/lib"
  cp "$0" "$dir/gpu_check.sh"
  cp "$build/src/keiko" "$build/src/keiko_gpu.so" "$build"/src/*_gpu_test "$dir/bin/"
  if [ -x "$build/bench/kernels" ]; then
    cp "$build/bench/kernels" "$dir/bin/"
  else
    echo "gpu_check: no bench/kernels in $build (cmake -DKEIKO_BENCH=ON): kernels are compared, not timed" >&2
  fi
  strip --strip-unneeded "$dir"/bin/*

  local ffmpeg="${KEIKO_GPU_FFMPEG:-}"
  if [ -f "$ffmpeg" ]; then
    mkdir "$dir/ffmpeg"
    tar -xf "$ffmpeg" -C "$dir/ffmpeg" --strip-components 1
    rm -rf "$dir"/ffmpeg/{bin,include,share}
  elif [ -n "$ffmpeg" ]; then
    mkdir "$dir/ffmpeg"
    cp -a "$ffmpeg/lib" "$dir/ffmpeg/"
  fi
  # Libraries that a bare machine may lack: all but libc's and torch's.
  local program library
  for program in "$dir"/bin/*; do
    for library in $(LD_LIBRARY_PATH="$dir/ffmpeg/lib" ldd "$program" | awk '$3 ~ /^\// { print $3 }'); do
      case "$library" in
        */libc.so* | */libm.so* | */libdl.so* | */libpthread.so* | */librt.so* | */ld-linux*) ;;
        */torch/* | */nvidia/* | */libstdc++.so* | */libgcc_s.so* | "$dir"/*) ;;
        *) cp -n "$library" "$dir/lib/" ;;
      esac
    done
  done
  if [ -n "${KEIKO_TEST_MEDIA:-}" ]; then
    mkdir "$dir/media"
    cp -r "$KEIKO_TEST_MEDIA/real" "$KEIKO_TEST_MEDIA/edge" "$dir/media/"
  fi
  [ -z "${KEIKO_PEERS:-}" ] || cp "$KEIKO_PEERS/step_peers.py" "$dir/"
  du -sh "$dir" | sed 's/^/gpu_check: packed /'
}

failed=0
deadline=$(($(date +%s) + 530))
# part NAME SECONDS COMMAND...: output to OUT/NAME.log; one line here.
part() {
  local name="$1" limit="$2" begun code=0
  shift 2
  begun=$(date +%s)
  [ $((deadline - begun)) -ge "$limit" ] || limit=$((deadline - begun))
  if [ "$limit" -le 0 ]; then
    failed=1
    echo "gpu_check: NOT RUN  $name: the nine minutes are over"
    return
  fi
  timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    echo "gpu_check: ok      $name ($(($(date +%s) - begun)) s)"
  else
    failed=1
    echo "gpu_check: FAILED  $name: exit code $code after $(($(date +%s) - begun)) s; the end of its log:"
    tail -n 15 "$out/$name.log" | sed 's/^/    /'
  fi
}

run() {
  local dir out torch
  dir="$(cd "$1" && pwd)"
  mkdir -p "$2"
  out="$(cd "$2" && pwd)"
  torch="${KEIKO_TORCH:-$(python3 -c 'import torch; print(torch.__path__[0])')}"
  export LD_LIBRARY_PATH="$dir/ffmpeg/lib:$dir/lib:$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  [ ! -d "$dir/media" ] || export KEIKO_TEST_MEDIA="$dir/media"
  local keiko="$dir/bin/keiko" work
  work="$(mktemp -d)"
  trap "rm -rf '$work'" EXIT

  part doctor 15 "$keiko" doctor
  nvidia-smi -q > "$out/nvidia-smi.log" 2>&1 || echo "gpu_check: no nvidia-smi here: is there a GPU at all?"
  local test
  for test in "$dir"/bin/*_gpu_test; do
    part "$(basename "$test")" 60 "$test" --gtest_output="json:$out/$(basename "$test").json"
  done
  if grep -q "SKIPPED" "$out"/*_gpu_test.log; then
    failed=1
    echo "gpu_check: FAILED  tests skipped themselves:"
    grep -h -i -E "^NO |no GPU|NOT " "$out"/*_gpu_test.log | sort -u | head -5 | sed 's/^/    /'
  fi
  [ ! -x "$dir/bin/kernels" ] || part kernels 30 "$dir/bin/kernels" --json "$out/kernels.json"

  # The same few steps on the processor and on the GPU: losses agree, or something is wrong.
  part synth 15 "$keiko" synth --out "$work/clips" --train 512 --test 64 --size 64
  cat > "$work/recipe.yaml" << RECIPE
data: $work/clips/train.kix
clip: {num_frames: 16, size: 32}
objective: {name: videomae, model: custom, width: 192, depth: 4, heads: 3, patch_size: 8, decoder_width: 96, decoder_depth: 2, decoder_heads: 2}
batch_size: 32
steps: 20
optimizer: {base_lr: 1.0e-3}
precision: fp32
log: {every: 1}
RECIPE
  # On the GPU once more with passes that are recorded as CUDA graphs, and once with clips decoded there: pixels
  # differ by a level here and there.
  local way
  for way in cpu cuda graph nvdec; do
    local options=("train.device=cuda" "loader.decode=cpu")
    case $way in
      cpu) options=("train.device=cpu") ;;
      graph) options+=(train.cuda_graph=always --trace steps=12..13) ;;
      nvdec) options=("train.device=cuda" "loader.decode=nvdec") ;;
    esac
    part "train_$way" 25 "$keiko" train "$work/recipe.yaml" "run=$work/$way" "${options[@]}"
    [ ! -e "$work/$way/metrics.jsonl" ] || cp "$work/$way/metrics.jsonl" "$out/train_$way.jsonl"
  done
  part losses 5 bash -c 'compare_losses "$@"' _ "$out/train_cpu.jsonl" "$out/train_cuda.jsonl" 0.001
  part losses_graph 5 bash -c 'compare_losses "$@"' _ "$out/train_cuda.jsonl" "$out/train_graph.jsonl" 0.001
  part losses_nvdec 5 bash -c 'compare_losses "$@"' _ "$out/train_cuda.jsonl" "$out/train_nvdec.jsonl" 0.05
  part nvdec_is_used 5 grep -E '[1-9][0-9]* clips were decoded on the GPU, 0 on the CPU' "$out/train_nvdec.log"
  part graph_is_used 5 grep "recorded forward and backward" "$out/train_graph.log"
  part trace 5 bash -c 'cp "$1"/traces/*.json "$2" && grep -c "\"cat\": \"kernel\"" "$2"' _ "$work/graph" "$out/trace.json"

  # Steps of published models on random clips, bf16 over fp32 weights.
  local step=(bench step --device cuda --dtype bf16 --batch 32 --steps 20 --warmup 5)
  part step_videomae-b 30 "$keiko" "${step[@]}" --model videomae-b --json "$out/step_videomae-b.json"
  part step_videomae-b_graph 30 "$keiko" "${step[@]}" --model videomae-b --cuda-graph --json "$out/step_videomae-b_graph.json"
  part step_videomae-l 30 "$keiko" "${step[@]}" --model videomae-l --json "$out/step_videomae-l.json"
  part step_vjepa-l 30 "$keiko" "${step[@]}" --model vjepa-l --json "$out/step_vjepa-l.json"

  # Frames a second into tensors, decoded on the processor and on the GPU, beside what decoding alone gives; then
  # the whole way from files to steps.
  if [ -d "$dir/media" ]; then
    part plan 15 bash -c 'plan_clips "$@"' _ "$keiko" "$dir/media/real" "$work/plan.json"
    local decoder
    for decoder in cpu nvdec; do
      part "decode_$decoder" 25 "$keiko" bench decode --decoder "$decoder" --plan "$work/plan.json" \
        --media "$dir/media/real" --threads 16 --repeat 3 --json "$out/decode_$decoder.json"
    done
    part index 10 "$keiko" index "$dir/media/real" --out "$work/real.kix"
    cat > "$work/pipeline.yaml" << RECIPE
data: $work/real.kix
clip: {num_frames: 16, sampling_rate: 2, size: 224}
augment: {multi_scale_crop: [1, 0.875, 0.75, 0.66], flip: 0.5}
objective: {name: videomae, model: base, mask_ratio: 0.9}
batch_size: 32
steps: 30
optimizer: {base_lr: 1.0e-4}
train: {device: cuda}
loader: {decode: nvdec, prefetch: 3}
log: {every: 1}
RECIPE
    part decode_is_on_gpu 5 bash -c 'has_clips_on_gpu "$1"' _ "$out/decode_nvdec.json"
    part loader_nvdec 20 "$keiko" bench loader "$work/pipeline.yaml" --steps 10 --json "$out/loader_nvdec.json"
    part pipeline 30 "$keiko" train "$work/pipeline.yaml" "run=$work/pipeline"
    [ ! -e "$work/pipeline/metrics.jsonl" ] || cp "$work/pipeline/metrics.jsonl" "$out/pipeline.jsonl"
    part data_wait 10 bash -c 'sum_up_waiting "$@"' _ "$out/pipeline.jsonl" "$out/pipeline.json"
  else
    echo "gpu_check: no test videos packed (KEIKO_TEST_MEDIA): decoding real videos is NOT measured"
  fi
  # Last, because compiling takes long: the same steps written plainly in PyTorch.
  if [ -f "$dir/step_peers.py" ]; then
    local model
    for model in videomae-b videomae-l vjepa-l; do
      part "eager_$model" 30 bash -c 'time_peer "$@"' _ "$dir" "$out/eager_$model.json" "$model"
      part "compile_$model" 90 bash -c 'time_peer "$@"' _ "$dir" "$out/compile_$model.json" "$model" --compile
    done
    part steps 5 bash -c 'compare_steps "$1"' _ "$out"
    sed 's/^/gpu_check: /' "$out/steps.log" || true  # not there when time was over
  else
    echo "gpu_check: no step_peers.py packed (KEIKO_PEERS): steps are NOT compared with PyTorch's"
  fi
  return "$failed"
}

# time_peer DIR OUT.json MODEL [--compile]
time_peer() {
  python3 "$1/step_peers.py" --device cuda --dtype bf16 --batch 32 --steps 20 --warmup 5 --model "$3" "${@:4}" > "$2"
}

# Keiko's steps over PyTorch's, and the share that they use of what an H100 SXM or H200 can do.
compare_steps() {
  python3 - "$1" << 'PYTHON'
import json
import pathlib
import sys

PEAK = 989.4e12  # operations a second in bf16, dense: NVIDIA's data sheets of H100 SXM and H200
out = pathlib.Path(sys.argv[1])


def read(name):
    try:
        return json.loads((out / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None


compared = 0
for path in sorted(out.glob("step_*.json")):
    ours = read(path.stem)
    if ours is None:
        continue
    s = ours["step_s"]["median"]
    used = ours["flops_per_clip"] * ours["batch"] / s / PEAK
    line = f"{path.stem[5:]}: {1e3 * s:.1f} ms a step, {used:.1%} of {PEAK:.3g} operations a second"
    for side in ("eager", "compile"):
        if theirs := read(f"{side}_{ours['model']}"):
            line += f", {s / theirs['step_s']['median']:.3f} of {side}'s time"
            compared += 1
    print(line)
assert compared, "nothing to compare with"
PYTHON
}

# Whether NVDEC, and not the CPU in its place, decoded the clips of a benchmark.
has_clips_on_gpu() {
  python3 - "$1" << 'PYTHON'
import json
import sys

gpu = json.load(open(sys.argv[1]))["gpu"]
print(f"clips on the GPU: {gpu['clips_on_gpu']}")
assert gpu["clips_on_gpu"] > 0, gpu
PYTHON
}
export -f has_clips_on_gpu time_peer compare_steps 2> /dev/null || true

# A plan for `bench decode`: eight clips of 16 frames from each video of a folder that is long enough.
plan_clips() {
  python3 - "$@" << 'PYTHON'
import json
import os
import subprocess
import sys

keiko, folder, out = sys.argv[1:]
clips = []
for name in sorted(os.listdir(folder)):
    said = subprocess.run([keiko, "inspect", os.path.join(folder, name), "--json"], stdout=subprocess.PIPE)
    frames = json.loads(said.stdout).get("frames", 0) if said.returncode == 0 else 0
    for k in range(8 if frames >= 64 else 0):
        first = (frames - 32) * k // 7
        clips.append({"file": name, "frames": [first + 2 * t for t in range(16)], "size": 224})
assert clips, f"{folder}: no video of 64 frames"
json.dump({"media": clips}, open(out, "w"))
print(f"{len(clips)} clips")
PYTHON
}

# How long steps waited for their batch by the GPU's clock, the first five left out: sessions are opened, caches fill.
sum_up_waiting() {
  python3 - "$@" << 'PYTHON'
import json
import sys

steps = [line for line in map(json.loads, open(sys.argv[1])) if line["kind"] == "train"][5:]
waited = [line["data_wait_s"] / line["step_s"] for line in steps]
figures = {
    "steps": len(steps),
    "clips_per_s": sorted(line["clips_per_s"] for line in steps)[len(steps) // 2],
    "data_wait_share": sum(line["data_wait_s"] for line in steps) / sum(line["step_s"] for line in steps),
    "share_of_steps_that_wait": sum(share > 0.02 for share in waited) / len(waited),
}
json.dump(figures, open(sys.argv[2], "w"), indent=2)
print(json.dumps(figures))
PYTHON
}

# Losses of two runs, step by step: equal to the share that is given last.
compare_losses() {
  python3 - "$@" << 'PYTHON'
import json
import math
import sys

runs = [[json.loads(line) for line in open(path)] for path in sys.argv[1:3]]
cpu, gpu = ([line["loss"] for line in run if line["kind"] == "train"] for run in runs)
assert len(cpu) == len(gpu) > 0, f"{len(cpu)} steps of the first run, {len(gpu)} of the second"
assert all(map(math.isfinite, cpu + gpu)), list(zip(cpu, gpu))
worst = max(abs(a - b) / abs(a) for a, b in zip(cpu, gpu))
print(f"{len(cpu)} steps; losses differ by {worst:.2e} at most")
assert worst < float(sys.argv[3]), list(zip(cpu, gpu))
PYTHON
}
export -f compare_losses plan_clips sum_up_waiting 2> /dev/null || true

case "${1:-}" in
  pack) [ $# = 2 ] || usage; pack "$2" ;;
  run) [ $# = 3 ] || usage; run "$2" "$3" ;;
  *) usage ;;
esac
