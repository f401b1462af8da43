"""Turn frames as their display matrix says: any of the eight ways in which a camera may hold or mirror them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import Type

from pipeline.types import Pixels

MATRIX = (3, 3)

_NO_FRAME = VideoFrame()


class Orientation(NamedTuple):
    """The way in which stored frames are shown.

    Attributes:
        transposed: Rows are shown as columns, before they are mirrored.
        mirrored: Left and right are then exchanged.
        upended: Top and bottom are then exchanged.
    """

    transposed: bool = False
    mirrored: bool = False
    upended: bool = False

    def upright(self, pixels: Pixels) -> Pixels:
        """Return a view of a stored frame, (H, W, 3), as it is shown."""
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        return turned[:: -1 if self.upended else 1, :: -1 if self.mirrored else 1]


def orientation_of(frame: Any) -> Orientation:
    """Return the orientation of a decoded frame, by its display matrix, rounded to quarter turns.

    A row (x, y, 1) of a stored pixel times the matrix (ISO/IEC 14496-12, 6.2.2) is the place where it is shown.
    """
    side_data = frame.side_data
    found = side_data.get(Type.DISPLAYMATRIX)
    data = None if found is None else bytes(found)
    # PyAV's frame keeps this object, which refers to its frame: only the garbage collector would free the two. Filled anew from
    # another frame, it refers to that one.
    side_data.__init__(_NO_FRAME)
    if data is None:
        return Orientation()
    (a, b, _), (c, d, _), _ = np.frombuffer(data, np.int32).reshape(MATRIX).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
