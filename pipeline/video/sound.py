"""Carry all sound tracks of a source into an output: copied where the container takes them, else encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

import av
from av.stream import Disposition

from pipeline.config.job import Limits
from pipeline.errors import DecodeError, WriteError
from pipeline.video.container import codec_name, is_encrypted, open_container
from pipeline.video.forms import Form
from pipeline.video.span import ALL, Span

LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""Layouts of channels that all encoders take."""

BY_CHANNELS = ("mono", "stereo", "stereo", "quad", "5.0", "5.1", "6.1", "7.1")
"""The one for 1, 2, 3 and more channels in another layout, such as 5.1(side) or 4.0. Three of them, as 2.1, have no centre."""

EARLY_S = 10.0
"""Seconds before a part from which its sound is read: decoders need some, and an index may be coarse."""

QUICKTIME = "mov"
"""A container that has some languages only."""

KEPT = (Disposition.default, Disposition.forced, Disposition.dub, Disposition.original, Disposition.comment)
KEPT_FLAGS = sum(int(one) for one in (*KEPT, Disposition.hearing_impaired, Disposition.visual_impaired))
"""Flags of a track that are kept."""


class Track(NamedTuple):
    """A written sound track: its codec's canonical name, and its language; empty if none is certain to be kept."""

    codec: str
    language: str


class Sound:
    """The sound of a source. It is read by a demuxer of its own, as far as the pictures are written.

    Args:
        file: The source, opened for this. It stays open.
        output: The container that gets the tracks. They are added here.
        form: The form of the output.
        limits: Of the video.
        span: The part that is carried. Times count from its start.

    Raises:
        FFmpegError: FFmpeg refuses the source, or a track in the output.
    """

    def __init__(self, file: BinaryIO, output: Any, form: Form, limits: Limits, span: Span = ALL) -> None:
        self._span = span
        self._source = open_container(file, limits)
        self.notes: list[str] = []
        self.written: list[Track] = []
        self._tracks: dict[int, Any] = {}
        self._encoded: dict[int, Any] = {}
        self._resamplers: dict[int, tuple[tuple[str, str, int], Any]] = {}
        try:
            for track in self._source.streams.audio:
                self._add(track, output, form)
            if span.start_s > EARLY_S:
                with suppress(av.error.FFmpegError):  # without an index, all before it is read
                    self._source.seek(round((span.start_s - EARLY_S) * av.time_base))
            self._packets = self._source.demux([one for one in self._source.streams.audio if one.index in self._tracks])
        except BaseException:
            self.close()
            raise
        self._waiting: Any = None
        self._ended: set[int] = set()
        self._over = not self._tracks
        self._filled: set[int] = set()

    def _add(self, track: Any, output: Any, form: Form) -> None:
        """Add a track to the output, or the remark that it is left out."""
        if track.codec_context is None:
            self.notes.append("a sound track has an unknown codec and is left out")
            return
        if codec_name(track.codec_context) in form.copied:
            made = output.add_stream_from_template(track)
        else:
            made = self._encoded[track.index] = _encoder(output, form, track)
        self._tracks[track.index] = made
        _describe(made, track)
        language = "" if form.container == QUICKTIME else made.metadata.get("language", "")
        self.written.append(Track(codec_name(made.codec_context), language))

    @property
    def empty(self) -> list[int]:
        """Positions in ``written`` of tracks of which no packet was carried; known when all packets have passed."""
        return [number for number, track in enumerate(self._tracks) if track not in self._filled]

    def close(self) -> None:
        """Close the demuxer."""
        self._source.close()

    def packets(self, until_s: float) -> Iterator[Any]:
        """Yield the packets for the output up to a time; infinity yields all.

        Raises:
            DecodeError: The sound is damaged or encrypted.
            WriteError: It cannot be encoded again.
        """
        while not self._over:
            with _as_decode_errors():
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

    def _end(self, track: int) -> Iterator[Any]:
        """Yield what the encoder of a track still holds, once."""
        if track not in self._ended:
            self._ended.add(track)
            if track in self._filled and (encoder := self._encoded.get(track)) is not None:
                with _as_write_errors(encoder):
                    if track in self._resamplers:
                        for even in self._resamplers[track][1].resample(None):
                            yield from encoder.encode(even)
                    yield from encoder.encode(None)

    def _carried(self, packet: Any) -> Iterator[Any]:
        track = packet.stream.index
        encoder = self._encoded.get(track)
        if is_encrypted(packet):
            raise DecodeError("the sound of this video is encrypted; give a copy without protection")
        if encoder is not None:
            with _as_decode_errors():
                frames = packet.decode()
            for frame in frames:
                if self._is_before(frame):
                    continue
                if frame.pts is not None:
                    frame.pts -= self._shift(frame)
                self._filled.add(track)
                with _as_write_errors(encoder):
                    for even in self._resampled(track, frame):
                        yield from encoder.encode(even)
        elif packet.dts is not None and not self._is_before(packet):  # the last one is empty
            shift = self._shift(packet)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._tracks[track]
            self._filled.add(track)
            yield packet

    def _resampled(self, track: int, frame: Any) -> Iterator[Any]:
        """Yield a decoded frame as its encoder takes it. In a broadcast, a track may change from stereo to surround."""
        form = frame.format.name, frame.layout.name, frame.sample_rate
        known, resampler = self._resamplers.get(track, (None, None))
        if resampler is None or known != form:
            yield from [] if resampler is None else resampler.resample(None)
            context = self._encoded[track].codec_context
            resampler = av.AudioResampler(context.format, context.layout, context.sample_rate)
            self._resamplers[track] = form, resampler
        yield from resampler.resample(frame)

    def _shift(self, one: Any) -> int:
        return round(self._span.start_s / float(one.time_base))

    def _is_before(self, one: Any) -> bool:
        return self._span != ALL and one.pts is not None and one.pts < self._shift(one)


def _encoder(output: Any, form: Form, track: Any) -> Any:
    """Add a stream that encodes a track again, with its channels and its rate as far as the encoder takes them."""
    context = track.codec_context
    rates = sorted(av.Codec(form.sound, "w").audio_rates or [context.sample_rate])
    made = output.add_stream(form.sound, rate=next((one for one in rates if one >= context.sample_rate), rates[-1]))
    layout = context.layout.name
    if layout not in LAYOUTS:
        layout = BY_CHANNELS[min(max(1, context.channels), len(BY_CHANNELS)) - 1]
    made.codec_context.layout = layout
    made.codec_context.bit_rate = 64_000 * made.codec_context.channels
    return made


def _describe(made: Any, track: Any) -> None:
    """Give a written track the language, the title and the flags of its source."""
    told = {"language": track.metadata.get("language"), "title": track.metadata.get("title") or track.metadata.get("name")}
    for name, value in told.items():  # MP4 calls the title "name"
        if value:
            made.metadata[name] = value
    made.disposition = int(track.disposition) & KEPT_FLAGS


@contextmanager
def _as_decode_errors() -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise DecodeError(f"the sound of this video is damaged: {error.strerror}") from error


@contextmanager
def _as_write_errors(encoder: Any) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        name = codec_name(encoder.codec_context)
        raise WriteError(f"the sound of this video can't be encoded as {name}: {error.strerror}") from error
