#!/usr/bin/env python3
"""What a linear predictor makes of the hidden patches: the strongest of the trivial ones.

Reads batches that `keiko preview --tensors` wrote for a run with plain pixels in ImageNet units, and
prints JSON: the mean squared error on the second file of a ridge regression fitted on the first, and of the
best constant there. The dual form is solved once for every group of tokens that are hidden in the same
clips (`future`: one group; `tube`: one for each place); three quarters of the clips are fitted, the
others choose the ridge. Clips are grey, so one channel stands for all.

Usage: learning_ridge.py TRAIN.safetensors TEST.safetensors --patch 8 --tubelet 2
"""

import argparse
import json
import struct

import numpy as np

IMAGENET_STD = (0.229, 0.224, 0.225)
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # times the mean of the kernel's diagonal


def read(path, patch, tubelet):
    """Green values in [0, 1] by tokens [clips, tokens, pixels], and which tokens are hidden [clips, tokens]."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        content = file.read()
    videos, masks = [], []
    for k in sorted({int(name.split("/")[0]) for name in header if "/" in name}):
        part = {}
        for name, type_ in (("video", "U8"), ("mask", "BOOL")):
            entry = header[f"{k}/{name}"]
            if entry["dtype"] != type_:
                raise SystemExit(f"{path}: {k}/{name} is {entry['dtype']}, not {type_}")
            first, last = entry["data_offsets"]
            part[name] = np.frombuffer(content[first:last], np.uint8).reshape(entry["shape"])
        videos.append(part["video"][:, 1])
        masks.append(part["mask"] != 0)
    video = np.concatenate(videos)
    b, t, h, w = video.shape
    tokens = video.reshape(b, t // tubelet, tubelet, h // patch, patch, w // patch, patch)
    tokens = tokens.transpose(0, 1, 3, 5, 2, 4, 6).reshape(b, -1, tubelet * patch * patch)
    return tokens.astype(np.float32) / 255, np.concatenate(masks)


def groups_of(hidden):
    """Lists of tokens that are hidden in exactly the same clips."""
    groups = {}
    for token in range(hidden.shape[1]):
        if hidden[:, token].any():
            groups.setdefault(hidden[:, token].tobytes(), []).append(token)
    return list(groups.values())


def ridge_error(train, hidden, test, test_hidden):
    """Sums of squared errors over all hidden values of `test`: of the ridge regression and of the best constant;
    and the number of those values."""
    mean = train.mean(axis=0)
    seen = ((train - mean) * ~hidden[..., None]).reshape(len(train), -1)
    test_seen = ((test - mean) * ~test_hidden[..., None]).reshape(len(test), -1)
    kernel, test_kernel = seen @ seen.T, test_seen @ seen.T
    is_fitted = np.arange(len(train)) < len(train) * 3 // 4
    constant = test[test_hidden].mean()
    squares, constant_squares, count = 0.0, 0.0, 0
    for tokens in groups_of(np.concatenate([hidden, test_hidden])):
        rows, others = np.flatnonzero(hidden[:, tokens[0]] & is_fitted), np.flatnonzero(hidden[:, tokens[0]] & ~is_fitted)
        judged = np.flatnonzero(test_hidden[:, tokens[0]])
        wanted = (train - mean)[:, tokens].reshape(len(train), -1)
        own = kernel[np.ix_(rows, rows)]
        best = None
        for strength in STRENGTHS:
            ridge = own + np.float32(strength * own.trace() / len(rows)) * np.eye(len(rows), dtype=np.float32)
            weights = np.linalg.solve(ridge, wanted[rows])
            error = np.square(kernel[np.ix_(others, rows)] @ weights - wanted[others]).sum()
            if best is None or error < best[0]:
                best = (error, weights)
        truth = test[np.ix_(judged, tokens)].reshape(len(judged), -1)
        said = test_kernel[np.ix_(judged, rows)] @ best[1] + mean[tokens].reshape(-1)
        squares += np.square(said - truth, dtype=np.float64).sum()
        constant_squares += np.square(truth - constant, dtype=np.float64).sum()
        count += truth.size
    return squares, constant_squares, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--patch", type=int, required=True)
    parser.add_argument("--tubelet", type=int, required=True)
    a = parser.parse_args()
    train, hidden = read(a.train, a.patch, a.tubelet)
    test, test_hidden = read(a.test, a.patch, a.tubelet)
    squares, constant_squares, count = ridge_error(train, hidden, test, test_hidden)
    units = sum(1 / s**2 for s in IMAGENET_STD) / 3  # a squared grey level, over three channels
    print(json.dumps({"ridge_loss": units * squares / count, "ridge_constant_loss": units * constant_squares / count,
                      "ridge_clips": len(train), "ridge_test_clips": len(test)}))


if __name__ == "__main__":
    main()
