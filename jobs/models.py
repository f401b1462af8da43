"""``matteline models``: list the presets."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import out, table


def models(
    names: Annotated[bool, typer.Option("--names", help="List the 80 names that the bundled detector nanodet knows.")] = False,
) -> None:
    """List presets and detectors: licence, size, where the weights come from, what they are good for, and how they did."""
    from pipeline.config.common_names import COMMON_NAMES
    from pipeline.config.detector import detector_names, load_detector_preset
    from pipeline.config.presets import load_preset, preset_names

    if names:
        out.print(*COMMON_NAMES, sep="\n", markup=False, highlight=False)
        return
    listing = table("preset", "licence", ">MB", "weights", "about")
    for name in preset_names():
        preset = load_preset(name)
        licence = preset.licence if preset.commercial else f"[yellow]{preset.licence}: needs --accept-licence[/]"
        listing.add_row(name, licence, f"{preset.size_mb:g}", preset.source, preset.describe())
    out.print(listing)
    listing = table("detector (--label)", "licence", ">MB", "weights", "about")
    for name in detector_names():
        detector = load_detector_preset(name)
        listing.add_row(name, detector.licence, f"{detector.size_mb:g}", detector.source, detector.about)
    out.print(listing)
