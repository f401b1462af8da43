"""``matteline models``: list the presets."""

from __future__ import annotations

from jobs.console import out, table


def models() -> None:
    """List the presets: licence, size, and where the weights come from."""
    from pipeline.config.presets import load_preset, preset_names

    listing = table("preset", "licence", ">MB", "weights", "about")
    for name in preset_names():
        preset = load_preset(name)
        licence = preset.licence if preset.commercial else f"[yellow]{preset.licence}: needs --accept-licence[/]"
        listing.add_row(name, licence, f"{preset.size_mb:g}", preset.source, preset.about)
    out.print(listing)
