"""Carry all sound tracks of a source into an output: copied where the container takes them, else encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import av

from pipeline.errors import DecodeError
from pipeline.video.forms import Form
from pipeline.video.reader import open_container
from pipeline.video.span import ALL, Span

OPUS_RATE = 48_000
"""Samples per second of Opus."""


class Sound:
    """The sound of a source. It is read by a demuxer of its own, as far as the pictures are written.

    Args:
        file: The source, opened for this. It stays open.
        output: The container that gets the tracks. They are added here.
        form: The form of the output.
        span: The part that is carried. Times count from its start.
    """

    def __init__(self, file: BinaryIO, output: Any, form: Form, span: Span = ALL) -> None:
        self._span = span
        self._source = open_container(file)
        self.notes: list[str] = []
        self._tracks: dict[int, Any] = {}
        self._encoded: dict[int, Any] = {}
        tracks: list[Any] = list(self._source.streams.audio)
        for track in tracks:
            if track.codec_context is None:
                self.notes.append("a sound track has an unknown codec and is left out")
            elif track.codec_context.name in form.copied:
                self._tracks[track.index] = output.add_stream_from_template(track)
            else:
                self._encoded[track.index] = self._tracks[track.index] = _encoder(output, form, track)
        self._packets = self._source.demux([one for one in tracks if one.index in self._tracks])
        self._waiting: Any = None
        self._ended: set[int] = set()
        self._over = not self._tracks

    def close(self) -> None:
        """Close the demuxer."""
        self._source.close()

    def packets(self, until_s: float) -> Iterator[Any]:
        """Yield the packets for the output up to a time; infinity yields all.

        Raises:
            DecodeError: The sound is damaged.
        """
        try:
            while not self._over:
                packet = self._waiting or next(self._packets, None)
                self._waiting = None
                if packet is None:
                    self._over = True
                    for track in self._tracks:
                        yield from self._end(track)
                elif packet.pts is not None and float(packet.pts * packet.time_base) >= self._span.end_s:
                    yield from self._end(packet.stream.index)
                    self._over = len(self._ended) == len(self._tracks)  # the others may come later in the file
                elif packet.pts is not None and float(packet.pts * packet.time_base) - self._span.start_s > until_s:
                    self._waiting = packet
                    return
                elif packet.stream.index not in self._ended:
                    yield from self._carried(packet)
        except av.error.FFmpegError as error:
            raise DecodeError(f"the video's sound is damaged, or can't be encoded again: {error.strerror}") from error

    def _end(self, track: int) -> Iterator[Any]:
        """Yield what the encoder of a track still holds, once."""
        if track not in self._ended:
            self._ended.add(track)
            if (encoder := self._encoded.get(track)) is not None:
                yield from encoder.encode(None)

    def _carried(self, packet: Any) -> Iterator[Any]:
        track = packet.stream.index
        encoder = self._encoded.get(track)
        if encoder is not None:
            for frame in packet.decode():
                if self._is_before(frame):
                    continue
                if frame.pts is not None:
                    frame.pts -= self._shift(frame)
                yield from encoder.encode(frame)
        elif packet.dts is not None and not self._is_before(packet):  # the last one is empty
            shift = self._shift(packet)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._tracks[track]
            yield packet

    def _shift(self, one: Any) -> int:
        return round(self._span.start_s / float(one.time_base))

    def _is_before(self, one: Any) -> bool:
        return self._span != ALL and one.pts is not None and one.pts < self._shift(one)


def _encoder(output: Any, form: Form, track: Any) -> Any:
    """Add a stream that encodes a track again, with its channels."""
    context = track.codec_context
    made = output.add_stream(form.sound, rate=OPUS_RATE if form.sound == "libopus" else context.sample_rate)
    made.codec_context.layout = context.layout.name
    made.codec_context.bit_rate = 64_000 * max(1, context.channels)
    return made
