"""The Range header of RFC 9110, section 14: what part of a file a client asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.errors import ServerError

MAX_SPECS = 64
MAX_RANGES = 16
_SPEC = re.compile(r"(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes `start` to `stop`, `stop` not included."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size_bytes: int) -> str:
        """Return the value of the Content-Range header."""
        return f"bytes {self.start}-{self.stop - 1}/{size_bytes}"


class UnsatisfiableRangeError(ServerError):
    """No byte of the file is in the ranges. Carries the file's size for the answer."""

    status = 416

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(f"the file has {size_bytes} bytes")


def parse_ranges(header: str, size_bytes: int) -> list[ByteRange] | None:
    """Return the ranges to send, or None when the header is to be ignored and the whole file is the answer.

    It is ignored when it is malformed, in another unit, or asks for more pieces than a player ever would. Ranges that
    overlap or touch are merged and sorted; others keep the order they were asked in. Raises
    `UnsatisfiableRangeError`.
    """
    unit, equals, specs = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    asked = [spec.strip() for spec in specs.split(",")]
    asked = [spec for spec in asked if spec]
    if not 0 < len(asked) <= MAX_SPECS:
        return None
    ranges = []
    for spec in asked:
        match = _SPEC.fullmatch(spec)
        if match is None or not _is_valid(first := match[1], last := match[2]):
            return None
        found = _resolve(first, last, size_bytes)
        if found is not None:
            ranges.append(found)
    if not ranges:
        raise UnsatisfiableRangeError(size_bytes)
    merged = _merge(ranges)
    return merged if len(merged) <= MAX_RANGES else None


def _is_valid(first: str, last: str) -> bool:
    # 19 digits hold every file; longer numbers are noise, and int() of very long ones raises.
    if max(len(first), len(last)) > 19 or not first + last:
        return False
    return not (first and last) or int(first) <= int(last)


def _resolve(first: str, last: str, size_bytes: int) -> ByteRange | None:
    if first:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    else:
        start, stop = max(0, size_bytes - int(last)), size_bytes
    return ByteRange(start, stop) if start < stop else None


def _merge(ranges: list[ByteRange]) -> list[ByteRange]:
    merged: list[ByteRange] = []
    for piece in sorted(ranges):
        if merged and piece.start <= merged[-1].stop:
            merged[-1] = ByteRange(merged[-1].start, max(merged[-1].stop, piece.stop))
        else:
            merged.append(piece)
    return ranges if len(merged) == len(ranges) else merged
