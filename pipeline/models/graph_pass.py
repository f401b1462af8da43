"""A pass in prebuilt graphs and ONNX files, on a CPU. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from pipeline.concurrency import local_cpus
from pipeline.imaging.frame import Placement
from pipeline.models.clean import clean_map
from pipeline.models.engines.forks import note_load
from pipeline.models.engines.onnx import OnnxNetwork
from pipeline.models.failures import segment_errors
from pipeline.models.fake import FakeNetwork
from pipeline.models.graphs.bundled import network_graph, of_frame
from pipeline.models.graphs.graph import Graph, GraphRefiner
from pipeline.models.host_frames import HostFrames
from pipeline.models.passes import PassResult
from pipeline.models.refiners.refine_tiles import make_refinement
from pipeline.models.resolve import ResolvedRecipe
from pipeline.models.signal_names import NAMES
from pipeline.models.views import Looks, Views
from pipeline.storage.weights_cache import cache_folder
from pipeline.types import Mask, Pixels

_Finish = tuple[
    Pixels,
    Placement,
    npt.NDArray[np.uint8],
    npt.NDArray[np.float32],
    float | None,
    npt.NDArray[np.float32],
]
"""An image with its placement, frame, logits, ``flip_dice``, and box."""


class GraphPass:
    """A ``Pass`` without PyTorch. ``bundled.runs_in_graphs`` tells which recipes it takes; arguments: see ``load_pass``."""

    device = "cpu"

    def __init__(self, resolved: ResolvedRecipe, *, threads: int | None, engine: str) -> None:
        note_load()
        recipe = resolved.recipe
        self.model = _network(resolved, threads, engine)
        self.framing, self.recipe = HostFrames(recipe), recipe
        self.views = Views(recipe, HostFrames)
        # The network uses all threads for one image; what follows is done for several images at a time, each by one thread.
        self.each = ThreadPoolExecutor(threads or local_cpus(), "finish").map
        self.factor = np.array([recipe.sharpen], np.float32)
        self.measure = Graph(of_frame("measure", recipe.frame_px), 1)
        self.sharpen = Graph(of_frame("sharpen", recipe.frame_px), 1) if recipe.sharpen != 1 else None
        self.compare = Graph("flip.onnx", 1) if "flip" in recipe.views else None
        self.estimate = Graph("estimator.onnx", 1) if recipe.estimate else None
        self.find_unknown = Graph(of_frame("unknown", recipe.frame_px), 1) if recipe.refiner != "none" else None
        self.refiner = GraphRefiner(recipe.refiner, threads) if recipe.refiner != "none" else None

    def __call__(self, images: Sequence[Pixels], placements: Sequence[Placement], boxes: npt.NDArray[np.float32]) -> PassResult:
        """See ``Pass``."""
        with segment_errors(len(images)):
            frames = self.framing.frames(images, placements)
            looks = self.views.look(self.model, frames, images, placements)
            logits = [clean_map(one, self.recipe) for one in looks.mean] if self.recipe.cleans else looks.mean
            work = zip(images, placements, frames, logits, self._flip_dice(looks), boxes, strict=True)
            one_by_one = list(self.each(self._finish, work) if len(images) > 1 else map(self._finish, work))
        tables, coarse, masks = zip(*one_by_one, strict=True)
        return PassResult(np.concatenate(tables), np.concatenate(coarse), masks)

    def _flip_dice(self, looks: Looks) -> list[float | None]:
        if looks.mirrored is None or self.compare is None:
            return [None] * len(looks.plain)
        pairs = zip(looks.plain, looks.mirrored, strict=True)
        return [self.compare(plain[None], mirrored[None])[0].item() for plain, mirrored in pairs]

    def _finish(self, one: _Finish) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], Mask]:
        """Return an image's row of signals (1, signals), its coarse mask (1, s, s) and its mask."""
        image, placed, frame, logits, flip_dice, box = one
        table, coarse, p, reduced = self.measure(logits[None], frame[None], box[None])
        (alpha,) = (p,) if self.sharpen is None else self.sharpen(logits[None], self.factor)
        refinement = None
        if self.refiner is not None and self.find_unknown is not None:
            unknown, blocks = self.find_unknown(alpha)
            refinement = make_refinement(
                self.refiner, image, placed, (alpha[0], frame, unknown[0]), blocks[0], each=self.refiner.each
            )
        (mask,) = self.framing.masks(alpha, [placed], [refinement])
        optional = {
            "refined": None if refinement is None else refinement.change,  # known once the mask is made
            "flip_dice": flip_dice,
            "expected_dice": None if self.estimate is None else self.estimate(reduced)[0],
        }
        for name, value in optional.items():
            if value is not None:
                table[0, NAMES.index(name)] = np.asarray(value).item()
        return table, coarse, mask

    def memory(self) -> dict[str, int]:
        """See ``Pass``."""
        return {}


def _network(resolved: ResolvedRecipe, threads: int | None, engine: str) -> OnnxNetwork | FakeNetwork:
    recipe, graph = resolved.recipe, network_graph(resolved.recipe)
    if recipe.model == "fake":
        return FakeNetwork(recipe.frame_px)
    path = graph or resolved.weights
    assert path is not None, "a recipe of any other model has weights"
    bundled, cache = graph is not None, cache_folder("graphs")
    return OnnxNetwork(path, recipe, device="cpu", threads=threads, engine=engine, bundled=bundled, cache=cache)
