"""Sending a file: conditions, ranges, and a body that holds one chunk in memory (RFC 9110, sections 13 to 15).

A transfer takes one of a bounded number of slots for as long as it lasts. The server has threads for all of them and
some more, so paused players, who hold their connections open for hours, never keep the pages from being answered.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flask import Request, Response
from werkzeug.http import http_date, parse_date

from service.errors import BusyError
from service.ranges import ByteRange, UnsatisfiableRangeError, parse_ranges
from telemetry import begin_transfer

if TYPE_CHECKING:
    from telemetry.requests import Transfer

CHUNK_BYTES = 256 * 1024
# The years 1 to 9999: a file can bear a date beyond what HTTP can say.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


class Slots:
    """How many transfers may run at once. Thread-safe, and without a lock: the collector, which frees the slots of forgotten
    bodies, may come while the same thread holds it.
    """

    def __init__(self, count: int) -> None:
        self._free = deque(range(count))

    def take(self) -> None:
        """Take a slot. Raises `BusyError` at once if all are taken."""
        try:
            self._free.pop()
        except IndexError:
            raise BusyError("every transfer slot is taken, try again in a moment") from None

    def free(self) -> None:
        """Give back a slot that was taken. A finalizer may call it, wherever it interrupts."""
        self._free.append(0)


class FileBody:
    """The pieces of an open file as a WSGI body: bytes between pieces as given, then each range. `close` is
    idempotent; a body that nobody closes, since something else became the answer, is closed when it is collected.
    """

    def __init__(self, file: BinaryIO, pieces: list[tuple[bytes, ByteRange]], tail: bytes, slots: Slots) -> None:
        slots.take()
        # No method: it would hold the body, which then waits for the cyclic collector.
        self._chunks = _read(file, pieces, tail)
        self._end = weakref.finalize(self, _end, file, slots, begin_transfer())

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self._end()


def _read(file: BinaryIO, pieces: list[tuple[bytes, ByteRange]], tail: bytes) -> Iterator[bytes]:
    for head, piece in pieces:
        if head:
            yield head
        file.seek(piece.start)
        left = len(piece)
        while left:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:  # The file was cut short: end here, so that the client sees a broken transfer.
                return
            left -= len(chunk)
            yield chunk
    if tail:
        yield tail


def _end(file: BinaryIO, slots: Slots, transfer: Transfer) -> None:
    file.close()
    slots.free()
    transfer.end()


def send_file(path: Path, mime: str, request: Request, slots: Slots) -> Response:
    """Answer a GET or HEAD for a file with 200, 206, 304, 412 or 416. Raises `OSError` and `BusyError`."""
    file = path.open("rb")
    try:
        return _respond(file, mime, request, slots)
    except BaseException:
        file.close()
        raise


def _respond(file: BinaryIO, mime: str, request: Request, slots: Slots) -> Response:
    status = os.fstat(file.fileno())
    size = status.st_size
    modified = datetime.fromtimestamp(max(_FIRST_S, min(status.st_mtime_ns // 10**9, _LAST_S)), UTC)
    response = Response(mimetype=mime)
    response.set_etag(f"{size:x}-{status.st_mtime_ns:x}")
    response.headers["Last-Modified"] = http_date(modified)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    code = _precondition(request, response, modified)
    if code is not None:
        file.close()
        response.status_code = code
        return response
    return _whole_or_part(file, size, mime, request, response, slots)


def _whole_or_part(
    file: BinaryIO, size: int, mime: str, request: Request, response: Response, slots: Slots
) -> Response:
    try:
        ranges = _ranges(request, response, size)
    except UnsatisfiableRangeError:
        file.close()
        response.status_code = 416
        response.headers["Content-Range"] = f"bytes */{size}"
        return response
    pieces: list[tuple[bytes, ByteRange]] = [(b"", ByteRange(0, size))]
    tail = b""
    if ranges is not None:
        response.status_code = 206
        pieces = [(b"", ranges[0])]
        if len(ranges) == 1:
            response.headers["Content-Range"] = ranges[0].content_range(size)
        else:
            pieces, tail = _multipart(ranges, size, mime, response)
    length = sum(len(head) + len(piece) for head, piece in pieces) + len(tail)
    response.headers["Content-Length"] = str(length)
    if request.method == "HEAD":
        file.close()
        return response
    response.response = FileBody(file, pieces, tail, slots)
    response.direct_passthrough = True
    return response


def _precondition(request: Request, response: Response, modified: datetime) -> int | None:
    """Follow RFC 9110, section 13.2.2: return 412 or 304, or None to go on."""
    etag = response.get_etag()[0] or ""
    if "If-Match" in request.headers:
        if etag not in request.if_match:
            return 412
    elif request.if_unmodified_since is not None and modified > request.if_unmodified_since:
        return 412
    if "If-None-Match" in request.headers:
        if request.if_none_match.contains_weak(etag):
            return 304
    elif request.if_modified_since is not None and modified <= request.if_modified_since:
        return 304
    return None


def _ranges(request: Request, response: Response, size: int) -> list[ByteRange] | None:
    header = request.headers.get("Range")
    # A range is defined for GET alone, and an empty file has none to give.
    if header is None or request.method != "GET" or not _if_range_holds(request, response):
        return None
    return parse_ranges(header, size)


def _if_range_holds(request: Request, response: Response) -> bool:
    """A strong tag or the exact date of what the client has: then parts of this file fit to its parts."""
    value = request.headers.get("If-Range", "").strip()
    if not value:
        return True
    if value.startswith(('"', "W/")):
        return value == response.headers["ETag"]
    date = parse_date(value)
    return date is not None and http_date(date) == response.headers["Last-Modified"]


def _multipart(
    ranges: list[ByteRange], size: int, mime: str, response: Response
) -> tuple[list[tuple[bytes, ByteRange]], bytes]:
    boundary = secrets.token_hex(16)
    response.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    pieces = []
    for number, piece in enumerate(ranges):
        lead = "\r\n" if number else ""
        head = f"{lead}--{boundary}\r\nContent-Type: {mime}\r\nContent-Range: {piece.content_range(size)}\r\n\r\n"
        pieces.append((head.encode("ascii"), piece))
    return pieces, f"\r\n--{boundary}--\r\n".encode("ascii")
