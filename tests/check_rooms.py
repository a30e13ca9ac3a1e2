"""Checks that every #include goes downward in the table of rooms, and torch stays where it may be.

The table is what CMake's keiko_room(... USES ...) lines say. Usage: check_rooms.py SRC TABLE.
"""

import pathlib
import re
import sys

# Rooms that must not see torch, so that they build in seconds.
NO_TORCH = {"base", "config", "report", "media", "data", "cuda"}


def main():
    src, table_file = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    uses = {}
    for row in table_file.read_text().split():
        room, used = row.split(":")
        uses[room] = set(filter(None, used.split(",")))
    problems, checked = [], 0
    for path in sorted(src.rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        room = path.relative_to(src).parts[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            place = f"{path}:{number}"
            ours = re.match(r'#include "([a-z]+)/', line)
            if ours and room in uses:
                checked += 1
                if ours[1] != room and ours[1] not in uses[room]:
                    problems.append(f"{place}: {room} may not include {ours[1]} (its USES line has "
                                    f"{', '.join(sorted(uses[room])) or 'nothing'})")
            if re.match(r"#include <(torch|ATen|c10)/", line) and (room in NO_TORCH or path.suffix == ".cu"):
                problems.append(f"{place}: torch may not be included here")
    print("\n".join(problems) or f"{checked} includes of {len(uses)} rooms go downward")
    sys.exit(1 if problems or checked == 0 else 0)


main()
