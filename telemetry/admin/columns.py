"""What tables that are sorted by a click have in common: their columns, and the part of the URL that says how."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: what it sorts by, its head, what that means, the order that a first click gives, and its unit."""

    key: str
    label: str
    title: str
    first_order: str = "desc"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class TableState:
    """The view of a table that a URL stands for; every field of a class below has a default."""

    sort: str = ""
    order: str = "desc"
    q: str = ""

    def url(self, **changes: str) -> str:
        """Return the relative URL of this state with `changes`."""
        return "?" + self.query(**changes)

    def query(self, **changes: str) -> str:
        """Return the query string of this state with `changes`; what is as by default is left out."""
        changed, default = replace(self, **changes), type(self)()
        chosen = {
            field.name: getattr(changed, field.name)
            for field in fields(self)
            if getattr(changed, field.name) != getattr(default, field.name)
        }
        if changed.sort != default.sort or changed.order != default.order:
            chosen |= {"sort": changed.sort, "order": changed.order}
        return urlencode(chosen)

    def sorted_by(self, column: Column) -> str:
        """Return the URL that sorts by `column`, or turns the order if it is sorted by it already."""
        turned = {"asc": "desc", "desc": "asc"}[self.order]
        return self.url(sort=column.key, order=turned if column.key == self.sort else column.first_order)
