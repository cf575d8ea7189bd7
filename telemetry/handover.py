"""What workers of a server hand over when they end, to those that go on or come after them: files where they meet.

Each that ends writes a file of its own, and waits for nobody. Whoever finds that nobody is at it makes one file of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_SUFFIX: Final = ".left"


class Handover:
    """What workers of an app have handed over, in files of a folder. For many processes."""

    def __init__(self, folder: Path, tag: str) -> None:
        """Use files whose names begin with `tag`, as those of workers do."""
        self._folder = folder
        self._tag = tag
        self._merged = folder / f"{tag}{_SUFFIX}"

    def exists(self) -> bool:
        """Tell whether anything was handed over."""
        return next(self._files(), None) is not None

    def read(self) -> list[bytes]:
        """Return what was handed over, by one worker each, and last what was merged, which may have some of these in it."""
        return [content for path in self._files() if (content := _content(path)) is not None]

    def add(self, name: str, content: bytes) -> None:
        """Hand over what the worker `name` has to. Raises `OSError` if it can't be written."""
        _write((self._folder / name).with_suffix(_SUFFIX), content)

    def merge(self, merged: Callable[[Sequence[bytes]], bytes]) -> None:
        """Replace what `read` returns by what `merged` makes of it, unless another process does so just now.

        Raises:
            OSError: it can't be written; what was there stays.
        """
        with _alone(self._folder) as is_alone:
            files = list(self._files())
            if is_alone and len(files) > 1:
                _write(self._merged, merged([content for path in files if (content := _content(path)) is not None]))
                for path in files:
                    if path != self._merged:
                        path.unlink(missing_ok=True)

    def forget_before(self, start_unix_s: Callable[[], float]) -> None:
        """Forget what was handed over before a server was started: in a container each of its runs has the same number."""
        for path in list(self._files()):
            with suppress(FileNotFoundError):  # another worker may have done so
                if path.stat().st_mtime < start_unix_s():
                    path.unlink()

    def _files(self) -> Iterator[Path]:
        """Yield the files of single workers, then the merged one: what is in none of the first by then is in that."""
        yield from sorted(self._folder.glob(f"{self._tag}-*{_SUFFIX}"))
        if self._merged.exists():
            yield self._merged


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:  # it has been merged meanwhile
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file that nobody sees before it is whole."""
    written = path.with_suffix(".part")
    written.touch(0o600)
    written.write_bytes(content)
    written.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Say whether no other process is in here for that folder."""
    import fcntl  # which Windows has not, nor any workers that meet

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
