"""Say in one line that this Python is too old, before pip says it in fifty."""

import sys

if sys.version_info < (3, 11):
    sys.exit("Local Video Server needs Python 3.11 or newer, got %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])
