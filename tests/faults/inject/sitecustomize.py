"""Faults from within, for any Python process that has this folder on its PYTHONPATH: the run and Ray's workers alike.

The environment variable FAULTS holds JSON; every key may be absent::

    trace     a file that gets one line for every frame that went through the model: which frame, in a batch of how many, when
              (seconds since 1970), in which process and on which machine ($MACHINE)
    sleep_s   seconds that every frame takes in the model
    most      frames at once; more of them are out of memory
    marked    what the marked picture (``mark.png``: magenta at its corner) does: "exit" and "hang" where it is decoded or
              segmented, as ``where`` says; "memory": out of memory even alone, in the model
    where     "decode" or "segment"
    side      side of the frames in which the model sees the mark; default: any
    full      a file; while it exists, the local disk has no room for PNGs
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import wrapt

FAULTS = json.loads(os.environ.get("FAULTS", "{}"))
MARK = (255, 0, 255)
"""Magenta: what the upper left corner of the marked picture is filled with, and of no other."""

MARK_BYTES = b"the marked picture"
"""Stands in the file of the marked picture."""


def misbehave() -> None:
    if FAULTS["marked"] == "exit":
        os._exit(139)  # as after a segmentation fault: no exception, no clean-up
    while FAULTS["marked"] == "hang":
        time.sleep(1)


def in_model(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap the fake model's forward pass; ``args[0]``: frames (N, S, S, 3) float32 in 0..255."""
    frames = np.asarray(args[0], np.uint8)
    marked = any(tuple(frame[0, 0]) == MARK for frame in frames) and frames.shape[1] == FAULTS.get("side", frames.shape[1])
    if marked and FAULTS.get("where") == "segment":
        misbehave()
    if (marked and FAULTS.get("marked") == "memory") or len(frames) > FAULTS.get("most", len(frames)):
        note(f"memory {len(frames)}\n")
        import torch

        raise torch.OutOfMemoryError("injected: out of memory")
    time.sleep(FAULTS.get("sleep_s", 0) * len(frames))
    where = f"{len(frames)} {time.time():.2f} {os.getpid()} {os.environ.get('MACHINE', '-')}"
    note("".join(f"{hashlib.sha256(frame.tobytes()).hexdigest()[:16]} {where}\n" for frame in frames))
    return wrapped(*args, **kwargs)


def in_decode(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if FAULTS.get("where") == "decode" and MARK_BYTES in args[0]:
        misbehave()
    return wrapped(*args, **kwargs)


def on_disk(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if str(args[0]).endswith(".png") and Path(FAULTS["full"]).exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return wrapped(*args, **kwargs)


def note(text: str) -> None:
    """Short appends are whole, whoever else appends at the same time."""
    if "trace" in FAULTS:
        file = os.open(FAULTS["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, text.encode())
        os.close(file)


if FAULTS:
    wrapt.when_imported("pipeline.models.fake")(lambda module: wrapt.wrap_function_wrapper(module, "fake_logits", in_model))
    wrapt.when_imported("pipeline.imaging.decode")(lambda module: wrapt.wrap_function_wrapper(module, "decode", in_decode))
if "full" in FAULTS:
    for name in ("write", "create"):
        wrapt.when_imported("pipeline.storage.local")(
            lambda module, name=name: wrapt.wrap_function_wrapper(module, f"LocalBackend.{name}", on_disk)
        )
