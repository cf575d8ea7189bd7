"""Say in one line that this Python is too old, before pip says it in fifty."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # that is the question
    sys.exit("Local Video Server needs Python 3.11 or newer; try: make PYTHON=python3.12")
