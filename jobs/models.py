"""``matteline models``: list the presets."""

from __future__ import annotations

from jobs.console import out, table


def models() -> None:
    """List the presets: licence, size, where the weights come from, what they are good for, and how they did if measured."""
    from pipeline.config.presets import load_preset, preset_names

    listing = table("preset", "licence", ">MB", "weights", "about")
    for name in preset_names():
        preset = load_preset(name)
        licence = preset.licence if preset.commercial else f"[yellow]{preset.licence}: needs --accept-licence[/]"
        listing.add_row(name, licence, f"{preset.size_mb:g}", preset.source, preset.describe())
    out.print(listing)
