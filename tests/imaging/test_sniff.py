from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.imaging.sniff import describe, sniff


def ftyp(major: bytes, *others: bytes) -> bytes:
    return (16 + 4 * len(others)).to_bytes(4, "big") + b"ftyp" + major + bytes(4) + b"".join(others) + b"\x00\x00\x00\x08mdat"


@pytest.mark.parametrize(
    ("form", "name"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("TIFF", "TIFF"), ("GIF", "GIF"), ("BMP", "BMP"), ("AVIF", "AVIF")],
)
def test_formats_are_detected(form: str, name: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, form)
    assert sniff(stream.getvalue()) == name


def test_brands_tell_avif_from_heic() -> None:
    assert sniff(ftyp(b"avif", b"mif1")) == "AVIF"
    assert sniff(ftyp(b"mif1", b"miaf", b"avif")) == "AVIF"
    assert sniff(ftyp(b"mif1", b"heic")) == "HEIC"
    assert sniff(ftyp(b"heic", b"mif1")) == "HEIC"
    assert describe(ftyp(b"isom", b"mp42")) == "a video or another ISO media file"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(1000), "nothing but zeros"),
        (b"<!DOCTYPE html><html><svg/></html>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n  <HTML lang='de'>caf\xc3\xa9</HTML>", "an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"404 page not found\n", "plain text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"PK\x03\x04zip", "a ZIP archive"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"8BPS\x00\x01", "a Photoshop file"),
        (b"\x01\x02\x03\xfe\xff\x80\x81\x82\x83", "of an unknown kind (they start 01 02 03 fe ff 80 81 82)"),
    ],
)
def test_other_files_are_described(data: bytes, words: str) -> None:
    assert describe(data) == words
    with pytest.raises(DecodeError) as raised:
        sniff(data)
    assert str(raised.value).startswith(f"the bytes are {words}, not a supported image; give a JPEG")


def test_noise_is_of_an_unknown_kind() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        data = b"\x7f" + rng.bytes(300)
        assert describe(data).startswith("of an unknown kind")
