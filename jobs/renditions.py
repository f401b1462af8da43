"""``matteline renditions``: list the bundled renditions."""

from __future__ import annotations

from jobs.console import out, table


def renditions() -> None:
    """List the bundled renditions: what can be made of every cutout."""
    from pipeline.config.rendition import load_rendition, rendition_names

    listing = table("rendition", "file", "about")
    for name in rendition_names():
        rendition = load_rendition(name)
        listing.add_row(name, rendition.suffix, rendition.about)
    out.print(listing)
