"""What the tests of the admin pages share: an app of two routes, and a reader for the HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.parser import HTMLParser

import pytest
from flask import Flask
from flask.testing import FlaskClient

VOID = {"meta", "link", "input", "br", "path"}


class Node:
    """One element of a page, as a test reads it."""

    def __init__(self, tag: str, attributes: dict[str, str], inside: Node | None = None) -> None:
        self.tag = tag
        self.attributes = attributes
        self.inside = inside
        self.children: list[Node | str] = []

    def __getitem__(self, attribute: str) -> str:
        return self.attributes[attribute]

    @property
    def text(self) -> str:
        """All text inside, with white space as a browser shows it."""
        return " ".join(" ".join(child if isinstance(child, str) else child.text for child in self.children).split())

    def elements(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.elements()

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Every element of that tag whose attributes have these values; `class_` names one of its classes."""
        kind = attributes.pop("class_", None)
        return [
            node
            for node in self.elements()
            if node.tag == tag
            and attributes.items() <= node.attributes.items()
            and (kind is None or kind in node.attributes.get("class", "").split())
        ]

    def by_id(self, name: str) -> Node:
        (found,) = [node for node in self.elements() if node.attributes.get("id") == name]
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.at = self.root = Node("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.inside is not None
        self.at = self.at.inside

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


Read = Callable[[str], Node]


@pytest.fixture
def read() -> Read:
    """Parse HTML into its elements; one that is not closed, or twice, fails the test."""

    def parse(html: str) -> Node:
        reader = _Reader()
        reader.feed(html)
        reader.close()
        assert reader.at is reader.root, f"<{reader.at.tag}> is not closed"
        return reader.root

    return parse


def make_shop() -> Flask:
    app = Flask("shop")
    app.add_url_rule("/", "index", lambda: "hello")
    app.add_url_rule("/item/<int:number>", "item", lambda number: f"item {number}")
    return app


@pytest.fixture
def shop() -> Flask:
    """An app of two routes that is not instrumented yet."""
    return make_shop()


@pytest.fixture
def client(shop: Flask, instrumented: Callable[..., Flask]) -> FlaskClient:
    """A client on this machine in front of the instrumented shop."""
    return instrumented(shop).test_client()
