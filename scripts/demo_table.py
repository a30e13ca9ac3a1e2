"""Prints the demo's table from the figures that `keiko eval --json` wrote, and checks what it claims.

Usage: demo_table.py FOLDER. Exits 1 when a bar is missed, so that the demo is a test too.
"""

import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
results = {p.stem: json.loads(p.read_text()) for p in (folder / "results").glob("*.json")}
missed = []


def check(holds, claim):
    if not holds:
        missed.append(claim)
    return "" if holds else "   MISSED"


def accuracy(name):
    r = results[name]
    return f"{r['top1']:.3f}   [{r['top1_low']:.3f}, {r['top1_high']:.3f}]"


print(f"""
Classification, test split of {results['classify']['clips']} clips, chance 0.125      top-1   95% interval""")
print(f"  trained on clips                                    {accuracy('classify')}"
      + check(results["classify"]["top1"] >= 0.90, "clips: top-1 >= 0.90"))
print(f"  same budget, trained on repeated single frames      {accuracy('classify-single')}"
      + check(results["classify-single"]["top1_high"] <= 0.20, "single frames: upper bound <= 0.20"))
print(f"  same budget, trained on shuffled frames             {accuracy('classify-shuffled')}")

p = results["pretrain"]
print(f"""
Masked pretraining without labels: mean squared error on held-out clips, second half from the first
  this model                                          {p['loss']:.4f}"""
      + check(p["loss"] < min(p["constant_loss"], p["visible_mean_loss"], p["copy_last_loss"]),
              "pretraining beats every baseline"))
print(f"""  best constant                                       {p['constant_loss']:.4f}
  mean of the clip's visible half                     {p['visible_mean_loss']:.4f}
  copy of the last visible frame                      {p['copy_last_loss']:.4f}
  this model, visible half frozen to its first frame  {p['frozen_loss']:.4f}   {p['frozen_over_loss']:.2f}x"""
      + check(p["frozen_over_loss"] >= 1.1, "frozen >= 1.1x: motion is used"))

print(f"""
What pretraining is worth (one seed: an indication, not evidence)       top-1   95% interval
  linear probe, 80 labels, pretrained encoder         {accuracy('probe-pretrained')}
  linear probe, 80 labels, random encoder             {accuracy('probe-random')}
  fine-tuning, 40 labels, pretrained encoder          {accuracy('finetune-pretrained')}
  fine-tuning, 40 labels, from scratch                {accuracy('finetune-random')}""")

print(f"""
Pictures: {folder}/runs/classify/previews/step-00000000-clips.png            clips, one a row
          {folder}/runs/pretrain/previews/step-00000000-reconstruction.png   input, seen, filled in
Curves:   {folder}/runs/*/report.html""")
if missed:
    print("\nNOT REACHED: " + "; ".join(missed))
    sys.exit(1)
