"""The node Cut Out."""

import logging
import math
from typing import Any

import numpy as np
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from pipeline.config.detector import split_names
from pipeline.config.presets import DEFAULT_PRESET
from pipeline.errors import ItemError
from pipeline.imaging.picture import upright_rgb
from pipeline.models.arguments import parse_boxes, parse_labels
from pipeline.quality.reasons import explain
from pipeline.segmenter import Cutout

from .offered import choose, presets, segmenter_of
from .tensors import aligned, in_batches, to_array, to_tensor

BOX = io.Custom("BOUNDING_BOX")
"""Type of the boxes that newer versions of ComfyUI draw: x, y, width, height."""


class CutOut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        box = io.String.Input(
            "box",
            default="",
            optional=True,
            tooltip="x0,y0,x1,y1 around the object, in pixels. Or connect boxes: of Find, or drawn.",
        )
        return io.Schema(
            node_id="MattelineCutOut",
            display_name="Cut Out",
            category="matteline",
            description="Cuts the object out of each picture and says how far the mask can be trusted. "
            "Pictures of unequal sizes come as a list; all outputs have one entry per entry of it.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of pictures of any sizes."),
                io.Combo.Input("preset", options=list(presets()), default=DEFAULT_PRESET, tooltip="The model."),
                io.MultiType.Input(box, types=[io.BBOX, BOX]),
                io.String.Input(
                    "label",
                    default="",
                    optional=True,
                    tooltip="Name of the object, such as potted plant; several: cup; mug. Looked for where there is no box.",
                ),
            ],
            outputs=[
                io.Image.Output("cutout", "cutout", tooltip="RGBA with the object's own colours.", is_output_list=True),
                io.Mask.Output("mask", "mask", tooltip="1 is the object.", is_output_list=True),
                io.Float.Output("quality", "quality", tooltip="0 to 1; of a batch, the lowest.", is_output_list=True),
                io.String.Output("reasons", "reasons", tooltip="What lowered the quality, in words.", is_output_list=True),
                io.Boolean.Output("good", "good", tooltip="false: a person should look at it.", is_output_list=True),
            ],
        )

    @classmethod
    def execute(
        cls, images: list[Any], preset: list[str], box: list[Any] | None = None, label: list[str] | None = None
    ) -> io.NodeOutput:
        entries = [(batch, _corners(where), name or "") for batch, where, name in aligned(images, box, label)]
        segmenter = segmenter_of(choose("preset", preset[0], presets()))
        pictures = [picture for batch, _, _ in entries for picture in batch]
        boxes = parse_boxes([where for batch, where, _ in entries for _ in batch], len(pictures))
        default = segmenter.recipe.detector.label if segmenter.recipe.detector else ()
        names = parse_labels([split_names(name) for batch, _, name in entries for _ in batch], len(pictures), default)

        def cut(part: slice) -> list[Cutout | ItemError]:
            pixels = [upright_rgb(to_array(picture)) for picture in pictures[part]]
            found = segmenter.segment(pixels, boxes[part], names[part])
            return [
                one if isinstance(one, ItemError) else Cutout(image, one.mask, one.score, segmenter.recipe, one.detection)
                for image, one in zip(pixels, found, strict=True)
            ]

        results = in_batches(cut, len(pictures), segmenter.batch)
        if all(isinstance(one, ItemError) for one in results):
            raise results[0]
        ends = np.cumsum([len(batch) for batch, _, _ in entries])
        outputs = [_output(results[end - len(batch) : end]) for end, (batch, _, _) in zip(ends, entries, strict=True)]
        return io.NodeOutput(*(list(values) for values in zip(*outputs, strict=True)))


def _corners(box: Any) -> Any:
    """Return x0, y0, x1, y1 of a box as text, as BBOX or as BOUNDING_BOX; None for none."""
    if isinstance(box, str):
        return box.split(",") if box.strip() else None
    if isinstance(box, dict):
        x, y, width, height = (box.get(key, math.nan) for key in ("x", "y", "width", "height"))
        return (x, y, x + width, y + height)
    return box


def _output(results: list[Cutout | ItemError]) -> tuple[Any, ...]:
    """Return the outputs of one entry. If a picture of it failed, nodes that want the entry are not run, and show why."""
    failed = [(number, one) for number, one in enumerate(results, 1) if isinstance(one, ItemError)]
    if failed:
        number, error = failed[0]
        message = f"{f'picture {number} of {len(results)}: ' if len(results) > 1 else ''}{error}"
        logging.warning("Cut Out: %s", message)
        return (ExecutionBlocker(message),) * 5
    return (
        to_tensor([one.cutout for one in results]),
        to_tensor([one.mask for one in results]),
        min(one.quality for one in results),
        "\n".join(_words(one, number if len(results) > 1 else None) for number, one in enumerate(results, 1)),
        all(one.quality >= one.recipe.review_below for one in results),
    )


def _words(result: Cutout, number: int | None) -> str:
    reasons = "; ".join(explain(reason) for reason in result.reasons)
    return reasons if number is None else f"picture {number}: quality {result.quality:.2f}{': ' if reasons else ''}{reasons}"
