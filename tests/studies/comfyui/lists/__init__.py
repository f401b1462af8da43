"""A node for the check in ComfyUI: pictures of unequal sizes as a list, and a list of boxes. ComfyUI loads this folder."""

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image


class Lists(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Lists",
            category="test",
            inputs=[io.String.Input("files"), io.String.Input("boxes")],
            outputs=[io.Image.Output("images", is_output_list=True), io.BBOX.Output("found", is_output_list=True)],
        )

    @classmethod
    def execute(cls, files: str, boxes: str) -> io.NodeOutput:
        folder = Path(folder_paths.get_input_directory())
        pictures = [np.asarray(Image.open(folder / name).convert("RGB"), np.float32) / 255 for name in files.split()]
        corners = [tuple(float(value) for value in box.split(",")) if box != "-" else None for box in boxes.split()]
        return io.NodeOutput([torch.from_numpy(picture)[None] for picture in pictures], corners)


class TestPack(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Lists]


async def comfy_entrypoint() -> TestPack:
    return TestPack()
