"""Remove small detached parts of a model's output, before anything is made from it: the mask, its edges and its score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.imaging.components import label_parts, nearer

REMOVED = -12.0
"""Logit of a removed pixel: transparent, even after rounding to 16 bits."""

EDGE_SHARE = 0.03
"""Width of a part's soft edge, as a share of the map's side. It becomes transparent with the part."""


def remove_specks(logits: npt.NDArray[np.float32], below: float) -> npt.NDArray[np.float32]:
    """Remove the parts of one map that are smaller than a share of its largest part.

    A part is connected by sides or corners of pixels with logits above 0. A part that belongs to the object looks the same,
    such as the dot of an i.

    Args:
        logits: (S, S). Numbers that are not finite are left as they are.
        below: Area under which a part is removed, as a share of the largest part's area. 0 removes none.

    Returns:
        (S, S); the same array if there is nothing to remove.
    """
    if not below:
        return logits
    labels, areas = label_parts(np.asarray(logits > 0, np.uint8), connectivity=8)
    areas = areas[1:]  # the first is the background
    if len(areas) < 2 or areas.min() >= below * areas.max():
        return logits
    small = np.concatenate([[False], areas < below * areas.max()])
    specks = small[labels]
    near = nearer(specks, (labels > 0) & ~specks, max(3.0, EDGE_SHARE * len(specks))) & ~np.isnan(logits)
    return np.asarray(np.where(near, np.minimum(logits, np.float32(REMOVED)), logits), np.float32)
