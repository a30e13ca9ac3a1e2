#!/usr/bin/env bash
# The whole way in a few minutes on two cores: installs what is missing, builds, writes the embedded
# data set, trains on it, and ends with a table of what was learned and how that is known.
#
# Usage: scripts/demo.sh [FOLDER]      everything goes into FOLDER (default: demo)
# Run it again and it goes on where it stopped; remove FOLDER to start afresh.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh
out="${1:-demo}"
keiko=build/release/src/keiko
cores=$(nproc)
mkdir -p "$out"
started=$(date +%s)

say() { printf '\n== %s\n' "$*"; }

# train NAME RECIPE key=value...: a run of its own under FOLDER/runs; decoding these tiny clips needs
# little, so all cores compute.
train() {
  local name=$1 recipe=$2
  shift 2
  "$keiko" train "$recipe" "run=$out/runs/$name" "data=[{path: $out/data/train.kix}]" \
    "eval.data=[{path: $out/data/test.kix}]" "train.threads=$cores" "$@"
}
# evaluate NAME [--random-init]: the figures as JSON for the table.
evaluate() {
  "$keiko" -q eval "$out/runs/$1" --json "train.threads=$cores" "${@:2}" > "$out/results/$1.json"
}

if [ ! -e "$out/data/test.kix" ]; then
  say "embedded data set: 8 directions of motion, short H.264 clips; one frame says nothing of the class"
  "$keiko" synth --task drift --out "$out/data" --train 4000 --test 1000
fi
mkdir -p "$out/results"

say "1. classification from clips"
train classify configs/demo_classify.yaml
say "2. the same model and budget, trained on single frames repeated (it must fail: motion is the class)"
train classify-single configs/demo_classify.yaml clip.frames=single
say "3. the same, trained on shuffled frames (the axis of motion remains, its sense does not)"
train classify-shuffled configs/demo_classify.yaml clip.frames=shuffled
say "4. masked pretraining without labels: the second half of each clip from the first"
train pretrain configs/demo_pretrain.yaml

for kind in pretrained random; do
  from=()
  [ $kind = pretrained ] && from=("init_from=$out/runs/pretrain")
  say "5. linear probe, 80 labels, $kind encoder"
  train "probe-$kind" configs/demo_probe.yaml "${from[@]}" \
    "data=[{path: $out/data/train.kix, items_per_class: 10}]"
  say "6. fine-tuning, 40 labels, $kind encoder"
  train "finetune-$kind" configs/demo_finetune.yaml "${from[@]}" \
    "data=[{path: $out/data/train.kix, items_per_class: 5}]"
done

say "figures on the 1,000 test clips"
for run in classify classify-single classify-shuffled pretrain probe-pretrained probe-random \
  finetune-pretrained finetune-random; do
  evaluate "$run"
done
"$keiko" -q preview "$out/runs/pretrain" --clips 4 > /dev/null
"$keiko" -q preview "$out/runs/classify" --clips 8 > /dev/null
python3 scripts/demo_table.py "$out"
printf '\nThe whole demo took %d s.\n' $(($(date +%s) - started))
