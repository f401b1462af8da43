"""Convert frames between a video's colours and 8-bit sRGB.

A video that does not say its matrix has BT.709 if it is as large as HD, else BT.601: what players assume. Everything is written
in BT.709 with limited range.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from pipeline.errors import DecodeError
from pipeline.types import Pixels

BT709 = 1
"""The matrix, the primaries and the transfer function of HD video (ITU-T H.273)."""

LIMITED, FULL = 1, 2
"""Values of ``color_range``."""

HD_HEIGHT, HD_WIDTH = 720, 1280

BT2020_PRIMARIES = 9

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions (H.273) whose frames would look grey without tone mapping."""

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP

_KNOWN = {int(space) for space in Colorspace}


def check_colours(frame: VideoFrame) -> None:
    """Refuse frames whose colours would come out wrong.

    Raises:
        DecodeError: The video is HDR, or has the primaries of BT.2020.
    """
    if curve := HDR.get(int(frame.color_trc)):
        raise DecodeError(f"this video is HDR ({curve}), which is not supported; convert it to SDR (BT.709) first")
    if int(frame.color_primaries) == BT2020_PRIMARIES:
        raise DecodeError("this video has wide-gamut colours (BT.2020), which are not supported; convert it to BT.709 first")


def has_alpha(frame: VideoFrame) -> bool:
    """Return whether the frame's format has transparency."""
    return any(component.is_alpha for component in frame.format.components)


def to_rgba(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """Return a frame as (H, W, 4) uint8 RGBA, not rotated."""
    return _converted(frame, "rgba")


def to_rgb(frame: VideoFrame) -> Pixels:
    """Return a frame as (H, W, 3) uint8, not rotated; transparency is composited over white."""
    if not has_alpha(frame):
        return _converted(frame, "rgb24")
    rgba = to_rgba(frame)
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _converted(frame: VideoFrame, form: str) -> npt.NDArray[np.uint8]:
    matrix = int(frame.colorspace)
    if matrix not in _KNOWN:
        large = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
        matrix = int(Colorspace.ITU709 if large else Colorspace.ITU601)
    ranged = FULL if int(frame.color_range) == FULL or frame.format.name.startswith("yuvj") else LIMITED
    converted = frame.reformat(
        format=form,
        src_colorspace=matrix,
        src_color_range=ranged,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
    )
    return np.ascontiguousarray(converted.to_ndarray())


def from_pixels(pixels: npt.NDArray[np.uint8], form: str) -> VideoFrame:
    """Return (H, W, 3) RGB or (H, W, 4) straight RGBA, uint8, as a frame of a YUV format in BT.709 with limited range."""
    frame = VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
    return frame.reformat(format=form, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=EXACT)
