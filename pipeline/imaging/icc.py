"""Write ICC profiles: of sRGB, and of colours described by numbers: chromaticities and gamma, or code points (ITU-T H.273)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.errors import DecodeError

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
REC_709 = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])
_SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


class Colours(NamedTuple):
    """The colours that RGB or grey samples stand for."""

    primaries: Chromaticities = REC_709
    gamma: float | None = None
    """Exponent from samples to light; None for sRGB's curve."""


def coded_colours(primaries: int, transfer: int) -> Colours | None:
    """Return the colours of two code points; None for sRGB, and for code points that are unspecified or unknown.

    The transfer functions of television count as sRGB's, as in browsers.

    Raises:
        DecodeError: The transfer function is one of HDR, which has no defined white.
    """
    if transfer in _HDR:
        raise DecodeError(
            f"its colours are HDR ({_HDR[transfer]}), which has no defined white; save it as SDR, for instance in sRGB"
        )
    colours = Colours(_PRIMARIES.get(primaries, REC_709), _GAMMAS.get(transfer))
    return None if colours == Colours() else colours


def profile(colours: Colours, grey: bool) -> bytes | None:
    """Return an ICC profile (version 4) of grey or RGB samples; None if the numbers describe no colours."""
    try:
        if grey:
            return _file(b"GRAY", [(b"wtpt", _xyz(_D50)), (b"kTRC", _curve(colours))])
        return _file(b"RGB ", [(b"wtpt", _xyz(_D50)), *_rgb_tags(colours)])
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return the profile of sRGB for files that others read, with all tags that ICC.1:2022 requires; always the same bytes."""
    texts = [(b"desc", _text("sRGB")), (b"cprt", _text("CC0"))]
    adaptation = b"sf32" + bytes(4) + _fixed(*_adaptation(_white(_D65)).ravel().tolist())
    return _file(b"RGB ", [*texts, (b"wtpt", _xyz(_D50)), (b"chad", adaptation), *_rgb_tags(Colours())])


def _rgb_tags(colours: Colours) -> list[tuple[bytes, bytes]]:
    with np.errstate(all="ignore"):
        columns = _to_d50(colours.primaries).T
    curve = _curve(colours)
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    return [*zip(names, map(_xyz, columns), strict=True), (b"rTRC", curve), (b"gTRC", curve), (b"bTRC", curve)]


def _curve(colours: Colours) -> bytes:
    curve = _SRGB_CURVE if colours.gamma is None else (0, colours.gamma)
    return b"para" + bytes(4) + struct.pack(">HH", int(curve[0]), 0) + _fixed(*curve[1:])


def _text(words: str) -> bytes:
    """Return a text in one language, American English."""
    return b"mluc" + bytes(4) + struct.pack(">2I4s2I", 1, 12, b"enUS", 2 * len(words), 28) + words.encode("utf-16-be")


def _to_d50(chromaticities: Chromaticities) -> np.ndarray:
    """Return the (3, 3) matrix from linear RGB to XYZ under D50."""
    white, *primaries = (_white(pair) for pair in zip(chromaticities[::2], chromaticities[1::2], strict=True))
    columns = np.stack(primaries, axis=1)
    return np.asarray(_adaptation(white) @ (columns * np.linalg.solve(columns, white)))


def _white(chromaticity: tuple[float, float]) -> np.ndarray:
    """Return the XYZ of brightness 1 that has this x and y."""
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def _adaptation(white: np.ndarray) -> np.ndarray:
    """Return the (3, 3) matrix that adapts XYZ from this white to D50."""
    cones = np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white))
    return np.asarray(np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD)


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(colour: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*colour.tolist())


def _file(space: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    start, body, table = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"    ", 0x04000000, b"mntr", space, b"XYZ ", b"acsp")
    return (head + bytes(28) + _fixed(*_D50)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
