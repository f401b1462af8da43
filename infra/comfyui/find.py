"""The node Find."""

import logging
from typing import Any

from comfy_api.latest import io

from pipeline.config.detector import DEFAULT_DETECTOR, split_names
from pipeline.errors import ItemError, PromptError
from pipeline.imaging.picture import upright_rgb
from pipeline.models.arguments import parse_labels

from .offered import choose, detectors, finder_of
from .tensors import aligned, in_batches, to_array

AT_ONCE = 4
"""Pictures per call of the detector."""


class Find(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MattelineFind",
            display_name="Find",
            category="matteline",
            description="Finds objects by name. The outputs are lists with one entry per object, best first; connect image and "
            "box to Cut Out.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of pictures of any sizes."),
                io.String.Input("label", default="", tooltip="Name of the object, such as potted plant; several: cup; mug."),
                io.Combo.Input("detector", options=list(detectors()), default=DEFAULT_DETECTOR),
                io.Float.Input(
                    "threshold", default=0, min=0, max=0.99, step=0.01, tooltip="Lowest score of a box; 0: the detector's own."
                ),
                io.Int.Input("max_boxes", default=20, min=1, max=1000, tooltip="Objects per picture, at most; 1: the best."),
            ],
            outputs=[
                io.Image.Output("image", "image", tooltip="The picture of each box.", is_output_list=True),
                io.BBOX.Output("boxes", "box", tooltip="x0, y0, x1, y1 in pixels.", is_output_list=True),
                io.Float.Output("scores", "score", tooltip="0 to 1.", is_output_list=True),
                io.String.Output("names", "name", tooltip="Which of the names it is.", is_output_list=True),
            ],
        )

    @classmethod
    def execute(
        cls, images: list[Any], label: list[str], detector: list[str], threshold: list[float], max_boxes: list[int]
    ) -> io.NodeOutput:
        finder = finder_of(choose("detector", detector[0], detectors()), threshold[0], max_boxes[0])
        entries = aligned(images, label)
        pictures = [batch[number : number + 1] for batch, _ in entries for number in range(len(batch))]
        names = parse_labels([split_names(name) for batch, name in entries for _ in batch], len(pictures))
        if not all(names):
            raise PromptError("there is no name to look for; give one, such as potted plant")
        results = in_batches(
            lambda part: finder.all([upright_rgb(to_array(one[0])) for one in pictures[part]], names[part]),
            len(pictures),
            AT_ONCE,
        )
        for number, one in enumerate(results, 1):
            if isinstance(one, ItemError):
                logging.warning("Find: picture %d of %d: %s", number, len(results), one)
        failed = [one for one in results if isinstance(one, ItemError)]
        found = [
            (picture, tuple(one.box), one.score, one.label)
            for picture, result in zip(pictures, results, strict=True)
            for one in (() if isinstance(result, ItemError) else result)
        ]
        if not found:
            raise failed[0] if failed else PromptError("no object of that name was found; try another, or lower threshold")
        return io.NodeOutput(*(list(values) for values in zip(*found, strict=True)))
