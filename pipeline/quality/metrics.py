"""How good a mask is, given the true one: the numbers that the field reports, each variant under a name of its own.

Whatever PySODMetrics (https://github.com/lartpang/PySODMetrics, MIT licence) has is computed by it, so that it can be held
against published tables. Alpha goes in as it is: the library's default, ``normalize=True``, stretches every prediction to
[0, 1] first, which would turn a mask that is grey all over into a perfect one.

In the formulas p is the mask / 255 and g the truth, 1 above level 128 (PySODMetrics' rule); a is the truth / 255. A *curve*
holds a metric of p ≥ t for 256 thresholds t = 255/255, 254/255, …, 0; *mean* and *max* are those of the curve.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.quality.matting import matting_errors
from pipeline.types import Mask, as_alpha

THRESHOLDS = 256
TRUE_ABOVE = 128
BOUNDARY = 0.02
"""Width of the boundary that boundary IoU looks at, as a share of the diagonal."""

Curve = npt.NDArray[np.float64]
"""(256,): the metric with the threshold falling from 255/255 to 0."""


class Metric(NamedTuple):
    """A column of the evaluation."""

    name: str
    title: str
    about: str
    """Formula, range, source."""
    lower_is_better: bool = False


_E = "φ = (1 + ξ)² / 4 with ξ = 2·p̂ĝ / (p̂² + ĝ²) of the centred masks, Σφ / (N - 1); [0, N/(N - 1)]; Fan et al., IJCAI 2018"
_F = "1.3·P·R / (0.3·P + R), so β² = 0.3; [0, 1]; Achanta et al., CVPR 2009"
_DICE = "2·TP / (2·TP + FP + FN); [0, 1]; Dice 1945"
_ADAPTIVE = "p ≥ min(2·mean(p), 1)"
_RHEMANN = "Rhemann et al., CVPR 2009, as in Xu et al., CVPR 2017; the whole picture, soft truth"

METRICS = (
    Metric("mae", "MAE", "mean |p - g|; [0, 1]; Perazzi et al., CVPR 2012", lower_is_better=True),
    Metric("s_measure", "S", "½ object + ½ region similarity of p and g; [0, 1]; Fan et al., ICCV 2017"),
    Metric("e_adaptive", "E adaptive", f"of {_ADAPTIVE}: {_E}"),
    Metric("e_mean", "E mean", f"mean of the curve: {_E}"),
    Metric("e_max", "E max", f"maximum of the curve: {_E}"),
    Metric("dice_binary", "Dice", f"of p > 0.5: {_DICE}"),
    Metric("dice_adaptive", "Dice adaptive", f"of {_ADAPTIVE}: {_DICE}"),
    Metric("dice_mean", "Dice mean", f"mean of the curve: {_DICE}"),
    Metric("dice_max", "Dice max", f"maximum of the curve: {_DICE}"),
    Metric("f_adaptive", "F adaptive", f"of {_ADAPTIVE}: {_F}"),
    Metric("f_mean", "F mean", f"mean of the curve: {_F}"),
    Metric("f_max", "F max", f"maximum of the curve: {_F}"),
    Metric(
        "weighted_f", "weighted F", "2·P·R / (P + R) of errors weighted by place, β² = 1; [0, 1]; Margolin et al., CVPR 2014"
    ),
    Metric("iou", "IoU", "of p > 0.5: TP / (TP + FP + FN); [0, 1]; Jaccard 1912"),
    Metric(
        "boundary_iou",
        "boundary IoU",
        "IoU of what an erosion by round(0.02·diagonal) takes from p > 0.5 and from g; [0, 1]; Cheng et al., CVPR 2021",
    ),
    Metric(
        "hce",
        "HCE",
        "clicks that mend the mask, γ = 5, ε = 2; 0 and more; Qin et al., ECCV 2022; only with --hce",
        lower_is_better=True,
    ),
    Metric("mae_soft", "MAE soft", "mean |p - a|; [0, 1]; as mae, for soft truth", lower_is_better=True),
    Metric("sad", "SAD", f"Σ|p - a| / 1000; 0 and more; {_RHEMANN}", lower_is_better=True),
    Metric("mse", "MSE", f"mean (p - a)²; [0, 1]; {_RHEMANN}", lower_is_better=True),
    Metric("grad", "Grad", f"Σ(|∇p| - |∇a|)² / 1000, σ = 1.4; 0 and more; {_RHEMANN}", lower_is_better=True),
    Metric("conn", "Conn", f"Σ|φ(p) - φ(a)| / 1000, θ = 0.15, step 0.1; 0 and more; {_RHEMANN}", lower_is_better=True),
)
CURVES = {"e_curve": "e_max", "dice_curve": "dice_max", "f_curve": "f_max"}
"""Curves, and the metric of a data set that is the maximum of their mean."""


@dataclass(frozen=True)
class Measured:
    """All metrics of one mask."""

    values: dict[str, float | None]
    """By name. None: not asked for, or not defined for such a truth (S where its centre lies in the last row or column, E of a
    single pixel)."""
    curves: dict[str, Curve]


def check_library() -> None:
    """Refuse before work.

    Raises:
        ConfigError: PySODMetrics isn't installed.
    """
    if find_spec("py_sod_metrics") is None:
        raise ConfigError("evaluating needs one more package: pip install 'matteline[evaluate]'")


def measure(mask: Mask, truth: Mask, *, hce: bool = False) -> Measured:
    """Every metric of a mask, (H, W) uint8, against the true one of the same shape.

    Args:
        hce: human correction efforts too, which take as long as all others several times over.

    Raises:
        ValueError: they aren't of one shape, or without a pixel.
    """
    if mask.shape != truth.shape or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask of shape {mask.shape} can't be held against a truth of {truth.shape}")
    alpha, true = mask / 255, truth > TRUE_ABOVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing, which become None below
        values, curves = _by_library(alpha, true, hce=hce)
    soft, soft_truth = as_alpha(mask), as_alpha(truth)
    values["boundary_iou"] = boundary_iou(alpha > 0.5, true)
    values["mae_soft"] = float(np.abs(soft - soft_truth).mean(dtype=np.float64))
    values |= matting_errors(soft, soft_truth)._asdict()
    defined = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
    if mask.size == 1:
        defined |= dict.fromkeys(("e_adaptive", "e_mean", "e_max"))
    return Measured({metric.name: defined.get(metric.name) for metric in METRICS}, curves)


def boundary_iou(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """IoU of two masks' boundaries, (H, W) each: their pixels within 2 % of the diagonal from their contour or the border.

    0 where both are empty, as PySODMetrics has it for IoU.
    """
    width = max(1, round(BOUNDARY * math.hypot(*truth.shape)))
    one, other = _boundary(mask, width), _boundary(truth, width)
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def _boundary(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """What erosion takes: the picture's border counts as background."""
    # So many erosions by 3 x 3 are one by a larger square, and that is quick.
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inner == 0))


