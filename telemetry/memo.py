"""What has been made before, and may be used again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

_Made = TypeVar("_Made")


class Memo(Generic[_Made]):
    """What has been made of texts and places in code, up to a number of them, and of characters in all of them.

    Code objects are told apart by identity, which keeping them here makes safe: hashing one goes through its constants.
    """

    __slots__ = ("_characters", "made")

    def __init__(self) -> None:
        self.made: dict[Hashable, tuple[_Made, object]] = {}
        self._characters = 0

    def keep(self, key: Hashable, made: _Made, code: object, characters: int) -> _Made:
        """Remember and return what was made of so many characters."""
        self._characters += characters
        if len(self.made) >= MAX_NUMBER or self._characters > MAX_CHARACTERS:
            self.made.clear()
            self._characters = characters
        if characters <= MAX_CHARACTERS:
            self.made[key] = made, code
        return made


MAX_NUMBER: Final = 2048
MAX_CHARACTERS: Final = 4_000_000
