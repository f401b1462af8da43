"""``matteline models``: list the presets."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from jobs.console import out


def models(
    names: Annotated[bool, typer.Option("--names", help="List the 80 names that the bundled detector nanodet knows.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print where the weights come from.")] = False,
) -> None:
    """List presets and detectors: size, licence, how they did in ``make evaluate``, and what they are good for."""
    from pipeline.config.common_names import COMMON_NAMES
    from pipeline.config.detector import detector_names, load_detector_preset
    from pipeline.config.presets import load_preset, preset_names

    if names:
        out.print(*COMMON_NAMES, sep="\n", markup=False, highlight=False)
        return
    measured = False
    for name in preset_names():
        preset = load_preset(name)
        licence = preset.licence if preset.commercial else f"{preset.licence}, --accept-licence"
        did = "" if preset.measured is None else preset.measured.brief()
        measured |= bool(did)
        _print(name, f"{preset.size_mb:g} MB", licence, did, about=preset.about, source=preset.source if verbose else "")
    if measured:
        out.print("(Dice without boxes / with boxes, on photos with ground truth: BENCHMARKS.md)", markup=False)
    out.print("\nDetectors of objects by name (--label):")
    for name in detector_names():
        one = load_detector_preset(name)
        _print(name, f"{one.size_mb:g} MB", one.licence, about=one.about, source=one.source if verbose else "")


def _print(name: str, *facts: str, about: str, source: str) -> None:
    """Print two lines of at most 80 characters, and a third one for the source, if there is one."""
    out.print(Text.assemble((name, "bold"), "  ", "  ".join(fact for fact in facts if fact)))
    for line in (about, source):
        if line:
            out.print(f"  {line}", markup=False)
