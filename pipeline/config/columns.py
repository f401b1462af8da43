"""Define which columns of a manifest have a meaning, for manifests that other tools wrote."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.config.sections import Section

BOXES = ("box", "boxes", "x0", "y0", "x1", "y1")
"""Columns of boxes under their usual names."""

NAMES = ("label", "labels")
"""Columns of names of objects, one and several, under their usual names."""

DISPLACED = "manifest_"
"""Prefix of a column whose usual name is taken by a chosen one."""


class Columns(Section):
    """Names of the manifest's columns, where they are not the usual ones. All other columns are carried into the index."""

    image: str | None = Field(default=None, description="Column with paths or URIs of images. Default: image_uri.")
    id: str | None = Field(default=None, description="Column with unique ids; it is also carried. Default: item_id.")
    box: str | None = Field(
        default=None,
        description="Column of boxes, or four columns: xmin,ymin,xmax,ymax. Default: box, or x0, y0, x1, y1.",
    )
    boxes: str | None = Field(default=None, description="Column with lists of boxes: one item per box. Default: boxes.")

    label: str | None = Field(
        default=None, description='Column with names of objects, for a detector; "" for none. Default: label and labels.'
    )

    @model_validator(mode="after")
    def _each_column_has_one_meaning(self) -> Columns:
        if self.box is not None and self.boxes is not None:
            raise ValueError("box and boxes are two forms of boxes; give one")
        if self.box is not None and len(self.box.split(",")) not in (1, 4):
            raise ValueError(f"box must name one column or four, not {self.box!r}; write for instance xmin,ymin,xmax,ymax")
        names = [*self._chosen.values()]
        if not all(names):
            raise ValueError("the name of a column is empty; give a name, or leave the setting out")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the column {name!r} is named twice; without an id, ids are made from the image and its box")
        return self

    @property
    def _chosen(self) -> dict[str, str]:
        """The chosen columns by their usual names."""
        corners = [] if self.box is None else [name.strip() for name in self.box.split(",")]
        boxes = dict(zip(BOXES[2:], corners, strict=True)) if len(corners) == 4 else {"box": self.box}
        chosen = {"image_uri": self.image, "item_id": self.id, "boxes": self.boxes, "label": self.label or None, **boxes}
        return {usual: name.strip() for usual, name in chosen.items() if name is not None}

    @property
    def _usual(self) -> dict[str, str]:
        return {name: usual for usual, name in self._chosen.items()}

    def rename(self, name: str) -> str:
        """Return the usual name of a chosen column, and any other name as it is, unless a chosen column takes it.

        >>> Columns(image="url").rename("url"), Columns(image="url").rename("image_uri")
        ('image_uri', 'manifest_image_uri')
        """
        if name in self._usual:
            return self._usual[name]
        taken = (
            name in self._chosen
            or (name in BOXES and not self._chosen.keys().isdisjoint(BOXES))
            or (name in NAMES and self.label is not None)
        )
        return DISPLACED + name if taken else name

    def original(self, name: str) -> str:
        """Return the name that a renamed column has in the manifest."""
        was = name.removeprefix(DISPLACED)
        return self._chosen.get(name, was if self.rename(was) == name else name)

    def missing(self, names: list[str]) -> tuple[str, str] | None:
        """Return a chosen column that is not among renamed ``names``, and its option; None if all are."""
        for usual, name in self._chosen.items():
            if usual not in names:
                kind = {"image_uri": "image", "item_id": "id", "boxes": "boxes", "label": "label"}.get(usual, "box")
                return name, f"--{kind}-column"
        return None
