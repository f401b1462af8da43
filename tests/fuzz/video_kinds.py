"""Videos from strangers, which are read, and written again with their sound; and the masks that a run keeps of them."""

from __future__ import annotations

import io
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from kinds import Kind, Wrong
from PIL import Image

from pipeline.config.job import Limits
from pipeline.storage.files import Files
from pipeline.video.draw import Draw
from pipeline.video.failures import as_item_errors
from pipeline.video.forms import FORMS
from pipeline.video.reader import Frame, VideoReader
from pipeline.video.segments import SegmentStore, StoredFrame, stored_frame
from pipeline.video.steady import MaskedFrame
from pipeline.video.stills import length, still, written_still
from pipeline.video.stretches import frame_times
from pipeline.video.targets import Target, write_targets

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, variable_times, write_clip

LIMITS = Limits(max_pixels=200_000, max_frames=60, max_seconds=60, max_bytes=2_000_000)
SIZE = (24, 32)
PRORES = {"profile": "4444", "alpha_bits": "16"}


def read_video(name: str, data: bytes) -> None:
    """Read a video as a run does, and write it again."""
    frame_times(io.BytesIO(data), LIMITS)
    length(io.BytesIO(data), LIMITS)
    target = Target(Path("made.mp4"), FORMS["mp4"], Draw("mask"))
    with as_item_errors(), VideoReader(io.BytesIO(data), LIMITS) as reader:
        height, width = reader.facts.size
        if height * width > LIMITS.max_pixels:
            raise Wrong(f"{width} x {height} pixels")
        masked = (MaskedFrame(one, np.zeros(one.pixels.shape[:2], np.uint8), 1.0) for one in reader)
        write_targets(masked, reader.facts, [target], lambda: io.BytesIO(data), LIMITS)
    still(io.BytesIO(data), 0.1, LIMITS)


def read_written(name: str, data: bytes) -> None:
    """Take a frame of a written video, as the report does."""
    if written_still(io.BytesIO(data), 0.1).shape[2] != 4:
        raise Wrong("a frame is not RGBA")


def read_kept(name: str, data: bytes) -> None:
    """Read kept masks, of which damaged ones count as missing."""
    store = SegmentStore(str(Path.cwd()), "0" * 16, Files())
    Path("0000000000000000-000000.parquet").write_bytes(data)
    for one in store.read(0) or ():
        mask = one.masked(Frame(np.zeros((*SIZE, 3), np.uint8), one.pts, 1)).mask
        if mask.ndim != 2:
            raise Wrong(f"a mask of {mask.shape}")


def clips() -> dict[str, bytes]:
    """Small videos of every container, with and without sound, rotation and B-frames; with alpha, interlaced, animations."""
    pictures = frames(8, *SIZE)
    webm = {"container": "webm", "encoder": "libvpx-vp9", "pixel_format": "yuv420p", "options": {"deadline": "realtime"}}
    made: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in {
            "mp4": {"times_ms": variable_times(8), "rotation": 90, "sound": ["aac"]},
            "mov": {"container": "mov", "sound": ["aac", "aac"], "options": {"bf": "2", "g": "4"}},
            "matroska": {"container": "matroska", "sound": ["libopus"], "aspect": Fraction(4, 3)},
            "webm": webm | {"sound": ["libopus"]},
            "webm with alpha": webm | {"pixel_format": "yuva420p", "options": {"deadline": "realtime", "auto-alt-ref": "0"}},
            "prores": {"container": "mov", "encoder": "prores_ks", "pixel_format": "yuva444p10le", "options": PRORES},
            "interlaced": {"pixel_format": "yuv420p", "interlaced": True},
        }.items():
            made[name] = write_clip(Path(folder) / name, pictures, **options).read_bytes()  # type: ignore[arg-type]
    first, *others = [Image.fromarray(one) for one in pictures[:4]]
    for form in ("GIF", "WEBP"):
        sink = io.BytesIO()
        first.save(sink, form, save_all=True, append_images=others, duration=80)
        made[form.lower()] = sink.getvalue()
    return made


def videos() -> Kind:
    tokens = (b"moov", b"mdat", b"stts", b"stco", b"elst", b"mp4a", b"avc1", b"\x1aE\xdf\xa3", b"ftyp", b"\x00\x00\x00\x01")
    return Kind(clips(), read_video, tokens=tokens, byte_share=1.0)


def written_videos() -> Kind:
    made = {name: data for name, data in clips().items() if name not in {"gif", "webp"}}  # which are not written
    return Kind(made, read_written, byte_share=1.0)


def kept_masks() -> Kind:
    store = SegmentStore(str(Path.cwd()), "1" * 16, Files())
    rng = np.random.default_rng(0)
    masked = [
        MaskedFrame(Frame(np.zeros((*SIZE, 3), np.uint8), n, 1), rng.integers(0, 255, SIZE, np.uint8), 0.5) for n in range(6)
    ]
    stored: list[StoredFrame] = [stored_frame(one) for one in masked]
    store.write(0, stored)
    return Kind({"segment": Path("1111111111111111-000000.parquet").read_bytes()}, read_kept, byte_share=1.0)


KINDS = {"videos": videos, "written videos": written_videos, "kept masks": kept_masks}
