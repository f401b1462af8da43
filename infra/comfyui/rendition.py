"""The node Rendition."""

import logging
from io import BytesIO
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker
from PIL import Image

from pipeline.config.job import Limits
from pipeline.config.rendition import load_rendition
from pipeline.errors import ConfigError
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.storage.files import Files

from .offered import choose, renditions
from .tensors import aligned, to_tensor, to_uint8


class Rendition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MattelineRendition",
            display_name="Rendition",
            category="matteline",
            description="Frames the object as a shop wants it, and saves the file in ComfyUI's output folder.",
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The photo, or the cutout."),
                io.Mask.Input("mask", tooltip="1 is the object."),
                io.Combo.Input("rendition", options=list(renditions()), default="square-white"),
                io.String.Input("filename_prefix", default="matteline", tooltip="As of Save Image. Empty: nothing is saved."),
            ],
            outputs=[
                io.Image.Output("picture", "rendition", is_output_list=True),
                io.String.Output("note", "note", tooltip="A remark, such as an object that is cut off.", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, mask: torch.Tensor, rendition: str, filename_prefix: str) -> io.NodeOutput:
        chosen = load_rendition(choose("rendition", rendition, renditions()))
        if chosen.suffix == "json":
            raise ConfigError(f"the rendition {rendition} is no picture; use matteline run for it")
        if chosen.needs_photo and image.shape[-1] == 4:
            raise ConfigError(f"the rendition {rendition} keeps the photo's shadow; connect the photo, not the cutout")
        mask = mask.reshape(-1, *mask.shape[-2:])
        if mask.shape[1:] != image.shape[1:3]:
            sizes = " and ".join(f"{width} x {height}" for height, width in (image.shape[1:3], mask.shape[1:]))
            raise ConfigError(f"image and mask must have the same size, but have {sizes} pixels (width x height)")
        pinned, backgrounds = pin_backgrounds([chosen], Files(), Limits())
        files: list[Rendered] = []
        for pixels, alpha in aligned(to_uint8(image), to_uint8(mask)):
            photo, is_photo = np.ascontiguousarray(pixels[..., :3]), pixels.shape[-1] == 3
            colours = estimate_foreground(photo, alpha, "multilevel") if is_photo else photo
            files += render(pinned, colours, alpha, backgrounds, photo if is_photo else None)
        saved = [_save(file, filename_prefix) for file in files if file.data is not None and filename_prefix]
        notes = [file.note or "" for file in files]
        return io.NodeOutput([_shown(file) for file in files], notes, ui={"images": saved, "notes": notes})


def _shown(file: Rendered) -> torch.Tensor | ExecutionBlocker:
    """Return the file's pixels. If it was not made, nodes that want them are not run, and show why."""
    if file.data is None:
        logging.warning("Rendition %s: %s", file.name, file.note)
        return ExecutionBlocker(file.note)
    with Image.open(BytesIO(file.data)) as image:
        return to_tensor([np.asarray(image.convert("RGBA" if "A" in image.getbands() else "RGB"))])


def _save(file: Rendered, prefix: str) -> dict[str, str]:
    """Write a file as Save Image names it. ComfyUI refuses a prefix that leaves its output folder."""
    height, width = file.size or (0, 0)
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    path = Path(folder) / f"{name}_{counter:05}_.{file.suffix}"
    path.write_bytes(file.data)
    return {"filename": path.name, "subfolder": subfolder, "type": "output"}
