"""Make tiny detectors with random weights, in the layout of the Hugging Face hub. No network is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ("cup", "red", "potted", "plant", "chair", "shoe", "bag", "lamp", "a", "photo", "of")
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
"""Their ids in BERT's vocabulary, which GroundingDINO's code relies on."""


def make_grounding_dino(folder: Path) -> Path:
    """Save a GroundingDINO of 64 pixels with a vocabulary of a dozen words."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        SwinConfig,
    )
    from transformers.models.grounding_dino.image_processing_grounding_dino import GroundingDinoImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [SPECIAL.get(number, f"[unused{number}]") for number in range(1040)]
    vocabulary[200 : 200 + len(WORDS)] = WORDS
    vocabulary[300:326] = [chr(ord("a") + number) for number in range(26)]
    vocabulary[400:426] = [f"##{chr(ord('a') + number)}" for number in range(26)]
    vocabulary[200 + WORDS.index("a")] = "[unused300]"
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(words), do_lower_case=True)
    torch.manual_seed(1)
    swin = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=256,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=12, num_feature_levels=4,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config).eval()
    _scale(model, 4)
    model.save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def make_owlv2(folder: Path) -> Path:
    """Save an OWLv2 of 64 pixels whose text encoder reads bytes."""
    import torch
    from transformers import CLIPTokenizerFast, Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.owlv2.image_processing_owlv2 import Owlv2ImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(number) for number in range(33, 127)]
    tokens = ["!", *letters[1:], *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=48)
    torch.manual_seed(2)
    end = len(tokens) - 1
    shared: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={
            **shared, "vocab_size": len(tokens), "max_position_embeddings": 48, "bos_token_id": end - 1, "eos_token_id": end,
            "pad_token_id": 0,
        },
        vision_config={**shared, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    model = Owlv2ForObjectDetection(config).eval()
    _scale(model.box_head, 0.05)  # or all boxes are as large as the image, and all scores 0 or 1
    _scale(model.class_head, 0.3)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)
    return folder


def _scale(model: Any, factor: float) -> None:
    """Multiply the weights, so that scores and boxes differ from query to query, but not too much."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
