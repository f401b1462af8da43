"""Define every error that the package raises on purpose.

The class of an error decides what happens: the run is refused before work starts, the run stops, or one item fails::

    PipelineError
    ├── Refused              refused before work starts, or the index cannot be written   exit 2
    │   ├── ConfigError      a setting, a manifest, the cluster
    │   ├── WeightsError     a weights file
    │   └── StorageError     a place that cannot be read or written
    ├── ItemsMissing         the run ended, and items have no index row   exit 1
    ├── ErrorBudgetExceeded  too many items failed                        exit 3
    ├── Stopped              deadline or signal; can be continued         exit 4
    ├── LeaseHeld            another run uses this output                 exit 5
    └── ItemError            one item failed: an index row, the run goes on
        ├── ItemRefused   "item"      the manifest row itself (its box, its point, its URI)
        ├── FetchError    "fetch"     the image cannot be read
        ├── DecodeError   "decode"    the bytes are not an image within the limits
        ├── PromptError   "prompt"    no object of the given name or at the given point, or an unusable name
        ├── SegmentError  "segment"   the model failed
        ├── RefineError   "refine"    the refiner failed
        ├── WriteError    "write"     a mask or cutout cannot be written
        ├── ItemCrashed   "crash"     it crashed, or blocked, every process that worked on it
        ├── TruthError    "truth"     its ground truth cannot be read (evaluate only)
        └── MaskError     "mask"      its mask cannot be read (evaluate only)

Anything else is a bug: a traceback and exit 1. Codes are stable, so that tools can filter by them.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PipelineError(Exception):
    """Base of every error that this package raises on purpose. ``exit_code`` is the exit code of a job that ends with it."""

    exit_code: ClassVar[int] = 1

    record: Any = None
    """The ``RunRecord`` of the run that ended with this error; None if no run had begun."""


class Refused(PipelineError):
    """The run cannot start."""

    exit_code = 2


class ConfigError(Refused):
    """A setting, a manifest or the cluster makes the run impossible."""


class WeightsError(Refused):
    """A weights file is missing, damaged, of the wrong hash or of an unknown layout."""


class StorageError(Refused):
    """A place that belongs to no single item cannot be listed, read or written."""


class ItemsMissing(PipelineError):
    """The run ended, and items of the manifest have no index row."""


class ErrorBudgetExceeded(PipelineError):
    """More items failed than the budget allows. The index stays valid."""

    exit_code = 3


class Stopped(PipelineError):
    """The run was stopped. The same command continues it."""

    exit_code = 4


class LeaseHeld(PipelineError):
    """Another run holds the lease of this output."""

    exit_code = 5


class ItemError(PipelineError):
    """One item failed. ``code`` is stable, and ``about`` says in plain words what happened."""

    code: ClassVar[str]
    about: ClassVar[str]


class ItemRefused(ItemError):
    """The manifest row cannot be used: its box, its point or its URI."""

    code = "item"
    about = "the manifest's row cannot be used"


class FetchError(ItemError):
    """The image cannot be read from storage."""

    code = "fetch"
    about = "the photo cannot be read"


class AddressRefused(FetchError):
    """The web address, or one that it redirects to, may not be read. The message names the allowed roots."""


class DecodeError(ItemError):
    """The bytes are not an image within the limits."""

    code = "decode"
    about = "the file is not a picture that can be used"


class PromptError(ItemError):
    """No object of the given name or at the given point is found in the image, or the name cannot be used."""

    code = "prompt"
    about = "nothing of that name, or at that point, was found in the photo"


class SegmentError(ItemError):
    """The model failed on this image."""

    code = "segment"
    about = "the model failed"


class RefineError(ItemError):
    """The refiner failed on this image."""

    code = "refine"
    about = "the edges could not be refined"


class WriteError(ItemError):
    """The item's mask or cutout cannot be written."""

    code = "write"
    about = "the results could not be saved"


class ItemCrashed(ItemError):
    """Every process that worked on the item crashed, or was ended at its deadline."""

    code = "crash"
    about = "the photo crashed the program or took too long"


class TruthError(ItemError):
    """The item's ground truth is missing, unreadable, or not a mask of its image."""

    code = "truth"
    about = "the ground truth cannot be read"


class MaskError(ItemError):
    """The mask that the index names cannot be read."""

    code = "mask"
    about = "the mask cannot be read"


ITEM_ERRORS: tuple[type[ItemError], ...] = (
    *(ItemRefused, FetchError, DecodeError, PromptError, SegmentError, RefineError, WriteError, ItemCrashed),
)
"""Every item error of a run, to look codes up."""
