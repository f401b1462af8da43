"""Load a detector. Imports PyTorch and transformers only then."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.detector import Detector
from pipeline.models.detectors.detector import Find


def load_detector(settings: Detector, folder: Path, *, device: str, threads: int | None) -> Find:
    """Load a detector.

    Args:
        settings: Resolved settings.
        folder: Its files, as ``files.resolve_detector`` returns them.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; default: the library's choice.

    Raises:
        ConfigError: There is no such device.
        WeightsError: A file cannot be used.
    """
    from pipeline.models.detectors.zero_shot import ZeroShotDetector  # imports PyTorch and transformers

    return ZeroShotDetector(settings, folder, device=device, threads=threads)
