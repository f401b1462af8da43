"""ComfyUI loads this folder as a pack of three nodes: Cut Out, Find, Rendition. README.md is for its users."""

from comfy_api.latest import ComfyExtension, io

from .cut_out import CutOut
from .find import Find
from .rendition import Rendition


class Matteline(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [CutOut, Find, Rendition]


async def comfy_entrypoint() -> Matteline:
    return Matteline()
