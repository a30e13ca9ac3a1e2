"""A cable with delay and loss between network namespaces, as a program: python3 wire.py DELAY_S LOSS SEED TAP...

It makes the TAP devices, and carries every frame from one to the others: late by DELAY_S, or, with
probability LOSS, not at all. Prints `ready`, then runs until its input ends, and prints
{"carried": frames, "lost": frames}. A program, because not every kernel has tc's netem; and it can tell
what it did.
"""

import fcntl
import heapq
import json
import os
import selectors
import struct
import sys
import time
from random import Random

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h


def open_tap(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return file


def carry(taps, delay_s, loss, random):
    ends = selectors.DefaultSelector()
    for end in (*taps, sys.stdin.fileno()):
        ends.register(end, selectors.EVENT_READ)
    under_way, number = [], 0  # (when it is due, number, frame, where it came from); the number keeps the order
    counts = {"carried": 0, "lost": 0}
    print("ready", flush=True)
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        for key, _ in ends.select(wait):
            if key.fd == sys.stdin.fileno():
                return counts
            try:
                frame = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            except OSError:
                continue  # this end's link is down
            if random.random() < loss:
                counts["lost"] += 1
            else:
                number += 1
                heapq.heappush(under_way, (time.monotonic() + delay_s, number, frame, key.fd))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, frame, source = heapq.heappop(under_way)
            counts["carried"] += 1
            for tap in taps:
                if tap != source:
                    try:
                        os.write(tap, frame)
                    except OSError:
                        pass  # full, or down: a frame may be lost


if __name__ == "__main__":
    delay_s, loss, seed, *names = sys.argv[1:]
    print(json.dumps(carry([open_tap(name) for name in names], float(delay_s), float(loss), Random(int(seed)))))
