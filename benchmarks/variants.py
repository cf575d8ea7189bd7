"""All variants by name."""

from __future__ import annotations

from benchmarks import apps
from benchmarks.apps import Variant
from benchmarks.peers import apps as peer_apps

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (*apps.VARIANTS, *peer_apps.VARIANTS)}
