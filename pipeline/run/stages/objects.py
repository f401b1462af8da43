"""Write the objects of items under their names, and describe them as the index does."""

from __future__ import annotations

import time
from typing import Any

from pipeline.errors import FetchError, StorageError, WriteError
from pipeline.imaging.renditions.render import Rendered
from pipeline.output.layout import is_inside, output_path, rendition_path
from pipeline.output.overwrites import note_overwrites
from pipeline.run.context import StageContext
from pipeline.run.stages.columns import sha256


def note_replacements(context: StageContext, item_ids: list[str]) -> None:
    """Note all items of a task whose objects it will overwrite, in a run that replaces objects.

    Raises:
        StorageError: The note cannot be written.
    """
    if context.replaces and item_ids:
        note_overwrites(context.output, context.run_id, item_ids, complete=True)


def write_output(context: StageContext, item_id: str, name: str, output: str, data: bytes) -> dict[str, Any]:
    """Write a mask, cutout or trimap.

    Args:
        context: The run.
        item_id: The item.
        name: Its ``output_name``.
        output: One of ``OUTPUTS``.
        data: The file.

    Returns:
        Its index columns, and the time as ``write_s``.

    Raises:
        WriteError: It cannot be written.
    """
    start, path = time.perf_counter(), output_path(output, name)
    _write(context, item_id, path, data)
    facts = {f"{output}_path": path, f"{output}_bytes": len(data), f"{output}_sha256": sha256(data)}
    return facts | {"write_s": time.perf_counter() - start}


def write_rendition(context: StageContext, item_id: str, name: str, rendered: Rendered, recipe: str) -> dict[str, Any]:
    """Write a file of a rendition, if there is one.

    Args:
        context: The run.
        item_id: The item.
        name: Its ``output_name``.
        rendered: The file.
        recipe: Fingerprint of the rendition.

    Returns:
        Its entry of the index column ``renditions`` as ``rendition``, and the time as ``write_s``.

    Raises:
        WriteError: It cannot be written.
    """
    start = time.perf_counter()
    facts: dict[str, Any] = {"name": rendered.name, "recipe": recipe, "note": rendered.note}
    if rendered.data is not None and rendered.size is not None:
        path = rendition_path(rendered.name, name, rendered.suffix)
        _write(context, item_id, path, rendered.data)
        height, width = rendered.size
        size = {"height": height, "width": width}
        facts |= {"path": path, "bytes": len(rendered.data), "sha256": sha256(rendered.data)} | size
    return {"rendition": facts, "write_s": time.perf_counter() - start}


def _write(context: StageContext, item_id: str, path: str, data: bytes) -> None:
    """Write an object. In a run that replaces nothing it is new, unless a repeated task or an interrupted run left it."""
    if not is_inside(path):
        raise WriteError(f"{path!r} is not a path inside the output; correct the item's output_name in the index")
    files, uri = context.files, context.output.layout.uri(path)
    if context.replaces:
        files.write(uri, data)
        return
    if files.create(uri, data):
        return
    try:
        if files.read(uri) == data:
            return
        note_overwrites(context.output, context.run_id, [item_id], complete=False)
    except (FetchError, StorageError) as error:
        raise WriteError(str(error)) from error
    files.write(uri, data)
