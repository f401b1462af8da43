"""Parse the boxes and labels that are given to a ``Segmenter``: one for each picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

from pipeline.config.detector import parse_names
from pipeline.errors import ConfigError, ItemRefused
from pipeline.types import Box


def parse_boxes(given: Any, pictures: int | None) -> list[Box | None]:
    """Return one box (or None) per picture.

    Args:
        given: As for ``Segmenter.__call__``.
        pictures: Their number; None for one picture that is not in a list.

    Raises:
        ConfigError: There are not as many boxes as pictures.
        ItemRefused: A box cannot be used.
    """
    if pictures is None or given is None:
        return [_parse_box(given)] * (1 if pictures is None else pictures)
    boxes = list(given) if isinstance(given, Iterable) else [given]  # of an array: its rows
    if isinstance(given, str) or any(isinstance(one, Number) for one in boxes):
        raise ConfigError(f"one box for a list of {pictures} pictures; give a list with one box (or None) per picture")
    if len(boxes) != pictures:
        raise ConfigError(f"{pictures} pictures but {len(boxes)} boxes; give a list with one box (or None) per picture")
    return [_parse_box(box) for box in boxes]


def _parse_box(given: Any) -> Box | None:
    given = given.tolist() if hasattr(given, "tolist") else given  # arrays and tensors
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ItemRefused(f"box {given!r} is not four numbers; give x0, y0, x1, y1 in pixels, or no box")
    return Box.parse(given)


def parse_point(given: Any, *, several: bool, box: Any, label: Any) -> tuple[float, float]:
    """Return a point as x, y.

    Args:
        given: As for ``Segmenter.__call__``.
        several: Whether there is a list of pictures.
        box: What was given as box.
        label: What was given as label; ``auto`` asks for the salient object, as a point does.

    Raises:
        ConfigError: There is a list of pictures, a box or a name, too, or this is no point.
    """
    if several:
        raise ConfigError("a point is for one picture; call the segmenter once for each picture")
    if box is not None or parse_names(label):
        raise ConfigError("a point cannot be combined with a box or a label; give one of them")
    try:
        x, y = (float(one) for one in given)
    except (TypeError, ValueError):
        raise ConfigError(f"point {given!r} is not two numbers; give x, y in pixels") from None
    return x, y


def parse_labels(given: Any, pictures: int | None, default: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the names for each picture.

    Args:
        given: As for ``Segmenter.__call__``.
        pictures: Their number; None for one picture that is not in a list.
        default: Names for a picture without any.

    Raises:
        ConfigError: There are not as many labels as pictures.
        PromptError: A label cannot be used.
    """
    if pictures is None or given is None or isinstance(given, str):
        return [_names(given, default)] * (1 if pictures is None else pictures)
    labels = list(given)
    if len(labels) != pictures:
        raise ConfigError(
            f"{pictures} pictures but {len(labels)} labels; give one label for all, or a list with one per picture"
        )
    return [_names(one, default) for one in labels]


def _names(given: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    names = parse_names(given)
    return default if names is None else names
