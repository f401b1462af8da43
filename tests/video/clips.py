"""Seeded clips for the tests: a dark disc on a light ground, with any container, codec, rate, rotation and sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

HEIGHT, WIDTH = 241, 321


def frames(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> list[np.ndarray]:
    """A disc that moves to the right, (H, W, 3) uint8 each. The fake model finds what is darker than the border."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ground = 200 + 30 * np.sin(x / 40) + rng.normal(0, 2, (height, width))
    made = []
    for number in range(count):
        distance = np.hypot(y - height / 2, x - width * (0.3 + 0.02 * number))
        alpha = np.clip((height / 5 - distance) / 6 + 0.5, 0, 1)
        colour = np.stack([ground, ground * 0.9, ground * 0.8], -1)
        made.append(
            np.clip(colour * (1 - alpha[..., None]) + np.array([60, 20, 20]) * alpha[..., None], 0, 255).astype(np.uint8)
        )
    return made


def variable_times(count: int) -> list[int]:
    """Milliseconds of frames whose gaps are 34 and 83 in turn."""
    return [sum((34, 83)[step % 2] for step in range(number)) for number in range(count)]


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    times_ms: Sequence[int] | None = None,
    container: str = "mp4",
    encoder: str = "libx264",
    pixel_format: str = "yuv444p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: Sequence[str] = (),
    colour: dict[str, int] | None = None,
    interlaced: bool = False,
    aspect: Fraction | None = None,
    cover: bytes = b"",
    layout: str = "stereo",
    sample_rate: int = 48_000,
    languages: Sequence[str] = (),
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write a clip. ``rotation``: degrees counter-clockwise that a player turns the frames. ``cover``: a PNG file.

    ``layout``, ``sample_rate`` and ``languages`` are those of the sound tracks; each track has its language as title, too,
    and the second language is the default.
    """
    times = [40 * number for number in range(len(pictures))] if times_ms is None else times_ms
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(
            encoder, rate=25, options=options or {"crf": "12"} if encoder == "libx264" else options or {}
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = stream.time_base = Fraction(1, 1000)
        context.colorspace, context.color_range = 1, 1
        for name, value in (colour or {}).items():
            setattr(context, name, value)
        if aspect:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tracks = [_add_sound(output, codec, layout, sample_rate) for codec in sound]
        for track, language in zip(tracks, languages, strict=False):
            track.metadata["language"], track.metadata["title"] = language, f"in {language}"
            track.disposition = int(language == languages[1])
        if cover:
            _add_cover(output, cover)
        matrix = {1: Colorspace.ITU709, 9: Colorspace.BT2020, 10: Colorspace.BT2020}.get(context.colorspace, Colorspace.ITU601)
        length_s = (times[-1] + 40) / 1000
        songs = [_Song(output, track, hertz, length_s) for track, hertz in zip(tracks, (440, 660, 880), strict=False)]
        for number, (picture, time) in enumerate(zip(pictures, times, strict=True)):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="rgba" if picture.shape[2] == 4 else "rgb24"
            )
            full = context.color_range == 2
            frame = frame.reformat(
                format=pixel_format, dst_colorspace=matrix, dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG
            )
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            following = times[number + 1] if number + 1 < len(times) else time + 40
            frame.duration = following - time
            output.mux(stream.encode(frame))
            for song in songs:
                song.sing(time / 1000)
        output.mux(stream.encode(None))
        for song in songs:
            song.end()
    return path


def remuxed(source: Path, target: Path, keep: Callable[[Any], bool]) -> Path:
    """Copy those packets of a clip that ``keep`` returns True for into a new container. ``keep`` may change a packet."""
    with av.open(str(source)) as file, av.open(str(target), "w") as output:
        streams = [output.add_stream_from_template(one) for one in file.streams]
        for packet in file.demux():
            if packet.size and keep(packet):
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    return target


def _add_sound(output: Any, codec: str, layout: str, sample_rate: int) -> Any:
    track = output.add_stream(codec, rate=sample_rate)
    track.codec_context.layout = layout
    return track


def _add_cover(output: Any, png: bytes) -> None:
    track = output.add_stream("png")
    track.width, track.height, track.pix_fmt = 32, 24, "rgb24"
    track.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(png)
    packet.stream, packet.pts, packet.dts = track, 0, 0
    output.mux(packet)


class _Song:
    """A sine, written beside the pictures as cameras do it."""

    def __init__(self, output: Any, track: Any, hertz: float, seconds: float) -> None:
        self.output, self.track, self.hertz = output, track, hertz
        self.rate = track.codec_context.sample_rate
        self.at, self.length = 0, int(seconds * self.rate)

    def sing(self, until_s: float) -> None:
        """Write all parts that begin up to a time."""
        layout = self.track.codec_context.layout
        while self.at < self.length and self.at <= until_s * self.rate:
            samples = np.arange(self.at, min(self.at + 960, self.length))
            wave = np.sin(samples * 2 * np.pi * self.hertz / self.rate).astype(np.float32) * 0.5
            frame = av.AudioFrame.from_ndarray(np.repeat(wave, layout.nb_channels)[None], format="flt", layout=layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.at, Fraction(1, self.rate)
            self.output.mux(self.track.encode(frame))
            self.at += 960

    def end(self) -> None:
        """Write the rest."""
        self.sing(math.inf)
        self.output.mux(self.track.encode(None))
