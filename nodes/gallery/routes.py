"""The addresses of the tab *Concepts*, all below /cidm: looking by GET, changing by POST.

The host's own check of a request's origin stays in force. On top of it a change must say that it
sends JSON or plain bytes, which no form of another site can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ...cidm_core.bank import MissingConceptError
from ...cidm_core.errors import CidmError
from ..host import web as host
from . import changes, reading

PREFIX = "/cidm"
CHANGED = "cidm_bank_changed"  # the event that other pages hear
_JSON, _BYTES = "application/json", "application/octet-stream"
_NO_STORE = {"Cache-Control": "no-store"}
# The address of a picture holds its stamp: another picture has another address.
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
_NOT_GUESSED = {"X-Content-Type-Options": "nosniff"}
_AT_A_TIME = 2  # pictures that are made smaller at once
_MOST_BYTES = 2**30  # of a file that is sent

Fields = Mapping[str, Any]
_LOOKS: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
    "banks": reading.banks,
    "concepts": reading.concepts,
    "concept": reading.concept,
    "removed": reading.removed,
}
_CHANGES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
    "rename": changes.rename,
    "remove": changes.remove,
    "restore": changes.restore,
    "empty": changes.empty,
    "go_back": changes.go_back,
    "remove_version": changes.remove_version,
}
_CHANGES_BY_FILE: Mapping[str, Callable[[Fields, bytes], dict[str, Any]]] = {
    "preview": changes.new_preview,
    "replace": changes.replace_concept,
}
Handler = Callable[[web.Request], Any]


def add_routes() -> None:
    """Let the host's server answer for the tab."""
    host.add_routes(
        [
            *(web.get(f"{PREFIX}/{name}", _look(work)) for name, work in _LOOKS.items()),
            web.get(f"{PREFIX}/picture", _picture()),
            web.get(f"{PREFIX}/file", _file),
            *(web.post(f"{PREFIX}/{name}", _change(work)) for name, work in _CHANGES.items()),
            *(
                web.post(f"{PREFIX}/{name}", _change_by_file(work))
                for name, work in _CHANGES_BY_FILE.items()
            ),
        ]
    )


def _look(work: Callable[[Fields], dict[str, Any]]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await _told(work, dict(request.query))

    return answer


def _picture() -> Handler:
    room = asyncio.Semaphore(_AT_A_TIME)

    async def answer(request: web.Request) -> web.StreamResponse:
        async with room:
            try:
                data = await asyncio.to_thread(reading.picture, dict(request.query))
            except CidmError as error:
                return _refused(error)
        kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        return web.Response(body=data, content_type=kind, headers=_FOR_EVER | _NOT_GUESSED)

    return answer


async def _file(request: web.Request) -> web.StreamResponse:
    try:
        found = await asyncio.to_thread(reading.file_of, dict(request.query))
    except CidmError as error:
        return _refused(error)
    headers = {"Content-Type": _BYTES, "Content-Disposition": "attachment"}
    headers |= _NO_STORE | _NOT_GUESSED
    if isinstance(found, Path):
        return web.FileResponse(found, headers=headers)
    return web.Response(body=found, headers=headers)


def _change(work: Callable[[Fields], dict[str, Any]]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.content_type != _JSON:
            return _error(415, f"A change is asked for with Content-Type: {_JSON}.")
        try:
            fields = await request.json()
        except (ValueError, LookupError, RecursionError):  # no JSON, no such charset, too deep
            return _error(400, "The request is no JSON.")
        if not isinstance(fields, dict):
            return _error(400, "The request is no JSON object.")
        return await _changed(work, fields)

    return answer


def _change_by_file(work: Callable[[Fields, bytes], dict[str, Any]]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.content_type != _BYTES:
            return _error(415, f"A file is sent with Content-Type: {_BYTES}.")
        data = bytearray()
        async for chunk in request.content.iter_chunked(2**20):
            data += chunk
            if len(data) > _MOST_BYTES:
                return _error(413, f"The file has more than {_MOST_BYTES / 2**30:.0f} GB.")
        return await _changed(work, dict(request.query), bytes(data))

    return answer


async def _changed(
    work: Callable[..., dict[str, Any]], fields: Fields, *more: Any
) -> web.StreamResponse:
    """As `_told`; the pages that are open hear of it, in which another one may be at work."""
    answer = await _told(changes.one_at_a_time(work), fields, *more)
    if answer.status == web.HTTPOk.status_code:
        host.tell_pages(CHANGED, {"bank": fields["bank"]})
    return answer


async def _told(
    work: Callable[..., dict[str, Any]], fields: Fields, *more: Any
) -> web.StreamResponse:
    """What a piece of work says, done outside the loop that serves everybody."""
    try:
        return web.json_response(await asyncio.to_thread(work, fields, *more), headers=_NO_STORE)
    except CidmError as error:
        return _refused(error)


def _refused(error: CidmError) -> web.StreamResponse:
    missing = isinstance(error, reading.NotThereError | MissingConceptError)
    status = 404 if missing else 409 if isinstance(error, changes.ChangedError) else 400
    return _error(status, str(error))


def _error(status: int, text: str) -> web.StreamResponse:
    return web.json_response({"error": text}, status=status, headers=_NO_STORE)
