"""Intervals, markdown tables and curves from the figures of learning.py's jobs."""

import math
from xml.sax.saxutils import escape

from learning_protocol import CONTROLS, METHODS, arms, control_of

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
EMPTY = "–"


def wilson(hits, n):
    """95% Wilson score interval (Wilson 1927)."""
    z = 1.959964
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return centre - half, centre + half


def t_interval(values):
    """Mean of independent values and the 95% interval of what they estimate; no interval of one value."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, None
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, (mean - T_QUANTILES[n - 1] * spread, mean + T_QUANTILES[n - 1] * spread)


def label_name(labels):
    return str(labels) if labels else "all"


def found(jobs, p, task, name):
    """The figures of one job for every seed, or None when a seed has not been run."""
    rows = [jobs.get(f"{task}/s{seed}/{name}") for seed in p["seeds"]]
    return None if any(row is None for row in rows) else rows


def accuracy(rows):
    """`mean (low-high) [Wilson]` of test figures."""
    top1 = [r["test"]["top1"] for r in rows]
    n = sum(r["test"]["clips"] for r in rows)
    low, high = wilson(sum(round(r["test"]["top1"] * r["test"]["clips"]) for r in rows), n)
    return f"{sum(top1) / len(top1):.3f} ({min(top1):.3f}–{max(top1):.3f}) [{low:.3f}, {high:.3f}]"


def difference(rows, controls):
    """Paired by seed: mean, t interval, lowest and highest; and what the protocol calls it."""
    by_seed = [r["test"]["top1"] - c["test"]["top1"] for r, c in zip(rows, controls)]
    mean, interval = t_interval(by_seed)
    span = f"({min(by_seed):+.3f} to {max(by_seed):+.3f})"
    if interval is None:
        return f"{mean:+.3f} {span}, one seed"
    word = "helps" if interval[0] > 0 else "hurts" if interval[1] < 0 else "inconclusive"
    return f"{mean:+.3f} {span} [{interval[0]:+.3f}, {interval[1]:+.3f}] {word}"


def accuracy_table(jobs, p, task):
    head = ["| arm |" + "".join(f" {label_name(n)} a class |" if n else " all |" for n in p["labels"]),
            "|---|" + "---|" * len(p["labels"])]
    plain, minus = [], []
    for arm, *_ in arms(METHODS):
        cells = [found(jobs, p, task, f"{label_name(n)}/{arm}") for n in p["labels"]]
        if not any(cells):
            continue
        plain.append(f"| {arm} |" + "".join(f" {accuracy(c) if c else EMPTY} |" for c in cells))
        control = control_of(arm)
        if control is None:
            continue
        others = [found(jobs, p, task, f"{label_name(n)}/{control}") for n in p["labels"]]
        minus.append(f"| {arm} − {control} |" + "".join(
            f" {difference(c, o) if c and o else EMPTY} |" for c, o in zip(cells, others)))
    return head + plain, head + minus


def trivial(figures):
    """(loss, name) of the strongest predictor that has no weights."""
    names = {"constant_loss": "constant", "visible_mean_loss": "visible mean", "copy_last_loss": "last frame",
             "zero_loss": "zero", "context_mean_loss": "context mean"}
    return min((figures[key], name) for key, name in names.items() if key in figures)


def gates(figures):
    """What of the protocol's gates a pretraining run passes: {name: bool}."""
    passed = {"trivial": figures["loss"] < trivial(figures)[0]}
    if "ridge_loss" in figures:
        passed["ridge"] = figures["loss"] < figures["ridge_loss"]
    passed["motion"] = figures["frozen_over_loss"] >= 1.1
    if "random" in figures:
        passed["no collapse"] = all(figures[key] >= 0.5 * figures["random"][key]
                                    for key in ("feature_std", "token_std", "feature_rank"))
    return passed


def gate_table(jobs, p, task):
    lines = ["| method, seed | held-out loss | strongest trivial predictor | ridge | frozen over normal | "
             "feature spread, token spread, rank: trained / random | CPU-s | passes |", "|---|---|---|---|---|---|---|---|"]
    for method in METHODS:
        for seed in p["seeds"]:
            row = jobs.get(f"{task}/s{seed}/pretrain-{method}")
            if row is None:
                continue
            f = row["test"]
            loss, name = trivial(f)
            ridge = f"{f['ridge_loss']:.4f}" if "ridge_loss" in f else "does not apply"
            spread = "does not apply"
            if "random" in f:
                spread = ", ".join(f"{f[k]:.3g} / {f['random'][k]:.3g}" for k in ("feature_std", "token_std", "feature_rank"))
            verdict = ", ".join(f"{k}: {'yes' if v else 'NO'}" for k, v in gates(f).items())
            lines.append(f"| {method}, {seed} | {f['loss']:.4f} | {loss:.4f} ({name}) | {ridge} | {f['frozen_over_loss']:.2f} | "
                         f"{spread} | {row['cpu_s']:.0f} | {verdict} |")
    return lines


