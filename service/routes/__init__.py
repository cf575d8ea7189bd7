"""The blueprints of the video server."""

from service import openapi
from service.routes import cache_admin, library_admin, main, media, ratings, tags

BLUEPRINTS = (
    main.blueprint,
    media.blueprint,
    ratings.blueprint,
    tags.blueprint,
    cache_admin.blueprint,
    library_admin.blueprint,
    openapi.blueprint,
)

__all__ = ["BLUEPRINTS"]
