"""Detect a file's format from its first bytes."""

from __future__ import annotations

from typing import Literal

from pipeline.errors import DecodeError

Format = Literal["JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "HEIC"]

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)
SUFFIXES: dict[Format, str] = {
    **{"JPEG": "jpg", "PNG": "png", "WebP": "webp", "TIFF": "tif", "GIF": "gif", "BMP": "bmp", "AVIF": "avif", "HEIC": "heic"}
}
"""Suffixes of file names, without a dot."""

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

_RAW = "a camera's raw file"
_UNSUPPORTED = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"v/1\x01", "OpenEXR"),
    *((start, _RAW) for start in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00", b"FOVb")),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
_TEXT_STARTS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<head", "an HTML page"),
    (b"<body", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


def sniff(data: bytes) -> Format:
    """Return the format that the first bytes announce. File names are ignored.

    Raises:
        DecodeError: The format is not supported. The message says what the bytes look like.
    """
    for start, name in _MAGIC:
        if data.startswith(start) and not _is_canon_raw(data):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if _AVIF_BRANDS & set(brands) and brands[0] in _AVIF_BRANDS | {b"mif1", b"msf1"}:
            return "AVIF"
        if brands[0] in _HEIC_BRANDS:
            return "HEIC"
    raise DecodeError(
        f"the bytes are {describe(data)}, not a supported image; give a JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF or HEIC file"
    )


def describe(data: bytes) -> str:
    """Describe bytes that are no supported image, in words that fit after "the bytes are"."""
    if not any(data):
        return "nothing but zeros" if data else "empty"
    if _is_canon_raw(data):
        return _RAW
    if data[4:8] == b"ftyp":
        return "a video or another ISO media file"
    for start, name in _UNSUPPORTED:
        if data.startswith(start):
            return name
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    words = head.decode("utf-8", "ignore")
    if len(words) < len(head) // 2 or not all(character.isprintable() or character.isspace() for character in words):
        return f"of an unknown kind (they start {data[:8].hex(' ')})"
    text = next((name for start, name in _TEXT_STARTS if head.startswith(start)), "plain text")
    return "an SVG drawing" if text == "XML" and "<svg" in words else text


def _is_canon_raw(data: bytes) -> bool:
    """Return whether this is a CR2, which begins as a TIFF whose first page is a preview, or a CR3."""
    return (data[:4] == b"II*\x00" and data[8:10] == b"CR") or data[4:12] == b"ftypcrx "


def _brands(data: bytes) -> list[bytes]:
    """Return the major brand, then the compatible brands, of an ISO media file's ``ftyp`` box."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
