"""Fetch and pin the files of a detector. Imports neither PyTorch nor transformers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from pipeline.config.common_names import COMMON_NAMES
from pipeline.config.detector import Detector
from pipeline.errors import ConfigError, WeightsError
from pipeline.storage.files import Files
from pipeline.storage.model_folder import fetch_folder
from pipeline.storage.weights_cache import fetch_weights

REQUIRED = ("config.json", "model.safetensors", "tokenizer_config.json")
NAMES = (
    *REQUIRED,
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
)
"""The files that a detector is loaded from: JSON, texts and safetensors. None of them can hold code."""

PARTS = {"backbone_config": ("swin",), "text_config": ("bert", "owlv2_text_model"), "vision_config": ("owlv2_vision_model",)}
"""Values of ``model_type`` of the networks inside a detector. Others could be fetched from the hub by transformers."""

REFERENCES = frozenset(
    {"auto_map", "backbone", "use_timm_backbone", "use_pretrained_backbone", "attn_implementation", "_attn_implementation"}
)
"""Keys of a config.json by which transformers fetches code, kernels or weights from elsewhere."""


def resolve_detector(detector: Detector, files: Files, *, gpu: bool) -> tuple[Detector, Path]:
    """Fetch a detector's files, pin them by hash, and choose its precision.

    Args:
        detector: Its settings.
        files: Access to storage.
        gpu: Whether it will run on a GPU; ``precision: auto`` depends on it.

    Returns:
        The settings with all values fixed, and its file or the folder of its files on this machine.

    Raises:
        ConfigError: transformers is not installed, or a CPU cannot compute in the precision.
        WeightsError: A file cannot be fetched or used, or the hash differs.
    """
    if detector.model == "nanodet":
        return _resolve_file(detector, files)
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"the detector {detector.preset or detector.model} needs transformers; install it with: pip install "
            f"'matteline[names]', or use one of the {len(COMMON_NAMES)} names that need none (matteline models --names)"
        )
    if detector.precision == "fp16" and not gpu:
        raise ConfigError("recipe.detector.precision=fp16 is for GPUs; use auto or fp32 on a CPU")
    folder, sha256 = fetch_folder(detector.weights, NAMES, REQUIRED, detector.weights_sha256, files)
    check_config(folder, detector)
    precision = detector.precision if detector.precision != "auto" else "fp16" if gpu else "fp32"
    return detector.model_copy(update={"weights_sha256": sha256, "precision": precision}), folder


def _resolve_file(detector: Detector, files: Files) -> tuple[Detector, Path]:
    """Fetch and pin a detector that is one file, and computes in fp32 on all machines; errors as ``resolve_detector``."""
    if detector.precision == "fp16":
        raise ConfigError(f"recipe.detector.precision=fp16 is not for {detector.model}; use auto or fp32")
    path, sha256 = fetch_weights(detector.weights, detector.weights_sha256, files)
    return detector.model_copy(update={"weights_sha256": sha256, "precision": "fp32"}), path


def check_config(folder: Path, detector: Detector) -> None:
    """Refuse a folder of another model, or one that refers to further files or to code.

    Raises:
        WeightsError: It says what is wrong.
    """
    pairs: list[tuple[str, Any]] = []

    def note(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.extend(found)
        return dict(found)

    try:
        config = json.loads((folder / "config.json").read_bytes(), object_pairs_hook=note)
        kind = config.get("model_type")
        parts = {name: (config.get(name) or {}).get("model_type") for name in PARTS}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{detector.weights}: its config.json can't be read ({type(error).__name__})") from error
    if kind != detector.model:
        raise WeightsError(
            f"{detector.weights} holds a model of the type {str(kind)[:40]!r}, but recipe.detector.model is {detector.model}"
        )
    odd = next((str(one)[:40] for name, one in parts.items() if one is not None and one not in PARTS[name]), None)
    if odd or any(key in REFERENCES and value not in (None, False, "eager", "sdpa") for key, value in pairs):
        raise WeightsError(
            f"{detector.weights}: its config.json refers to {odd or 'code or further files'}, which is not loaded"
        )
