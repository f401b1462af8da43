"""Notice ids that mean other images than before: another manifest of the same ids would count as done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ItemError, StorageError
from pipeline.log import log
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.sample import COLUMNS, Request
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.uris import redact, strip_signature

MAX_READ = 8
"""Images that are read to find out whether they have only moved."""


@dataclass
class Comparison:
    """Finished items of a sample, compared with their rows in the index."""

    same: int = 0
    others: list[tuple[Request, Request, str | None]] = field(default_factory=list)
    """Items with another image, box or point: what the manifest asks for, what the row has, and the SHA-256 of its image."""

    @property
    def share(self) -> float:
        """Share of the compared items that have another image, box or point."""
        return len(self.others) / max(1, self.same + len(self.others))


def compare(sample: Mapping[str, Request], output: Output) -> Comparison:
    """Compare the items of a manifest's sample with their rows in the index. Failed items are left out.

    Raises:
        StorageError: The index cannot be read.
    """
    found, ids = Comparison(), pa.array(sorted(sample), pa.string())
    for part in read_index(output, (*COLUMNS, "image_sha256", "status")):
        chosen = pc.and_(pc.is_in(part["item_id"], ids), pc.not_equal(part["status"], "failed"))
        rows = part.filter(chosen)
        for was, sha256 in zip(Request.all_of(rows), rows["image_sha256"].to_pylist(), strict=True):
            wanted = sample[was.item_id]
            if wanted._replace(image_uri=wanted.image_uri and strip_signature(wanted.image_uri)) == was:
                found.same += 1
            else:
                found.others.append((wanted, was, sha256))
    return found


def other_images(sample: Mapping[str, Request], manifest: Manifest, output: Output) -> list[Request]:
    """Return the sampled items whose row is of another image, box or point. Images that have only moved are no others.

    Raises:
        StorageError: The index cannot be read.
    """
    found = compare(sample, output)
    return [] if _have_moved(found, manifest, output) else [request for request, _, _ in found.others]


def check_identity(sample: Mapping[str, Request], manifest: Manifest, output: Output) -> None:
    """Refuse a manifest whose ids all mean other images, boxes or points than the finished items, and warn if some do.

    Images that have only moved are no others: their content is compared.

    Raises:
        ConfigError: All compared items have another image, box or point.
        StorageError: The index cannot be read.
    """
    found = compare(sample, output)
    if not found.others or _have_moved(found, manifest, output):
        return
    request, was, _ = found.others[0]
    example = f"{request.item_id!r} was {_describe(was)} and is {_describe(request)}"
    if not found.same:
        raise ConfigError(
            f"the items of the manifest have the ids of finished items in {output.folder}, but other images, boxes or points: "
            f"{example}. Use another output, or add --changed to process changed items again"
        )
    log.warning(
        f"about {found.share:.1%} of the finished items have another image, box or point in the manifest, and stay as they "
        f"are: {example}. Add --changed to process them again",
        extra={"facts": {"share": found.share}},
    )


def _describe(request: Request) -> str:
    kind, place = ("box", request.box) if request.box is not None else ("point", request.point)
    where = "" if place is None else f" with the {kind} {','.join(f'{value:g}' for value in place)}"
    return f"{redact(request.image_uri or 'nothing')}{where}"


def _have_moved(found: Comparison, manifest: Manifest, output: Output) -> bool:
    """Return whether the images that were read are those of the rows, and the boxes and points, too."""
    if any((request.box, request.point) != (was.box, was.point) for request, was, _ in found.others):
        return False
    return all(_is_same(request, sha256, manifest, output) for request, _, sha256 in found.others[:MAX_READ])


def _is_same(request: Request, sha256: str | None, manifest: Manifest, output: Output) -> bool:
    if request.image_uri is None:
        return False
    try:
        return output.files.digest(manifest.allowlist.real_path(request.image_uri))[0] == sha256
    except (ItemError, StorageError):
        return False
