"""Carry all sound tracks of a source into an output: copied where the container takes them, else encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

import av
from av.stream import Disposition

from pipeline.config.job import Limits
from pipeline.errors import DecodeError, WriteError
from pipeline.video.container import codec_name, decode, is_encrypted, open_container
from pipeline.video.forms import Form
from pipeline.video.heard import SILENT_S, Heard
from pipeline.video.span import ALL, Span

LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""Layouts of channels that all encoders take."""

BY_CHANNELS = ("mono", "stereo", "stereo", "quad", "5.0", "5.1", "6.1", "7.1")
"""The one for 1, 2, 3 and more channels in another layout, such as 5.1(side) or 4.0. Three of them, as 2.1, have no centre."""

EARLY_S = 10.0
"""Seconds before a part from which its sound is read: decoders need some, and an index may be coarse."""

OVERLAP_S = 0.1
"""Seconds by which decoded sound may begin before the end of what came before. More means that its time is damaged."""

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
        self._heard: dict[int, Heard] = {}
        self._encoded: dict[int, Any] = {}
        self._resamplers: dict[int, tuple[tuple[str, str, int], Any]] = {}
        self._last_dts: dict[int, int] = {}
        try:
            for number, track in enumerate(self._source.streams.audio):
                self._add(number, track, output, form)
            if span.start_s > EARLY_S:
                with suppress(av.error.FFmpegError):  # without an index, all before it is read
                    self._source.seek(round((span.start_s - EARLY_S) * av.time_base))
            tracks = [one for one in self._source.streams.audio if one.index in self._tracks]
            self._packets: Iterator[Any] = self._source.demux(tracks)
        except BaseException:
            self.close()
            raise
        self._waiting: Any = None
        self._ended: set[int] = set()
        self._over = not self._tracks

    def _add(self, number: int, track: Any, output: Any, form: Form) -> None:
        """Add a track to the output, or the remark that it is left out."""
        context = track.codec_context
        if context is None:
            self.notes.append(f"sound track {number} has an unknown codec and is left out")
            return
        if not context.sample_rate or not context.channels:
            self.notes.append(f"sound track {number} has no sample rate or no channels and is left out")
            return
        if codec_name(context) in form.copied:
            made = output.add_stream_from_template(track)
        else:
            made = self._encoded[track.index] = _encoder(output, form, track)
        self._tracks[track.index], self._heard[track.index] = made, Heard(number)
        _describe(made, track)
        language = "" if form.container == QUICKTIME else made.metadata.get("language", "")
        self.written.append(Track(codec_name(made.codec_context), language))

    @property
    def empty(self) -> list[int]:
        """Positions in ``written`` of tracks of which no packet was carried; known when all packets have passed."""
        return [position for position, heard in enumerate(self._heard.values()) if heard.end_s is None]

    def remarks(self, first_s: float, last_s: float) -> list[str]:
        """Return what is missing in the sound between two times of the output; known when all packets have passed."""
        return self.notes + [said for heard in self._heard.values() for said in heard.remarks(first_s, last_s)]

    def close(self) -> None:
        """Close the demuxer and the decoders. No packet can be taken afterwards."""
        self._packets, self._waiting, self._over = iter(()), None, True
        self._tracks.clear()
        self._encoded.clear()
        self._resamplers.clear()
        self._source.close()

    def packets(self, until_s: float) -> Iterator[Any]:
        """Yield the packets for the output up to a time; infinity yields all. Damaged ones are left out.

        Raises:
            DecodeError: The sound is encrypted.
            WriteError: It cannot be encoded again.
        """
        while not self._over:
            packet = self._waiting or self._next()
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

    def _next(self) -> Any:
        """Return the next packet of the source, None at the end, or where the demuxer can't go on."""
        try:
            return next(self._packets, None)
        except av.error.FFmpegError as error:
            heard = max(self._heard.values(), key=lambda one: one.end_s or 0.0)
            self.notes.append(f"the sound can't be read further than {heard.end_s or 0.0:.2f} s: {error.strerror}")
            return None

    def _end(self, track: int) -> Iterator[Any]:
        """Yield what the encoder of a track still holds, once."""
        if track not in self._ended:
            self._ended.add(track)
            if self._heard[track].end_s is not None and (encoder := self._encoded.get(track)) is not None:
                with _as_write_errors(encoder):
                    if track in self._resamplers:
                        for even in self._resamplers[track][1].resample(None):
                            yield from encoder.encode(even)
                    yield from encoder.encode(None)

    def _carried(self, packet: Any) -> Iterator[Any]:
        if is_encrypted(packet):
            raise DecodeError("the sound of this video is encrypted; give a copy without protection")
        if packet.stream.index in self._encoded:
            yield from self._encoded_again(packet)
        elif packet.size:  # the last one is empty
            yield from self._copied(packet)

    def _copied(self, packet: Any) -> Iterator[Any]:
        track = packet.stream.index
        before = self._last_dts.get(track)
        is_later = packet.dts is not None and (before is None or packet.dts > before)  # or the container refuses it
        if packet.pts is None or packet.pts < (packet.dts or 0) or not is_later:
            self._heard[track].leave_out(self._seconds(packet))
            return
        self._last_dts[track] = packet.dts
        if self._is_before(packet):
            return
        shift = self._shift(packet)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        start_s = float(packet.pts * packet.time_base)
        self._heard[track].carry(start_s, start_s + _length_s(packet))
        packet.stream = self._tracks[track]
        yield packet

    def _encoded_again(self, packet: Any) -> Iterator[Any]:
        track = packet.stream.index
        encoder, heard = self._encoded[track], self._heard[track]
        try:
            frames = decode(packet.stream.codec_context, packet)
        except av.error.FFmpegError:
            heard.leave_out(self._seconds(packet))
            return
        for frame in frames:
            if self._is_before(frame):
                continue
            if frame.pts is not None:
                frame.pts -= self._shift(frame)
            start_s = (heard.end_s or 0.0) if frame.pts is None else float(frame.pts * frame.time_base)
            if heard.end_s is not None and start_s < heard.end_s - OVERLAP_S:
                heard.leave_out(start_s)
                continue
            heard.carry(start_s, start_s + frame.samples / frame.sample_rate)
            with _as_write_errors(encoder):
                for even in self._resampled(track, frame):
                    yield from encoder.encode(even)

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

    def _seconds(self, packet: Any) -> float:
        """Return the time of a packet in the output; 0 if it has none."""
        time = packet.dts if packet.pts is None else packet.pts
        return 0.0 if time is None else float(time * packet.time_base) - self._span.start_s

    def _shift(self, one: Any) -> int:
        return round(self._span.start_s / float(one.time_base))

    def _is_before(self, one: Any) -> bool:
        return self._span != ALL and one.pts is not None and one.pts < self._shift(one)


def _length_s(packet: Any) -> float:
    """Return the seconds of sound in a packet. In MP4, its duration lasts until the next packet, however late that comes."""
    context = packet.stream.codec_context
    most_s = context.frame_size / context.sample_rate if context.frame_size else SILENT_S
    return min(most_s, float((packet.duration or 0) * packet.time_base))


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
def _as_write_errors(encoder: Any) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        name = codec_name(encoder.codec_context)
        raise WriteError(f"the sound of this video can't be encoded as {name}: {error.strerror}") from error
