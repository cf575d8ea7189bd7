"""The video server: `create_app` makes it."""

from service.app import create_app

__all__ = ["create_app"]
