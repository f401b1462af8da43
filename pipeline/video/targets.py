"""Write frames to several files at once, and read each back before it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.config.job import Limits
from pipeline.errors import WriteError
from pipeline.types import Size
from pipeline.video.archive import ArchiveWriter, check_archive
from pipeline.video.check import check_written
from pipeline.video.draw import Draw, draw_each
from pipeline.video.forms import Form
from pipeline.video.reader import Facts
from pipeline.video.span import ALL, Span
from pipeline.video.steady import MaskedFrame
from pipeline.video.writer import VideoWriter, Written


@dataclass
class Target:
    """A file to write on this machine.

    Attributes:
        path: The file. It is not complete before ``write_targets`` returns.
        form: What to write.
        draw: How frames look.
        notes: What differs from the source, a sentence each; known afterwards.
        size: Size of its frames; known afterwards.
    """

    path: Path
    form: Form
    draw: Draw
    notes: list[str] = field(default_factory=list)
    size: Size = Size(0, 0)  # noqa: RUF009  (immutable)


def write_targets(
    frames: Iterable[MaskedFrame],
    facts: Facts,
    targets: Sequence[Target],
    opened: Callable[[], BinaryIO],
    limits: Limits,
    span: Span = ALL,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Write all frames to all targets, and read these back.

    Args:
        frames: In order.
        facts: The source's.
        targets: The files.
        opened: Opens the source for its sound.
        limits: Of the source, and of its written frames.
        span: The part that the frames are of.
        beat: Called for every frame that is written or read back.

    Raises:
        WriteError: A file cannot be written, or differs from what was written.
        DecodeError: Frames with square pixels would be above the limits.
        ItemError: What the frames raise.
    """
    # The encoders are gone with the writers: reading back takes memory, too.
    results = _write_all(frames, facts, targets, partial(_writer_of, facts, opened, limits, span), beat)
    for target, (written, notes) in zip(targets, results, strict=True):
        try:
            check = check_written if target.form.container else check_archive
            check(target.path, written, beat)
        except WriteError as error:
            raise WriteError(f"{target.form.name}: {error}") from error.__cause__
        target.notes, target.size = notes, written.size


def _write_all(
    frames: Iterable[MaskedFrame],
    facts: Facts,
    targets: Sequence[Target],
    writer_of: Callable[[Target], VideoWriter | ArchiveWriter],
    beat: Callable[[], None],
) -> list[tuple[Written, list[str]]]:
    """Write all frames to all targets. Returns what was written to each, and what differs from the source.

    Raises:
        ItemError: See ``write_targets``.
    """
    with ExitStack() as stack:
        writers: list[VideoWriter | ArchiveWriter] = []
        for target in targets:
            writers.append(writer_of(target))
            stack.enter_context(writers[-1])
        for one in frames:
            drawn = draw_each([target.draw for target in targets], one.frame.pixels, one.mask, facts.aspect)
            for writer, pixels in zip(writers, drawn, strict=True):
                writer.add(pixels, one.frame.pts, one.frame.duration)
            beat()
        return [(writer.finish(), writer.notes) for writer in writers]


def _writer_of(
    facts: Facts, opened: Callable[[], BinaryIO], limits: Limits, span: Span, target: Target
) -> VideoWriter | ArchiveWriter:
    """Return a writer of a target. A form without a container is an archive of pictures."""
    if not target.form.container:
        return ArchiveWriter(target.path, facts)
    sound = opened() if facts.sound else None
    return VideoWriter(target.path, target.form, facts, clear=target.draw.clear, sound=sound, limits=limits, span=span)
