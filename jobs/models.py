"""``matteline models``: list the presets."""

from __future__ import annotations

from jobs.console import out, table


def models() -> None:
    """List presets and detectors: licence, size, where the weights come from, what they are good for, and how they did."""
    from pipeline.config.detector import detector_names, load_detector_preset
    from pipeline.config.presets import load_preset, preset_names

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