def _by_library(
    alpha: npt.NDArray[np.float64], true: npt.NDArray[np.bool_], *, hce: bool
) -> tuple[dict[str, float | None], dict[str, Curve]]:
    import py_sod_metrics as sod

    thresholded = sod.FmeasureV2(
        {
            "dice": sod.DICEHandler(with_dynamic=True, with_adaptive=True, with_binary=True),
            "f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3),
            "iou": sod.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True),
        }
    )
    meters: dict[str, Any] = {
        "mae": sod.MAE(),
        "s": sod.Smeasure(),
        "e": sod.Emeasure(),
        "wf": sod.WeightedFmeasure(),
        "thresholded": thresholded,
    }
    if hce:
        meters["hce"] = sod.HumanCorrectionEffortMeasure()
    found: dict[str, Any] = {}
    for counters in meters.values():
        counters.step(alpha, true, normalize=False)
        found |= counters.get_results()
    curves = {"e_curve": found["em"]["curve"], "dice_curve": found["dice"]["dynamic"], "f_curve": found["f"]["dynamic"]}
    values: dict[str, float | None] = {
        "mae": float(found["mae"]),
        "s_measure": float(found["sm"]),
        "e_adaptive": float(found["em"]["adp"]),
        "dice_binary": float(found["dice"]["binary"]),
        "dice_adaptive": float(found["dice"]["adaptive"]),
        "f_adaptive": float(found["f"]["adaptive"]),
        "weighted_f": float(found["wfm"]),
        "iou": float(found["iou"]["binary"]),
        "hce": float(found["hce"]) if hce else None,
    }
    for name, curve in curves.items():
        kind = name.removesuffix("_curve")
        values |= {f"{kind}_mean": float(curve.mean()), f"{kind}_max": float(curve.max())}
    return values, curves
