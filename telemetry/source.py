"""The line of the app's code that a query comes from.

A call site is a code object and an offset in it, which cost next to nothing to note; file, function and line are looked up when
somebody reads them. Which files are the app's own is decided once a file: those below the longest of the known roots, where
the roots of libraries are the standard library, the places of installed packages and this package, and each instrumented app
adds its own. So an app that is itself installed into site-packages is still the app.
"""

from __future__ import annotations

import functools
import linecache
import os
import sys
import weakref
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from flask import Flask

Site = tuple["CodeType | str | None", int, "CodeType | str | None", int]
"""Where a query comes from, and what called that: for each a code object and an offset in its bytecode, a template's file name
and its line, or `None` and 0."""

NO_SITE: Final[Site] = (None, 0, None, 0)

_WAY_IN: Final = 0
KINDS: Final[dict[str, int | None]] = {}
"""File name -> `True` for plain code of the app, `False` for libraries, `None` for templates, `_WAY_IN` where requests come into
an app; filled by `find`.
"""

_MOST_KINDS: Final = 20_000
_TEMPLATE: Final = "__jinja_template__"
_PACKAGES: Final = f"-packages{os.sep}"  # of site-packages and dist-packages
_FRAMEWORKS: Final = frozenset({"flask", "werkzeug"})
_TYPED_IN: Final = ("<stdin>", "<console>", "<input>", "<ipython")


