"""`python -m config` prints the table of settings as Markdown."""

from __future__ import annotations

import sys

from config.table import markdown_table

if __name__ == "__main__":
    sys.stdout.write(markdown_table())
