"""Define the forms in which a video can be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigError

Look = Literal["cutout", "filled", "mask"]
"""Content of a frame: the object with transparency, the object over a colour or a picture, or the grey mask."""

VP9 = {"crf": "20", "b": "0", "row-mt": "1", "cpu-used": "4"}
H264 = {"crf": "18", "preset": "veryfast"}


@dataclass(frozen=True)
class Form:
    """A container with the codecs in it.

    Attributes:
        name: Name for ``--format``.
        suffix: Suffix of the file; empty for a folder.
        container: FFmpeg's muxer.
        encoder: FFmpeg's video encoder.
        clear: Pixel format with alpha; empty if the form has none.
        opaque: Pixel format without alpha.
        options: Options of the encoder.
        even: Whether width and height must be even.
        square: Whether pixels must be square (PyAV can't give WebM another shape).
        copied: Sound codecs whose packets are copied, by FFmpeg's canonical names.
        sound: Encoder of other sound.
        muxer: Options of the muxer.
    """

    name: str
    suffix: str
    container: str
    encoder: str
    clear: str
    opaque: str
    options: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    square: bool = False
    copied: frozenset[str] = frozenset()
    sound: str = "aac"
    muxer: Mapping[str, str] = field(default_factory=dict)


WEBM = Form(
    "webm",
    ".webm",
    "webm",
    "libvpx-vp9",
    "yuva420p",
    "yuv420p",
    VP9,
    square=True,
    copied=frozenset({"opus", "vorbis"}),
    sound="libopus",
)
MOV = Form(
    *("mov", ".mov", "mov", "prores_ks", "yuva444p10le", "yuv444p10le", {"profile": "4444", "alpha_bits": "16"}),
    copied=frozenset({"aac", "mp3", "alac", "ac3", "eac3", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_s16be"}),
)
MP4 = Form(
    *("mp4", ".mp4", "mp4", "libx264", "", "yuv420p", H264, True),
    copied=frozenset({"aac", "mp3", "alac", "ac3", "eac3", "opus", "flac"}),
    muxer={"movflags": "+faststart"},
)
PNG = Form("png", "", "", "png", "rgba", "rgb24")
"""A folder of numbered PNG files, with a file of their times."""

FORMS = {form.name: form for form in (WEBM, MOV, MP4, PNG)}


def choose_form(name: str | None, suffix: str, output: str | None) -> Form:
    """Choose by ``--format``, else by the output's suffix, else WebM.

    Args:
        name: The option's value.
        suffix: The output's suffix in lower case; empty for a folder.
        output: As the user gave it.

    Raises:
        ConfigError: Unknown, or the two differ.
    """
    asked = None if name is None else FORMS.get(name.lower().lstrip("."))
    if name is not None and asked is None:
        raise ConfigError(f"--format {name!r} is unknown for videos; choose {', '.join(FORMS)} (png: a folder of pictures)")
    by_suffix = next((form for form in FORMS.values() if form.suffix and form.suffix == suffix), None)
    if suffix and by_suffix is None:
        raise ConfigError(
            f"--output {output!r} must end in .webm, .mov or .mp4 for a video; the name of a folder ends in /, "
            "and --format png writes a folder of pictures"
        )
    if asked and by_suffix and asked is not by_suffix:
        raise ConfigError(f"--format {name} and --output {output} name different formats; leave one of them out")
    return asked or by_suffix or WEBM


def choose_look(form: Form, *, mask_only: bool, background: str | None) -> Look:
    """Return what a form shows. MP4 has no transparency: it shows a background."""
    if mask_only:
        return "mask"
    return "filled" if background or not form.clear else "cutout"
