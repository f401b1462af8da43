"""Understand the clients of rembg's server: ``POST /api/remove`` with the field ``file``, ``GET /api/remove?url=…``.

rembg's options ``om`` (mask only) and ``bgc`` (background) work. ``model`` names a configured preset; another model gives the
default preset, as the header ``X-Recipe`` says. Options of its edge treatment (``a``, ``af``, ``ab``, ``ae``, ``ppm``) and
``extras`` have no effect: edges are always refined.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.job import Limits
from pipeline.errors import AddressRefused
from pipeline.log import log
from pipeline.serve.asked import Asked
from pipeline.serve.refusals import RequestRefused
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

TRUE = {"true", "1", "on", "yes"}


def parse_remove(given: Mapping[str, str], presets: tuple[str, ...]) -> Asked:
    """Parse rembg's options.

    Raises:
        RequestRefused: 400: the background is not a colour.
    """
    mask, model = given.get("om", "").lower() in TRUE, given.get("model", "")
    return Asked(
        preset=model if model in presets else presets[0],
        output="mask" if mask else "cutout",
        background=None if mask else _background(given.get("bgc", "")),
    )


def fetch(url: str, files: Files, limits: Limits) -> bytes:
    """Return the picture at a web address below an allowed root.

    Raises:
        RequestRefused: 400 or 403: it is no web address, or it or one that it redirects to is below no allowed root.
        FetchError: It cannot be read.
    """
    if uris.scheme(url) not in uris.HTTP_SCHEMES:
        raise RequestRefused(400, "request", "give the address of a picture: ?url=https://…")
    if not AllowList.of(files.storage).allows(url):
        raise RequestRefused(403, "address", "this address may not be read; send the picture itself with POST")
    try:
        return files.read(url, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
    except AddressRefused as error:  # its sentence names the roots, and the servers behind redirects
        log.info("an address was refused", extra={"facts": {"detail": str(error)}})
        message = "this address, or one that it redirects to, may not be read; send the picture itself with POST"
        raise RequestRefused(403, "address", message) from None


def _background(text: str) -> str | None:
    """Convert ``r,g,b,a`` or ``r,g,b`` to ``#rrggbb``; None for none, and for one that is transparent.

    A translucent one is refused: every format would need it blended, and the cutout itself can be put over anything.
    """
    if not text.strip():
        return None
    try:
        red, green, blue, alpha = (int(part) for part in (*text.split(","), *("255",) * (text.count(",") == 2)))
    except ValueError:
        alpha = -1
    if alpha not in {0, 255} or not all(0 <= level <= 255 for level in (red, green, blue)):
        raise RequestRefused(400, "request", f"bgc {text[:40]!r} is not an opaque colour; give red,green,blue from 0 to 255")
    return f"#{red:02x}{green:02x}{blue:02x}" if alpha else None
