"""``matteline cut`` for videos: choose what to write, cut out one after the other, print a line for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from jobs.console import err, out, show_error

if TYPE_CHECKING:
    from pipeline.config.job import Compute, Limits
    from pipeline.config.recipe import Recipe
    from pipeline.manifest.videos import Part
    from pipeline.segmenter import Segmenter
    from pipeline.storage.files import Files
    from pipeline.types import Box
    from pipeline.video.forms import Form, Look

MANY_FRAMES = 1000
"""Frames of a video, about, to choose the engine: most have more than are worth a quick start."""


class VideoOptions(NamedTuple):
    """Options of the command, as the user gave them."""

    output: str | None
    form: str | None
    background: str | None
    mask_only: bool


class _Target(NamedTuple):
    """A video, and the file or the folder to write."""

    video: str
    path: str


def are_videos(sources: Sequence[str], output: str | None, form: str | None) -> bool:
    """Return whether the sources are videos: by their suffix, or because a video is to be written.

    Raises:
        ConfigError: Some are and some are not.
    """
    from pipeline.errors import ConfigError
    from pipeline.manifest.videos import VIDEO_SUFFIXES
    from pipeline.video.extra import suffix_of

    if suffix_of(output or "") in VIDEO_SUFFIXES or (form or "").lower().lstrip(".") in {"webm", "mov", "mp4"}:
        return True
    found = {suffix_of(source) in VIDEO_SUFFIXES for source in sources}
    if len(found) == 2:
        raise ConfigError("pictures and videos are given together; cut them out with one command each")
    return found == {True}


def refuse_for_videos(given: Mapping[str, object]) -> None:
    """Refuse options that videos do not have.

    Raises:
        ConfigError: One of them was given.
    """
    from pipeline.errors import ConfigError

    for option, value in given.items():
        if value:
            raise ConfigError(f"{option} is for pictures, not for videos; remove it")


def refuse_for_pictures(given: Mapping[str, object]) -> None:
    """Refuse options that pictures do not have.

    Raises:
        ConfigError: One of them was given.
    """
    from pipeline.errors import ConfigError

    for option, value in given.items():
        if value is not None:
            raise ConfigError(f"{option} is for videos, not for pictures; remove it, or give a video as output: -o x.webm")


def cut_videos(
    videos: Sequence[str],
    wanted: VideoOptions,
    recipe: Recipe,
    compute: Compute,
    limits: Limits,
    files: Files,
    box: Box | None = None,
    part: tuple[float | None, float | None] = (None, None),
) -> None:
    """Cut out videos one after the other. If one of several fails, the others are still written.

    Raises:
        ConfigError: Options contradict each other, a part ends before it starts, PyAV is not installed, or
            the recipe has a second model.
        ItemError: The only video failed.
        typer.Exit: Some of several failed.
    """
    from pipeline.errors import ConfigError, PipelineError
    from pipeline.video.extra import check_usable
    from pipeline.video.forms import choose_look

    form, targets = _targets(videos, wanted, files)
    if box is not None and len(targets) > 1:
        raise ConfigError("--box is for one video; cut out the others with commands of their own")
    names = () if recipe.detector is None else recipe.detector.label
    parsed = _part(part)
    check_usable(recipe)
    from pipeline.video.cut import cut_video
    from pipeline.video.draw import WHITE, Draw

    look = choose_look(form, mask_only=wanted.mask_only, background=wanted.background)
    draw = Draw(look, recipe.foreground, _background(wanted, recipe, files, limits) if look == "filled" else WHITE)
    loaded: list[Segmenter] = []

    def load() -> Segmenter:
        if not loaded:
            loaded.append(_load(recipe.without_files(), compute, files))
        return loaded[0]

    failed = 0
    for video, path in targets:
        try:
            result = cut_video(video, path, form, draw, load, files, limits, box, names, parsed)
        except PipelineError as error:
            if len(targets) == 1:
                raise
            show_error(error)
            failed += 1
            continue
        height, width = result.facts.size
        notes = f" ({'; '.join(result.notes)})" if result.notes else ""
        out.print(
            f"{path}: {result.frames} frames, {result.seconds:.2f} s, {width} x {height}, quality {result.quality:.2f}{notes}, "
            f"{result.frames / max(result.took_s, 1e-3):.1f} frames/s",
            markup=False,
        )
    if failed:
        err.print(f"{failed} of {len(targets)} videos failed")
        raise typer.Exit(1)


def _part(given: tuple[float | None, float | None]) -> Part:
    """Return the part of ``--start`` and ``--end``.

    Raises:
        ConfigError: The end is not after the start, or one of them is negative.
    """
    from pipeline.errors import ConfigError, ItemRefused
    from pipeline.manifest.videos import PART_COLUMNS, part_of

    try:
        return part_of(dict(zip(PART_COLUMNS, given, strict=True)))
    except ItemRefused as error:
        said = str(error).replace("start_s", "--start").replace("end_s", "--end")
        raise ConfigError(said) from None


def _targets(videos: Sequence[str], wanted: VideoOptions, files: Files) -> tuple[Form, list[_Target]]:
    """Choose the form, and the file of every video.

    Raises:
        ConfigError: Options contradict each other, or a file would be written twice or over its source.
    """
    from pipeline.errors import ConfigError
    from pipeline.storage.overwriting import refuse_inputs
    from pipeline.storage.uris import stem
    from pipeline.video.extra import suffix_of
    from pipeline.video.forms import choose_form, choose_look

    output = wanted.output
    if "-" in videos or output == "-":
        raise ConfigError("videos are read from files and written to files; give paths instead of -")
    if wanted.mask_only and wanted.background:
        raise ConfigError("a mask has no background; remove --background or --mask-only")
    suffix = "" if output is None else suffix_of(output)
    in_folder = output is not None and (
        output.endswith("/") or ("://" not in output and Path(output).is_dir()) or (not suffix and len(videos) > 1)
    )
    form = choose_form(wanted.form, "" if in_folder else suffix, output)
    if len(videos) > 1 and output is not None and not in_folder:
        raise ConfigError(f"--output {output} is one file, but there are {len(videos)} videos; give a folder")
    look: Look = choose_look(form, mask_only=wanted.mask_only, background=wanted.background)
    targets = []
    for video in videos:
        name = f"{stem(video)}{form.suffix}"
        if output is None:
            name = f"{stem(video)}-{'mask' if look == 'mask' else 'cutout'}{form.suffix}"
        targets.append(_Target(video, output if output and not in_folder else f"{(output or '.').rstrip('/')}/{name}"))
    refuse_inputs("--output", [files.absolute(path) for _, path in targets], [files.absolute(video) for video in videos])
    taken = set[str]()
    for video, path in targets:
        key = files.absolute(path).casefold()
        if key in taken:
            raise ConfigError(f"{path}, the output for {video}, is also the output for another video; choose another name")
        taken.add(key)
    return form, targets


def _background(wanted: VideoOptions, recipe: Recipe, files: Files, limits: Limits) -> str | bytes:
    """Return what is behind the object: a colour, or the bytes of a picture. The option comes before the recipe's setting.

    Raises:
        ConfigError: It is neither.
    """
    from pipeline.config.rendition import parse_background
    from pipeline.models.backgrounds import pin_video_background
    from pipeline.video.draw import behind

    option = "recipe.video_background"
    if wanted.background is not None:
        option, given = "--background", parse_background(wanted.background)
        recipe = recipe.model_copy(update={"video_background": given, "video_background_sha256": None})
    return behind(*pin_video_background(recipe, files, limits, option))


def _load(recipe: Recipe, compute: Compute, files: Files) -> Segmenter:
    """Load the model."""
    from pipeline.log import waiting_for
    from pipeline.models.devices import choose_device_type
    from pipeline.models.graphs.bundled import engine_for

    with waiting_for(f"loading the model {recipe.name}"):
        from pipeline.segmenter import Segmenter

        device = compute.device
        engine = compute.engine
        if engine == "auto":
            engine = engine_for(MANY_FRAMES, recipe, choose_device_type(device))  # type: ignore[assignment]
        return Segmenter.from_recipe(
            recipe, files, device=device, threads=compute.threads_per_actor, batch=compute.batch_size, engine=engine
        )
