"""The server's typed settings and where each of them came from."""

from config.settings import Loaded, Settings, SettingsError, load_settings
from config.table import Row, settings_table

__all__ = ["Loaded", "Row", "Settings", "SettingsError", "load_settings", "settings_table"]