class SourceLine(NamedTuple):
    """A line of code: its file as short as it can be told, its number, and the function around it, if it is in one."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _library_roots() -> set[str]:
    return {
        _root(str(Path(file).parent)) for file in (__file__, os.__file__)
    }  # packages are told by their folder's name


def _root(path: str) -> str:
    return str(Path(path).resolve()).rstrip(os.sep) + os.sep


_libraries: Final = _library_roots()
_apps: Final[set[str]] = set()


def add_root(path: str, module: str = "") -> None:
    """Call what is below `path` code of the app, except for the libraries that are inside it.

    Of a package it is all, whichever module of it has made the app; of a `module` among packages it is that one alone.
    """
    root = Path(_root(path))
    if _is_of_packages(root):
        file = getattr(sys.modules.get(module), "__file__", None) or str(root / f"{module}.py")
        _apps.add(file)
    else:
        while (
            not _is_of_packages(root.parent) and _is_package(root) and _is_package(root.parent) and root != root.parent
        ):
            root = root.parent
        _apps.add(_root(str(root)))
    KINDS.clear()
    short_name.cache_clear()


def _is_of_packages(folder: Path) -> bool:
    """Tell whether packages are installed into `folder`."""
    return str(folder).endswith(_PACKAGES.rstrip(os.sep))


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def is_app(file: str) -> bool:
    """Tell whether `file` belongs to the app: what is below no root at all does."""
    if file.startswith("<"):
        return file.startswith(_TYPED_IN)
    try:
        path = os.path.abspath(file)  # noqa: PTH100  # it need not exist
    except OSError:  # nor need the working directory
        path = file
    library = max(_longest(_libraries, path), path.rfind(_PACKAGES))
    return _longest(_apps, path) > library or library <= 0


def _longest(roots: set[str], path: str) -> int:
    return max((len(root) for root in roots if path.startswith(root)), default=0)


def _kind(frame: FrameType) -> int | None:
    file = frame.f_code.co_filename
    known = KINDS.get(file, KINDS)
    if known is KINDS:
        known = None if _TEMPLATE in frame.f_globals else _WAY_IN if file in _WAYS_IN else is_app(file)
        if len(KINDS) >= _MOST_KINDS:
            KINDS.clear()
        KINDS[file] = known
    return known  # type: ignore[return-value]  # not the dict itself any more


def find(frame: FrameType | None) -> Site:
    """Return the site of the nearest frame of the app, from `frame` outwards, and what called it.

    Where there is none, such as in a view or the middleware of a library, a frame of a library stands for it: what is behind the
    way into the app, such as a server's script, has asked nothing.
    """
    here: Any = frame
    kinds = KINDS
    # A query of an ORM comes through six frames or twenty, which are half of what it costs to see: no call for each of them.
    while True:
        try:
            while kinds[here.f_code.co_filename] is False:
                here = here.f_back
        except KeyError:
            _kind(here)  # it is known from now on
        except AttributeError:  # there is none
            return _stand_in(frame)
        else:
            kind = _kind(here)
            if kind is not _WAY_IN:
                break
            if _is_way_in(here):
                return _stand_in(frame)
            here = here.f_back
    if kind is None:
        return (*_template_line(here), *_nearest_code(here.f_back))
    return (here.f_code, here.f_lasti, *_caller_of(here))


def _caller_of(frame: FrameType) -> tuple[CodeType | str | None, int]:
    """Return what has called a frame of the app; where that is a library, as it calls hooks, what of the app has called that."""
    caller = behind = frame.f_back
    while behind is not None and _kind(behind) is False and not _is_framework(behind.f_code.co_filename):
        behind = behind.f_back
    if behind is not None and _kind(behind):
        caller = behind
    return (None, 0) if caller is None else (caller.f_code, caller.f_lasti)


@functools.lru_cache(maxsize=2048)
def _is_framework(file: str) -> bool:
    return file.startswith(_OURS) or _package(file) in _FRAMEWORKS


def _stand_in(frame: FrameType | None) -> Site:
    """Return the site of the library that uses the one which asks SQLite, such as an ORM; of that where Flask itself uses it."""
    nearest = frame
    while nearest is not None and nearest.f_code.co_filename.startswith(_OURS):
        nearest = nearest.f_back
    if nearest is None:
        return NO_SITE
    asking, found = _package(nearest.f_code.co_filename), nearest
    frame = nearest.f_back if asking else None
    while frame is not None:
        file = frame.f_code.co_filename
        package = _package(file)
        if _is_framework(file):
            break
        if package and asking not in package:  # flask_sqlalchemy says no more than sqlalchemy
            found = frame
            break
        frame = frame.f_back
    return (found.f_code, found.f_lasti, None, 0)


@functools.lru_cache(maxsize=2048)
def _package(file: str) -> str:
    """Return the name of the installed package, or module, that `file` belongs to; empty if to none."""
    start = _in_packages(file)
    return file[start:].partition(os.sep)[0].removesuffix(".py") if start else ""


def _in_packages(file: str) -> int:
    """Return where in the path `file` that of an installed package begins; 0 if there is none."""
    at = file.rfind(_PACKAGES)
    return at + len(_PACKAGES) if at >= 0 else 0


def none(_: FrameType | None) -> Site:
    """Return no site: what `find` is where source lines are switched off."""
    return NO_SITE


_OURS: Final = str(Path(__file__).parent) + os.sep
_MIDDLEWARE: Final = str(Path(__file__).parent / "instrumentation" / "flask.py")
WSGI_APP: Final = getattr(Flask.wsgi_app, "__code__", None)
"""The code of Flask's own `wsgi_app`; `None` where something without code of Python's own has been put there."""
_WAYS_IN: Final = frozenset({_MIDDLEWARE, getattr(WSGI_APP, "co_filename", _MIDDLEWARE)})


def _is_way_in(frame: FrameType) -> bool:
    """Tell whether a request comes into its app here: what is behind that is of the server and of middleware."""
    return frame.f_code is WSGI_APP or frame.f_code.co_filename == _MIDDLEWARE


def _nearest_code(frame: FrameType | None) -> tuple[CodeType | str | None, int]:
    while frame is not None and not _is_way_in(frame):
        if _kind(frame):
            return frame.f_code, frame.f_lasti
        frame = frame.f_back
    return None, 0


_template_lines: Final[weakref.WeakKeyDictionary[Any, dict[tuple[int, int], int]]] = weakref.WeakKeyDictionary()
"""Of each template the lines of its text by code object and offset: Python and Jinja look through all of it for one of them."""


def _template_line(frame: FrameType) -> tuple[str, int]:
    template: Any = frame.f_globals.get(_TEMPLATE)
    try:
        lines = _template_lines.get(template)
        if lines is None:
            lines = _template_lines[template] = {}
    except TypeError:  # of a class of the app's own, which has no hash
        lines = {}
    key = id(frame.f_code), frame.f_lasti  # which is nobody else's as long as the template is there
    line = lines.get(key)
    if line is None:
        line = lines[key] = int(template.get_corresponding_lineno(frame.f_lineno))
    return str(template.filename or template.name or "<template>"), line


def line_of(code: CodeType | str | None, position: int) -> SourceLine | None:
    """Return the line that a half of a site stands for."""
    if code is None:
        return None
    if isinstance(code, str):
        return SourceLine(short_name(code), position, "")
    name = code.co_qualname if hasattr(code, "co_qualname") else code.co_name
    function = "" if name.startswith("<") else name.replace("<locals>.", "")
    return SourceLine(short_name(code.co_filename), line_number(code, position), function)


@functools.lru_cache(maxsize=2048)
def line_number(code: CodeType, position: int) -> int:
    """Return the number of the line that holds the instruction at `position` of `code`."""
    for start, end, line in code.co_lines():
        if start <= position < end and line is not None:
            return line
    return code.co_firstlineno


def caller_of(site: Site) -> SourceLine | None:
    """Return what called the line of `site`, if that is code of the app too; not what a comprehension is written in."""
    code = site[2]
    if code is None or (isinstance(code, CodeType) and not (_is_python(code.co_filename) and is_app(code.co_filename))):
        return None
    line, caller = line_of(site[0], site[1]), line_of(code, site[3])
    is_inner = isinstance(site[0], CodeType) and site[0].co_name.startswith("<")
    is_same = line is not None and caller is not None and (line.file, line.line) == (caller.file, caller.line)
    return None if is_inner and is_same else caller


def _is_python(file: str) -> bool:
    """Tell a module from a template, whose compiled code has other line numbers than its text."""
    return file.endswith((".py", ".pyw")) or file.startswith("<")


@functools.lru_cache(maxsize=2048)
def short_name(file: str) -> str:
    """Return `file` from the folder on that holds the app's or an installed package, or its modules; else as it is called."""
    roots = sorted((root for root in (*_apps, *_libraries) if file.startswith(root)), key=len, reverse=True)
    packages = _in_packages(file)
    if not roots or packages > len(roots[0]) or roots[0] == file:
        return file[packages:]
    root = Path(roots[0])
    is_package = roots[0] in _apps and _is_package(root)
    return file[len(str(root.parent if is_package else root).rstrip(os.sep)) + 1 :]


def text_of(file: str, line: int) -> str:
    """Return a line of code as it is written, without the white space around it; empty where it can't be read."""
    return linecache.getline(file, line).strip()
