"""Open containers of strangers, and choose streams, decoders and filters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import av
from av.filter import Graph
from av.stream import Disposition

from pipeline.config.job import Limits
from pipeline.errors import DecodeError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""Demuxers of FFmpeg that may be used."""

ALPHA_DECODERS = {"vp9": "libvpx-vp9", "vp8": "libvpx"}
"""Decoders that keep the alpha of WebM. FFmpeg's own drop it."""


MAX_PIXELS = "max_pixels"
"""FFmpeg's option for the pixels of a frame that a decoder may allocate."""


def open_container(file: BinaryIO, limits: Limits) -> Any:
    """Open a demuxer on a file of a stranger. Its decoders allocate no frames that are far above ``limits.max_pixels``.

    What the header of a file says of the size may be wrong. Decoders round sides up to whole blocks, so a little more is
    allowed here; ``VideoReader`` compares the frames themselves.

    Raises:
        FFmpegError: FFmpeg knows no video in it.
    """
    most = min(limits.max_pixels + limits.max_pixels // 4 + 2**16, 2**31 - 1)
    return av.open(file, "r", metadata_errors="replace", options={"format_whitelist": FORMATS, MAX_PIXELS: str(most)})


def video_stream(container: Any) -> Any:
    """Return the first video stream, None without one. Covers and chapter pictures, which may come before it, are none."""
    moving = (one for one in container.streams.video if not one.disposition & Disposition.attached_pic)
    return next(moving, None)


def codec_name(context: Any) -> str:
    """Return FFmpeg's canonical name of a codec context's codec: ``mp3`` and ``av1``, not the name of a decoder of it."""
    return "unknown" if context is None else str(context.codec.canonical_name)


def is_encrypted(packet: Any) -> bool:
    """Return whether a packet's bytes are encrypted (Common Encryption of MP4 and WebM)."""
    return bool(packet.has_sidedata("encryption_info"))


def decoder_of(stream: Any) -> Any:
    """Return the decoder of a stream, with the limit of its container: of WebM with alpha, the one that keeps it.

    Raises:
        DecodeError: Its codec is unknown.
    """
    context = stream.codec_context
    if context is None:
        raise DecodeError("the codec of this video is unknown")
    other = ALPHA_DECODERS.get(codec_name(context)) if stream.metadata.get("alpha_mode") == "1" else None
    if other is not None:
        context = av.CodecContext.create(other, "r")
    elif not context.is_open:
        context.thread_type = "AUTO"
    if not context.is_open and MAX_PIXELS in stream.container.options:
        context.options = {MAX_PIXELS: stream.container.options[MAX_PIXELS]}
    return context


def decode(decoder: Any, packet: Any) -> list[Any]:
    """Return the frames that a packet completes. The last packet of a stream is empty, and completes all that are left.

    Another packet may be empty, too. It has a time, and no frame.

    Raises:
        FFmpegError: The packet is damaged.
    """
    if not packet.size and packet.dts is not None:
        return []  # a decoder would take it for the end
    frames: list[Any] = decoder.decode(packet if packet.size else None)
    return frames


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream from where the demuxer is.

    Raises:
        FFmpegError: The file is damaged.
        DecodeError: The codec is unknown.
    """
    decoder = decoder_of(stream)
    for packet in container.demux(stream):
        yield from decode(decoder, packet)


def make_deinterlacer(stream: Any, frame: Any) -> Graph:
    """Return a filter that makes progressive frames, one per frame, at the same times."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base, name="in"
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
    return graph


def passed(graph: Graph, frame: Any) -> Iterator[Any]:
    """Put a frame (None: the end) through a filter, and yield what comes out."""
    graph.vpush(frame)
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield graph.vpull()