def control_table(jobs, p, task):
    lines = ["| trained and evaluated on, all labels | accuracy |", "|---|---|"]
    for control in CONTROLS:
        rows = found(jobs, p, task, f"all/{control}-videomae")
        if rows:
            lines.append(f"| {control} frames | {accuracy(rows)} |")
    return lines


def compute_table(jobs, task):
    parts = {}
    for name, row in jobs.items():
        if name.startswith(f"{task}/"):
            part = name.rsplit("/", 1)[1]
            count, cpu_s = parts.get(part, (0, 0.0))
            parts[part] = (count + 1, cpu_s + row["cpu_s"])
    lines = ["| part | jobs | CPU-seconds, all | a job |", "|---|---|---|---|"]
    lines += [f"| {part} | {n} | {s:.0f} | {s / n:.1f} |" for part, (n, s) in parts.items()]
    return lines + [f"| all | {sum(n for n, _ in parts.values())} | {sum(s for _, s in parts.values()):.0f} | |"]


def markdown(jobs, p, task):
    """The whole section of one task."""
    plain, minus = accuracy_table(jobs, p, task)
    binaries = sorted({row["keiko"] for name, row in jobs.items() if name.startswith(f"{task}/")})
    parts = [("Accuracy on the test clips: mean of seeds (lowest–highest) [95% Wilson, all seeds' clips].", plain),
             ("What pretraining adds, paired by seed: mean (lowest to highest) [95% t over seeds].", minus),
             ("Gates.", gate_table(jobs, p, task)), ("Controls.", control_table(jobs, p, task)),
             ("Compute. A job is all its learning rates, its validation and its look at the test clips.",
              compute_table(jobs, task))]
    text = f"### {task}\n\n{len(p['seeds'])} seeds. Binaries: {', '.join(binaries)}.\n"
    for title, lines in parts:
        if len(lines) > 2:
            text += f"\n{title}\n\n" + "\n".join(lines) + "\n"
    return text


COLOURS = {"random-videomae": "#555555", "videomae": "#555555", "future": "#c0392b", "tube": "#2471a3",
           "random-vjepa2": "#999999", "vjepa2": "#1e8449"}


def curves(jobs, p, task):
    """Accuracy against label count as SVG: one panel for trained encoders and one for each probe; bars
    from the lowest to the highest seed."""
    width, height, left, top = 300, 240, 46, 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{3 * (width + left) + 20}" height="{height + 170}" '
           f'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']
    for panel, (title, kinds) in enumerate((("trained", ("scratch", "finetune")), ("linear probe", ("linear",)),
                                            ("attentive probe", ("attentive",)))):
        x0 = panel * (width + left) + left
        at_y = lambda v: top + height * (1 - v)
        out.append(f'<text x="{x0}" y="{top - 10}" font-weight="bold">{escape(task)}: {title}</text>')
        for v in (0, 0.125, 0.25, 0.5, 0.75, 1):
            dash = ' stroke-dasharray="4 3"' if v == 0.125 else ""
            out.append(f'<line x1="{x0}" y1="{at_y(v):.1f}" x2="{x0 + width - 20}" y2="{at_y(v):.1f}" stroke="#ddd"{dash}/>'
                       f'<text x="{x0 - 6}" y="{at_y(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
        step = (width - 60) / max(1, len(p["labels"]) - 1)
        for i, n in enumerate(p["labels"]):
            out.append(f'<text x="{x0 + 15 + i * step:.1f}" y="{top + height + 16}" text-anchor="middle">{label_name(n)}</text>')
        out.append(f'<text x="{x0}" y="{top + height + 32}" fill="#666">labels a class</text>')
        legend = top + height + 50
        for arm, kind, backbone, method in arms(METHODS):
            if kind not in kinds:
                continue
            points = [(i, found(jobs, p, task, f"{label_name(n)}/{arm}")) for i, n in enumerate(p["labels"])]
            points = [(i, [r["test"]["top1"] for r in rows]) for i, rows in points if rows]
            if not points:
                continue
            colour = COLOURS[method or f"random-{backbone}"]
            dash = "" if method else ' stroke-dasharray="5 3"'
            path = " ".join(f"{x0 + 15 + i * step:.1f},{at_y(sum(v) / len(v)):.1f}" for i, v in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            for i, v in points:
                x = x0 + 15 + i * step
                out.append(f'<circle cx="{x:.1f}" cy="{at_y(sum(v) / len(v)):.1f}" r="3" fill="{colour}"/>'
                           f'<line x1="{x:.1f}" y1="{at_y(min(v)):.1f}" x2="{x:.1f}" y2="{at_y(max(v)):.1f}" stroke="{colour}"/>')
            out.append(f'<line x1="{x0}" y1="{legend - 4}" x2="{x0 + 22}" y2="{legend - 4}" stroke="{colour}" stroke-width="2"{dash}/>'
                       f'<text x="{x0 + 28}" y="{legend}">{escape(arm)}</text>')
            legend += 15
    return "\n".join(out) + "\n</svg>\n"
