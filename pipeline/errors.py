"""Everything that can go wrong, drawn once.

An error's class decides its fate: it is refused before work starts, stops the run, or becomes a row of the index::

    PipelineError
    ├── Refused              before work starts, or the index can't be written any more   exit 2
    │   ├── ConfigError      a setting, a manifest, the cluster
    │   ├── WeightsError     a weights file
    │   └── StorageError     a place that can't be read or written
    ├── ItemsMissing         the run ended with items undone         exit 1
    ├── ErrorBudgetExceeded  too many items failed                   exit 3
    ├── Stopped              deadline or signal; resumable           exit 4
    ├── LeaseHeld            another run is at this output           exit 5
    └── ItemError            one item's fault: a row, the run goes on
        ├── ItemRefused   "item"      the manifest row itself (its box, its URI)
        ├── FetchError    "fetch"     the image's bytes could not be had
        ├── DecodeError   "decode"    the bytes are not an image within the limits
        ├── SegmentError  "segment"   the model failed on it
        ├── RefineError   "refine"    the refiner failed on it
        ├── WriteError    "write"     its mask or cutout could not be published
        ├── ItemCrashed   "crash"     it killed, or blocked, every process that worked on it
        ├── TruthError    "truth"     its true mask could not be had (evaluate only)
        └── MaskError     "mask"      its published mask could not be had (evaluate only)

Anything else is a bug: traceback, exit 1. Codes are stable: tools filter on them.
"""

from __future__ import annotations

from typing import ClassVar


class PipelineError(Exception):
    """Root of every error that this package raises on purpose. ``exit_code`` is what a job ends with."""

    exit_code: ClassVar[int] = 1


class Refused(PipelineError):
    """The run can't start as asked."""

    exit_code = 2


class ConfigError(Refused):
    """A setting, a manifest or the cluster makes the run impossible."""


class WeightsError(Refused):
    """A weights file is missing, damaged, of the wrong hash or of no known layout."""


class StorageError(Refused):
    """A place outside of any single item can't be listed, read or written."""


class ItemsMissing(PipelineError):
    """The run came to its end, and yet items of the manifest have no row."""


class ErrorBudgetExceeded(PipelineError):
    """More items failed than the budget allows; what is in the index stays valid."""

    exit_code = 3


class Stopped(PipelineError):
    """The run was asked to stop; the same command continues it."""

    exit_code = 4


class LeaseHeld(PipelineError):
    """Another run holds this output."""

    exit_code = 5


class ItemError(PipelineError):
    """One item's fault. ``code`` is stable; ``retryable`` says whether the same input may succeed later."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False


class ItemRefused(ItemError):
    """The manifest row itself can't be used: its box or its URI."""

    code = "item"


class FetchError(ItemError):
    """The image's bytes could not be had."""

    code = "fetch"
    retryable = True


class DecodeError(ItemError):
    """The bytes are not an image within the limits."""

    code = "decode"


class SegmentError(ItemError):
    """The model failed on this image."""

    code = "segment"


class RefineError(ItemError):
    """The refiner failed on this image."""

    code = "refine"


class WriteError(ItemError):
    """The item's mask or cutout could not be published."""

    code = "write"
    retryable = True


class ItemCrashed(ItemError):
    """Whatever process worked on it died, or had to be killed at its deadline, again and again."""

    code = "crash"
    retryable = True


class TruthError(ItemError):
    """The item's true mask is missing, can't be read, or is no mask of its image."""

    code = "truth"


class MaskError(ItemError):
    """The mask that the index names can't be read."""

    code = "mask"


ITEM_ERRORS: tuple[type[ItemError], ...] = (
    *(ItemRefused, FetchError, DecodeError, SegmentError, RefineError, WriteError, ItemCrashed),
)
"""Every item error of a run, for tables and for looking a code up."""
