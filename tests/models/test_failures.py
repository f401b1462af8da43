"""Errors of a forward pass: those of an item, and those that end the process. A GPU is stood in for."""

from __future__ import annotations

import cv2
import pytest
import torch

from pipeline.errors import SegmentError
from pipeline.models.failures import BrokenDevice, segment_errors

CUBLAS = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A process that has used its GPU; what is in the list is raised when it waits for the GPU."""
    faults: list[Exception] = []

    def synchronize() -> None:
        for fault in faults:
            raise fault

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    return faults


def test_opencv_without_memory_fails_the_item() -> None:
    with pytest.raises(SegmentError, match="failed on a batch of 2: .*Insufficient memory"), segment_errors(2):
        raise cv2.error("OpenCV(5.0.0) error: (-4:Insufficient memory) Failed to allocate 24000000000 bytes")


def test_an_ordinary_error_of_a_lost_gpu_ends_the_process(gpu: list[Exception]) -> None:
    gpu.append(torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700))
    with pytest.raises(BrokenDevice, match="illegal memory access"), segment_errors(1):
        raise RuntimeError(CUBLAS)


def test_an_error_on_a_gpu_that_works_fails_the_item(gpu: list[Exception]) -> None:
    with pytest.raises(SegmentError, match="CUBLAS"), segment_errors(1):
        raise RuntimeError(CUBLAS)
    gpu.append(RuntimeError("something else"))
    with pytest.raises(SegmentError, match="CUBLAS"), segment_errors(1):
        raise RuntimeError(CUBLAS)
    gpu[:] = [AssertionError("nobody waits for a GPU that has too little memory")]
    with pytest.raises(SegmentError, match="out of GPU memory with 3 frames"), segment_errors(3):
        raise torch.OutOfMemoryError("CUDA out of memory")
