"""Detectors that take any name: GroundingDINO and OWLv2, as implemented in transformers."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline.config.detector import Detector
from pipeline.errors import ConfigError, ItemError, PromptError, SegmentError, WeightsError
from pipeline.models.detectors.detector import Detection
from pipeline.models.devices import choose_device_type
from pipeline.models.engines.forks import note_load
from pipeline.models.failures import first_line, segment_errors
from pipeline.models.forward import compute_in_full
from pipeline.types import Box, Pixels

CLASSES = {
    "grounding-dino": ("GroundingDinoForObjectDetection", "GroundingDinoProcessor"),
    "owlv2": ("Owlv2ForObjectDetection", "Owlv2Processor"),
}
"""Classes of network and processor by ``detector.model``. They are ours to name: a file cannot choose another class."""

SEPARATOR = "."
"""Ends every name in GroundingDINO's text."""

TEMPLATE = "a photo of a {}"
"""The sentence that OWLv2 was trained with."""

Inputs = Mapping[str, Tensor]


class ZeroShotDetector:
    """A ``Find`` with a network of transformers.

    Args:
        settings: Resolved settings.
        folder: Files, as ``files.resolve_detector`` returns them.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; default: PyTorch's choice.

    Raises:
        ConfigError: There is no such device.
        WeightsError: A file cannot be used.
    """

    def __init__(self, settings: Detector, folder: Path, *, device: str, threads: int | None) -> None:
        note_load()
        if threads is not None:
            torch.set_num_threads(threads)
        self.settings = settings
        self.device: str = choose_device_type(device)
        if settings.precision == "fp16" and self.device == "cpu":
            raise ConfigError("recipe.detector.precision=fp16 is for GPUs; use fp32 on a CPU")
        self.model, self.processor = _load(settings, folder)
        compute_in_full(self.device)
        self.model.to(self.device)
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time

    def __call__(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
        """See ``Find``. Images are run together if the network sees them at the same size; padding would change results."""
        results: dict[int, list[Detection] | ItemError] = {}
        groups: dict[tuple[int, ...], list[int]] = {}
        inputs: dict[int, Inputs] = {}
        with self._lock, segment_errors(len(images)), torch.inference_mode():
            for number, (image, wanted) in enumerate(zip(images, names, strict=True)):
                try:
                    inputs[number] = one = self._inputs(image, wanted)
                except PromptError as error:
                    results[number] = error.with_traceback(None)  # it leads to this frame, and so to all images
                    continue
                groups.setdefault(self._shape(one), []).append(number)
            for numbers in groups.values():
                found = self._forward([inputs[number] for number in numbers])
                for number, (logits, boxes) in zip(numbers, found, strict=True):
                    if logits.isnan().any() or not boxes.isfinite().all():
                        results[number] = SegmentError("the detector returned numbers that are not finite")
                        continue
                    results[number] = self._detections(logits, boxes, images[number], names[number], inputs[number])
        return [results[number] for number in range(len(images))]

    def _inputs(self, image: Pixels, names: tuple[str, ...]) -> Inputs:
        """Return the network's input for one image.

        Raises:
            PromptError: The names are longer than the network's input, or nothing is left of one.
        """
        if self.settings.model == "owlv2":
            texts = [TEMPLATE.format(name) for name in names]
            self._check_sentences(names, texts)
            encoded: Inputs = self.processor(images=[image], text=[texts], return_tensors="pt", truncation=True)
            return encoded
        plain = [_plain(name) for name in names]
        if not all(plain):
            raise PromptError(f"the name {names[plain.index('')]!r} has no letters; give a noun, such as 'potted plant'")
        text = " ".join(f"{one}{SEPARATOR}" for one in plain)
        config = self.model.config
        limit = min(config.max_text_len, config.text_config.max_position_embeddings)
        count = len(self.processor.tokenizer(text)["input_ids"])
        if count > limit:
            raise PromptError(
                f"the {len(names)} names have {count} tokens together, and the detector takes {limit}; give fewer"
            )
        encoded = self.processor(images=[image], text=[text], return_tensors="pt")
        return encoded

    def _check_sentences(self, names: tuple[str, ...], texts: list[str]) -> None:
        """Refuse a name of which OWLv2 would see only the beginning. Each has a sentence of its own.

        Raises:
            PromptError: It names the first one.
        """
        limit = self.model.config.text_config.max_position_embeddings
        for name, ids in zip(names, self.processor.tokenizer(texts)["input_ids"], strict=True):
            if len(ids) > limit:
                raise PromptError(
                    f"the name {name[:40]!r}… has {len(ids)} tokens in its sentence, and the detector takes {limit}; give a "
                    "shorter one"
                )

    def _shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Return what inputs must share to be run together: the image's size, and for OWLv2 the number of names."""
        shape = tuple(inputs["pixel_values"].shape)
        return (*shape, len(inputs["input_ids"])) if self.settings.model == "owlv2" else shape

    def _forward(self, items: Sequence[Inputs]) -> list[tuple[Tensor, Tensor]]:
        """Return logits (queries, tokens or names) and boxes (queries, 4) of each item, in float32 on the CPU."""
        longest = max(one["input_ids"].shape[1] for one in items)
        batch = {key: torch.cat([_padded(one[key], key, longest) for one in items]).to(self.device) for key in items[0]}
        try:
            with torch.autocast("cuda", torch.float16, enabled=self.settings.precision == "fp16"):
                outputs = self.model(**batch)
        except ValueError as error:  # transformers' checks, such as of images whose feature maps have no pixel left
            raise SegmentError(f"the detector failed: {first_line(error)}") from error
        return list(zip(outputs.logits.float().cpu(), outputs.pred_boxes.float().cpu(), strict=True))

    def _detections(
        self, logits: Tensor, boxes: Tensor, image: Pixels, names: tuple[str, ...], inputs: Inputs
    ) -> list[Detection]:
        """Return the boxes above the threshold, as transformers' post-processing does, with the most likely name of each."""
        height, width = image.shape[:2]
        if self.settings.model == "owlv2":  # its images are padded to a square
            height = width = max(height, width)
        p = logits.sigmoid()
        scores = p.amax(1)
        centre, size = boxes[:, :2], boxes[:, 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], 1) * torch.tensor([width, height, width, height])
        labels = self._by_name(p, names, inputs).argmax(1)
        return [
            Detection(Box(*corners[query].tolist()), scores[query].item(), names[int(labels[query])])
            for query in (scores > self.settings.threshold).nonzero().flatten().tolist()
        ]

    def _by_name(self, p: Tensor, names: tuple[str, ...], inputs: Inputs) -> Tensor:
        """Return the probability of each name for each query (queries, names)."""
        if self.settings.model == "owlv2":
            return p
        ids = inputs["input_ids"][0].tolist()
        end = self.processor.tokenizer.convert_tokens_to_ids(SEPARATOR)
        columns, tokens = [], list[int]()
        for position, token in enumerate(ids[1:], 1):  # the first one starts the text
            if token != end:
                tokens.append(position)
                continue
            columns.append(p[:, tokens].amax(1) if tokens else torch.zeros(len(p)))
            tokens = []
        assert len(columns) == len(names), "every name ends in one separator"
        return torch.stack(columns, 1)


def _load(settings: Detector, folder: Path) -> tuple[Any, Any]:
    """Load network and processor, without code from files and without network access.

    Raises:
        WeightsError: A file cannot be used.
    """
    network, processor = (getattr(transformers, name) for name in CLASSES[settings.model])
    safe = {"local_files_only": True, "trust_remote_code": False}
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config = network.config_class.from_pretrained(folder, **safe)
        config.disable_custom_kernels = True  # they would be compiled on first use
        model, report = network.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **safe,
        )
        loaded = processor.from_pretrained(folder, **safe)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the detector {settings.weights} can't be loaded: {first_line(error)}") from error
    if report["missing_keys"]:
        raise WeightsError(
            f"the detector {settings.weights} lacks weights, such as {min(report['missing_keys'])}; download it again"
        )
    return model.eval().requires_grad_(False), loaded


def _plain(name: str) -> str:
    """Return a name in lower case, without the characters that end a name in GroundingDINO's text."""
    return " ".join(re.sub(r"[.?]", " ", name).lower().split())


def _padded(tensor: Tensor, key: str, length: int) -> Tensor:
    """Fill up the texts of one item with zeros, which stand for no token and are masked."""
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1])) if "pixel" not in key else tensor
