"""Convert frames between a video's colours and 8-bit sRGB.

A video that does not say its matrix has BT.709 if it is as large as HD, else BT.601: what players assume. Everything is written
in BT.709 with limited range.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from pipeline.errors import DecodeError
from pipeline.types import Pixels

BT709 = 1
"""The matrix, the primaries and the transfer function of HD video (ITU-T H.273)."""

LIMITED, FULL = 1, 2
"""Values of ``color_range``."""

HD_HEIGHT, HD_WIDTH = 720, 1280

BT2020_PRIMARIES, DCI_P3_PRIMARIES, DISPLAY_P3_PRIMARIES = 9, 11, 12

P3_TO_709 = np.array(
    [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]],
    np.float32,
)
"""Linear RGB of Display P3 to that of BT.709; both have the white D65 (SMPTE EG 432-1, ITU-R BT.709)."""

LINEAR_STEPS = 4095
"""Steps of linear light in the table back to 8 bit."""

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions (H.273) whose frames would look grey without tone mapping."""

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP

MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""swscale's name of each matrix (H.273). Those of PAL and NTSC, 5 and 6, are the same."""


def check_colours(frame: VideoFrame) -> None:
    """Refuse frames whose colours would come out wrong.

    Raises:
        DecodeError: The video is HDR, or has the primaries of BT.2020 or DCI-P3.
    """
    if curve := HDR.get(int(frame.color_trc)):
        raise DecodeError(f"this video is HDR ({curve}), which is not supported; convert it to SDR (BT.709) first")
    if int(frame.color_primaries) == BT2020_PRIMARIES:
        raise DecodeError("this video has wide-gamut colours (BT.2020), which are not supported; convert it to BT.709 first")
    if int(frame.color_primaries) == DCI_P3_PRIMARIES:
        raise DecodeError("this video has the colours of cinema (DCI-P3), which are not supported; convert it to BT.709 first")


def has_alpha(frame: VideoFrame) -> bool:
    """Return whether the frame's format has transparency."""
    return any(component.is_alpha for component in frame.format.components)


def from_display_p3(pixels: Pixels) -> Pixels:
    """Convert (H, W, 3) uint8 from Display P3 to sRGB. Colours outside of sRGB get the nearest value per channel."""
    linear = cv2.transform(_linear()[pixels], P3_TO_709)
    converted: Pixels = _levels()[np.rint(np.clip(linear, 0, 1) * LINEAR_STEPS).astype(np.uint16)]
    return converted


@cache
def _linear() -> npt.NDArray[np.float32]:
    """Return the linear light in [0, 1] of each level, (256,), by the curve of sRGB."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def _levels() -> npt.NDArray[np.uint8]:
    """Return the level of each step of linear light, (LINEAR_STEPS + 1,) uint8."""
    light = np.arange(LINEAR_STEPS + 1) / LINEAR_STEPS
    level = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * level), np.uint8)


class Converter:
    """Converts the frames of one video, in one thread at a time. FFmpeg's context for it is made once, not per frame."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_rgba(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """Return a frame as (H, W, 4) uint8 RGBA, not rotated."""
        return self._converted(frame, "rgba")

    def to_rgb(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (H, W, 3) uint8, not rotated; transparency is composited over white."""
        is_wide = int(frame.color_primaries) == DISPLAY_P3_PRIMARIES
        if not has_alpha(frame):
            pixels = self._converted(frame, "rgb24")
            return from_display_p3(pixels) if is_wide else pixels
        rgba = self.to_rgba(frame)
        colours = from_display_p3(np.ascontiguousarray(rgba[..., :3])) if is_wide else rgba[..., :3]
        alpha = rgba[..., 3:].astype(np.uint16)
        return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)

    def to_yuv(self, pixels: npt.NDArray[np.uint8], form: str) -> VideoFrame:
        """Return (H, W, 3) RGB or (H, W, 4) straight RGBA, uint8, as a frame of a YUV format in BT.709 with limited range."""
        frame = VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
        return self._reformatter.reformat(
            frame, format=form, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=EXACT
        )

    def _converted(self, frame: VideoFrame, form: str) -> npt.NDArray[np.uint8]:
        large = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
        matrix = MATRICES.get(int(frame.colorspace), Colorspace.ITU709 if large else Colorspace.ITU601)
        ranged = FULL if int(frame.color_range) == FULL or frame.format.name.startswith("yuvj") else LIMITED
        converted = self._reformatter.reformat(
            frame,
            format=form,
            src_colorspace=matrix,
            src_color_range=ranged,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
        )
        return np.ascontiguousarray(converted.to_ndarray())
