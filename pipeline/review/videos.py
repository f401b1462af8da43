"""Load the pictures of a video: its worst moments, and the video itself if it is small."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.config.job import Limits
from pipeline.errors import FetchError
from pipeline.imaging.views import preview, views
from pipeline.output.layout import is_inside
from pipeline.output.output import Output
from pipeline.review.entry import Entry, Missing, Played, Shown, read_picture
from pipeline.storage.allowlist import AllowList
from pipeline.video.extra import is_installed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PLAYED_BYTES = 3_000_000
"""Size of a video up to which the page contains it. A larger one is linked, and played from its file."""

SHOWN, PLAYED = ("webm", "mov", "mask", "mp4"), ("webm", "mp4", "mask")
"""Files of a video: whose frames are shown, and which browsers play; the best one first."""


def load_video(output: Output, allowlist: AllowList, entry: Entry) -> None:
    """Add the pictures of a video to its entry. What cannot be shown is reported in it.

    The worst moment is shown as a picture is: photo, mask, cutout. Further ones follow.
    """
    if not is_installed():
        entry.missing.append(Missing("picture", "to show videos: pip install 'matteline[video]'"))
        return
    facts = entry.row["video_facts"]
    files = {one["name"]: one for one in facts["files"] or ()}
    file: dict[str, Any] = next((files[name] for name in SHOWN if name in files), {})
    for number, moment in enumerate((facts["worst"] or ()) if file else ()):
        at_s = float(moment["at_s"])
        made = read_picture(entry, "cutout", partial(_made_at, output, file, at_s))
        if number and made is not None:
            label = f"at {at_s:.1f} s, quality {moment['quality']:.2f}"
            entry.renditions.append(Shown(label, None, "", preview(made[..., :3], made[..., 3])))
        elif not number:
            photo = read_picture(entry, "photo", partial(_photo_at, output, allowlist, entry.row, at_s))
            colours, mask = (None, None) if made is None or file["name"] == "mp4" else (made[..., :3], made[..., 3])
            entry.views = None if photo is None and mask is None else views(photo, colours, mask)
    played = next((files[name] for name in PLAYED if name in files), None)
    if played is not None and played["bytes"] <= PLAYED_BYTES:
        data = read_picture(entry, "video", partial(output.read, played["path"]))
        kind = "video/webm" if played["path"].endswith(".webm") else "video/mp4"
        entry.played = None if data is None else Played(kind, data, played["width"], played["height"])


def _made_at(output: Output, file: dict[str, Any], at_s: float) -> npt.NDArray[np.uint8]:
    """Return a frame of a written video as RGBA. Of a mask, black and white are transparent and opaque.

    Raises:
        ItemError: It cannot be read.
    """
    from pipeline.video.source import Source
    from pipeline.video.stills import written_still

    if not is_inside(file["path"]):
        raise FetchError(f"{file['path']!r} in the index is not a path inside the output; run matteline verify")
    with Source(output.layout.uri(file["path"]), output.files, Limits()) as source:
        made = written_still(source.open(), at_s)
    if file["name"] == "mask":
        made[..., 3] = made[..., 0]
    return made


def _photo_at(output: Output, allowlist: AllowList, row: dict[str, Any], at_s: float) -> npt.NDArray[np.uint8]:
    """Return a frame of the source.

    Raises:
        ItemError: It cannot be read.
    """
    from pipeline.manifest.videos import part_of
    from pipeline.video.source import Source
    from pipeline.video.stills import still

    uri = row["image_uri"]
    if not allowlist.allows(uri):
        raise FetchError(allowlist.refusal(uri))
    with Source(allowlist.real_path(uri), output.files, Limits()) as source:
        return still(source.open(), (part_of(row).start_s or 0.0) + at_s, Limits())
