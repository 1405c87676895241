"""The files of the page: read at start, found by name in a table, cached for ever by content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from dory_orchestrator.api.asgi import error_response

_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "vendor/htmx-2.0.11.min.js": "text/javascript",
    "vendor/htmx-ext-sse-2.2.4.min.js": "text/javascript",
}
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str


class StaticFiles:
    """`urls` tells where each file is; there is nothing else under `/static/`."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        found: dict[str, _File] = {}
        for name, media_type in _FILES.items():
            content = files(__package__).joinpath("static", name).read_bytes()
            stem, _, ending = name.rpartition("/")[2].rpartition(".")
            file = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
            found[file] = _File(content, media_type)
            self.urls[name.rpartition("/")[2]] = f"/static/{file}"
        self._found: Mapping[str, _File] = found

    async def get(self, request: Request) -> Response:
        """200 for a file of this version; 404."""
        file = self._found.get(request.path_params["name"])
        if file is None:
            return error_response(404, "Not Found")
        headers = {"cache-control": _FOR_EVER, "x-content-type-options": "nosniff"}
        return Response(file.content, headers=headers, media_type=file.media_type)
