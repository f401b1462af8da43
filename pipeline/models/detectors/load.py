"""Load a detector. Imports PyTorch and transformers only for a detector that needs them."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.detector import Detector
from pipeline.models.detectors.detector import Find


def load_detector(settings: Detector, path: Path, *, device: str, threads: int | None) -> Find:
    """Load a detector.

    Args:
        settings: Resolved settings.
        path: Its file or folder, as ``files.resolve_detector`` returns it.
        device: ``auto``, ``cpu`` or ``cuda``; ``nanodet`` uses the CPU in any case.
        threads: CPU threads; default: the library's choice.

    Raises:
        ConfigError: There is no such device.
        WeightsError: A file cannot be used.
    """
    if settings.model == "nanodet":
        from pipeline.models.detectors.nanodet import NanoDet  # imports ONNX Runtime

        return NanoDet(settings, path, threads=threads)
    from pipeline.models.detectors.zero_shot import ZeroShotDetector  # imports PyTorch and transformers

    return ZeroShotDetector(settings, path, device=device, threads=threads)
