"""Closed-form matting in the band, with the guided refiner's answer as a prior (``pip install 'matteline[closed-form]'``).

Levin, Lischinski and Weiss (A Closed-Form Solution to Natural Image Matting, PAMI 2008): in every window of 3×3 alpha is nearly
a linear function of colour, so it makes αᵀLα small, with the matting Laplacian L. Known pixels alone, which the method was made
for, say too little about a noisy photo; here the guided refiner's answer α₀ counts too, the more the surer it is:

    (L_UU + λ·diag(w))·α_U = λ·w·α₀ - L_UK·α_K        w = (2α₀ - 1)² + WEIGHT_LEAST

Of 33 settings these were among the best two on made scenes (``training.scenes``, those for tuning); with the base's confidence
in place of α₀'s the error was a few hundredths larger.

PyMatting (MIT) makes L, skipping windows that are wholly known, and solves by conjugate gradients. The prior makes the system
so even that its diagonal is preconditioner enough: incomplete Cholesky factors, without which closed-form matting hardly
converges, take longer to make here than they save, and 40 to 80 numbers an unknown. All is float64 on the host, wherever the
base's model runs.

What an image may cost is bounded in pixels and in time. Beyond that the guided refiner's answer stays, and a note says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Drawing, View
from pipeline.models.refiners.tiles import Piece, Tile, blend, on_host, tiles

EPS = 1e-6
"""Added to the colours' variance in a window (in [0, 1]²)."""

PRIOR = 3e-2
"""λ."""

WEIGHT_LEAST = 0.02
"""The prior counts a little even where it is wholly undecided: every system has one answer then."""

TILE_PX, OVERLAP_PX = 512, 64
"""Of what is solved at once: 190 MB while it lasts."""

MOST_PX = 1_000_000
"""Of an image's band are solved: 4 to 9 seconds of one core (a million pixels on the made scenes took 6.5 s on average)."""

LONGEST_S = 12.0
"""For an image: sixteen of them, as many as a pass may have, end before ``limits.item_s``. What a busy machine hasn't solved by
then is left, so that the note alone tells its rows from another machine's."""

ITERATIONS = 300
"""Of conjugate gradients in a tile, where 30 to 220 are usual. Each comes nearer to the answer, and the last one's is taken."""

TOLERANCE = 1e-4
"""Of the residual, as a share of the right-hand side: alpha is off by a twentieth of an 8-bit level then, on average."""

Plane = npt.NDArray[np.float64]


class Solver(NamedTuple):
    """What is used of PyMatting."""

    laplacian: Callable[..., Any]
    scale: Callable[..., Any]
    descend: Callable[..., Any]


def load_solver() -> Solver:
    """Import PyMatting, which compiles all it has when it is first imported on a machine.

    Numba keeps what is compiled beside the library, or in the user's cache folder.
    """
    # None of what is used here runs in several threads, but numba would start them.
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    from pymatting.laplacian.cf_laplacian import cf_laplacian
    from pymatting.preconditioner.jacobi import jacobi
    from pymatting.solver.cg import cg

    return Solver(cf_laplacian, jacobi, cg)


class GaveUpError(Exception):
    """An image has cost what it may; the text says what that was."""


class ClosedForm:
    """The refiner that solves.

    Args:
        clock: in seconds.
    """

    halo_cells = Guided.halo_cells

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.solver, self.clock, self.guided = load_solver(), clock, Guided()

    def start(self, view: View) -> Drawing:
        """See ``Refiner``."""
        host = on_host(view)
        prior, watch = self.guided.start(host).draw, Watch(self.clock, self.clock() + LONGEST_S)
        pieces: list[Piece] = []
        all_px, done_px, why = 0.0, 0.0, ""
        for tile in tiles(host, TILE_PX, OVERLAP_PX, self.halo_cells):
            all_px += tile.share_px
            if why:
                continue
            try:
                if all_px > MOST_PX:
                    raise GaveUpError(f"{MOST_PX / 1e6:g} million pixels")
                alpha = self._solve(tile, prior(tile.down, tile.across).clamp(0, 1).numpy(), watch)
            except GaveUpError as limit:
                why = str(limit)
                continue
            pieces.append(Piece(tile.rows, tile.columns, torch.from_numpy(alpha).to(view.p.device)))
            done_px += tile.share_px
        note = f"closed_form gave up after {why}; guided did the rest, {1 - done_px / all_px:.0%} of the band" if why else None
        return Drawing(blend(pieces, self.guided.start(view).draw), note)

    def _solve(self, tile: Tile, prior: npt.NDArray[np.float32], watch: Watch) -> npt.NDArray[np.float32]:
        """Alpha in a tile: (h, w) float32 in [0, 1]."""
        box = _around(tile.unknown)
        unknown, guess, alpha = tile.unknown[box], prior[box], tile.p.copy()
        trust = PRIOR * ((2 * guess.astype(np.float64) - 1) ** 2 + WEIGHT_LEAST)
        alpha[box][unknown] = solve(self.solver, tile.image[box] / 255, unknown, tile.p[box], guess, trust, watch)
        return alpha


def solve(
    solver: Solver,
    image: Plane,
    unknown: npt.NDArray[np.bool_],
    known: npt.NDArray[np.floating],
    prior: npt.NDArray[np.floating],
    trust: Plane,
    watch: Watch,
) -> Plane:
    """Alpha of the unknown pixels.

    Args:
        image: (h, w, 3) in [0, 1].
        unknown: (h, w), with n pixels; further than two from the border, or all of what they hang on isn't seen.
        known: (h, w) in [0, 1]: alpha where it isn't unknown.
        prior: (h, w) in [0, 1]: what alpha should be near to.
        trust: (h, w) above 0: how near.

    Returns:
        (n,) in [0, 1].

    Raises:
        GaveUpError: it took too long.
    """
    watch.check()
    inside = unknown.ravel()
    rows = solver.laplacian(image, epsilon=EPS, radius=1, is_known=~unknown)[inside]
    system, guess, weight = rows[:, inside], prior[unknown].astype(np.float64), trust[unknown]
    system.eliminate_zeros()
    system.setdiag(system.diagonal() + weight)
    wanted = weight * guess - rows[:, ~inside] @ known[~unknown].astype(np.float64)
    watch.check()
    scale = solver.scale(system)
    found: Plane
    try:
        found = solver.descend(system, wanted, x0=guess, rtol=TOLERANCE, maxiter=ITERATIONS, callback=watch, M=scale)
    except ValueError:  # so it says that the iterations are spent
        found = watch.nearest
    return found.clip(0, 1)


class Watch:
    """Looks at the clock while an image is solved."""

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self.clock, self.deadline = clock, deadline
        self.nearest: Plane = np.empty(0)

    def check(self) -> None:
        """Go on, or don't.

        Raises:
            GaveUpError: the time is over.
        """
        if self.clock() > self.deadline:
            raise GaveUpError(f"{LONGEST_S:g} s")

    def __call__(self, _a: Any, x: Plane, *_rest: Any) -> None:
        """After every iteration of PyMatting's ``cg``."""
        self.nearest = x
        self.check()


def _around(unknown: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and columns of the unknown pixels, and two more on each side: windows reach that far."""
    found = []
    for dim, length in enumerate(unknown.shape):
        place = np.flatnonzero(unknown.any(1 - dim))
        found.append(slice(max(int(place[0]) - 2, 0), min(int(place[-1]) + 3, length)))
    return found[0], found[1]
