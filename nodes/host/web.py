"""ComfyUI's web server: routes of our own, and news for the pages that are open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def add_routes(routes: Iterable[Any]) -> None:
    """Answer further addresses, here and below /api; without a server nothing happens.

    Call it while packs are loaded: the host reads the table once, afterwards.
    """
    server = _server()
    if server is None:
        return
    for route in routes:
        server.routes.route(route.method, route.path)(route.handler)


def tell_pages(event: str, data: dict[str, Any]) -> None:
    """Send an event to every page that is open."""
    server = _server()
    if server is not None:
        server.send_sync(event, data)


def _server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
