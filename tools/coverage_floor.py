"""Fail when the branch coverage of a package is under its floor: `python tools/coverage_floor.py COVERAGE_JSON`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

FLOORS_PERCENT = {"telemetry": 95.0, "service": 85.0, "config": 85.0}


def main(report: Path) -> int:
    """Print each package's coverage and return 1 if one is too low, else 0."""
    covered: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for path, file in json.loads(report.read_text("utf-8"))["files"].items():
        package = Path(path).parts[0]
        summary = file["summary"]
        covered[package] += summary["covered_lines"] + summary["covered_branches"]
        total[package] += summary["num_statements"] + summary["num_branches"]
    failed = False
    for package, floor in FLOORS_PERCENT.items():
        percent = 100 * covered[package] / total[package] if total[package] else 0.0
        failed = failed or percent < floor
        print(f"{package}: {percent:.1f} % of lines and branches are covered, the floor is {floor:g} %")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
