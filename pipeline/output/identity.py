"""Notice ids that mean other images than before: another manifest of the same ids would count as done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ItemError, StorageError
from pipeline.log import log
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.sample import Request
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.uris import redact, strip_signature

COLUMNS = ("item_id", "image_uri", "box", "image_sha256")

MAX_READ = 8
"""Images that are read to find out whether they have only moved."""


@dataclass
class Comparison:
    """Finished items of a sample, compared with their rows in the index."""

    same: int = 0
    others: list[tuple[Request, Request, str | None]] = field(default_factory=list)
    """Items with another image or box: what the manifest asks for, what the row has, and the SHA-256 of its image."""

    @property
    def share(self) -> float:
        """Share of the compared items that have another image or box."""
        return len(self.others) / max(1, self.same + len(self.others))


def compare(sample: Mapping[str, Request], output: Output) -> Comparison:
    """Compare the items of a manifest's sample with their rows in the index. Failed items are left out.

    Raises:
        StorageError: The index cannot be read.
    """
    found, ids = Comparison(), pa.array(sorted(sample), pa.string())
    for part in read_index(output, (*COLUMNS, "status")):
        chosen = pc.and_(pc.is_in(part["item_id"], ids), pc.not_equal(part["status"], "failed"))
        for row in part.filter(chosen).to_pylist():
            wanted, was = sample[row["item_id"]], Request.of(row["item_id"], row["image_uri"], row["box"])
            wanted = wanted._replace(image_uri=wanted.image_uri and strip_signature(wanted.image_uri))
            if wanted == was:
                found.same += 1
            else:
                found.others.append((sample[row["item_id"]], was, row["image_sha256"]))
    return found


def other_images(sample: Mapping[str, Request], manifest: Manifest, output: Output) -> list[Request]:
    """Return the sampled items whose row is of another image or box. Images that have only moved are no others.

    Raises:
        StorageError: The index cannot be read.
    """
    found = compare(sample, output)
    return [] if _have_moved(found, manifest, output) else [request for request, _, _ in found.others]


def check_identity(sample: Mapping[str, Request], manifest: Manifest, output: Output) -> None:
    """Refuse a manifest whose ids all mean other images or boxes than the finished items, and warn if some do.

    Images that have only moved are no others: their content is compared.

    Raises:
        ConfigError: All compared items have another image or box.
        StorageError: The index cannot be read.
    """
    found = compare(sample, output)
    if not found.others or _have_moved(found, manifest, output):
        return
    request, was, _ = found.others[0]
    example = f"{request.item_id!r} was {_describe(was)} and is {_describe(request)}"
    if not found.same:
        raise ConfigError(
            f"the items of the manifest have the ids of finished items in {output.folder}, but other images or boxes: "
            f"{example}. Use another output, or add --changed to process changed items again"
        )
    log.warning(
        f"about {found.share:.1%} of the finished items have another image or box in the manifest, and stay as they are: "
        f"{example}. Add --changed to process them again",
        extra={"facts": {"share": found.share}},
    )


def _describe(request: Request) -> str:
    box = "" if request.box is None else f" with the box {','.join(f'{value:g}' for value in request.box)}"
    return f"{redact(request.image_uri or 'nothing')}{box}"


def _have_moved(found: Comparison, manifest: Manifest, output: Output) -> bool:
    """Return whether the images that were read are those of the rows, and the boxes, too."""
    if any(request.box != was.box for request, was, _ in found.others):
        return False
    return all(_is_same(request, sha256, manifest, output) for request, _, sha256 in found.others[:MAX_READ])


def _is_same(request: Request, sha256: str | None, manifest: Manifest, output: Output) -> bool:
    if request.image_uri is None:
        return False
    try:
        return output.files.digest(manifest.allowlist.real_path(request.image_uri))[0] == sha256
    except (ItemError, StorageError):
        return False
