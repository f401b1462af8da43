"""Compare a mask with its ground truth by the metrics of the literature, each variant under a name of its own.

PySODMetrics (https://github.com/lartpang/PySODMetrics, MIT licence) computes all metrics that it has, so they compare with
published tables. Alpha is not normalised: the library's default, ``normalize=True``, stretches each prediction to [0, 1], which
turns a uniformly grey mask of the right shape into a perfect one.

In the formulas p is the mask / 255 and g the ground truth, 1 above level 128 (PySODMetrics' rule); a is the ground truth / 255.
A *curve* holds a metric of p ≥ t for 256 thresholds t = 255/255, 254/255, …, 0; *mean* and *max* are those of the curve.
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
"""Width of boundary IoU's boundary, as a share of the diagonal."""

Curve = npt.NDArray[np.float64]
"""(256,), the threshold falling from 255/255 to 0."""


class Metric(NamedTuple):
    """Column of the evaluation."""

    name: str
    title: str
    about: str
    """Formula, range and source."""
    lower_is_better: bool = False


_E = "φ = (1 + ξ)² / 4 with ξ = 2·p̂ĝ / (p̂² + ĝ²) of the centred masks, Σφ / (N - 1); [0, N/(N - 1)]; Fan et al., IJCAI 2018"
_F = "1.3·P·R / (0.3·P + R), so β² = 0.3; [0, 1]; Achanta et al., CVPR 2009"
_DICE = "2·TP / (2·TP + FP + FN); [0, 1]; Dice 1945"
_ADAPTIVE = "p ≥ min(2·mean(p), 1)"
_RHEMANN = "Rhemann et al., CVPR 2009, as in Xu et al., CVPR 2017; the complete picture, soft ground truth"

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
        "IoU of what an erosion by round(0.02·diagonal) removes from p > 0.5 and from g; [0, 1]; Cheng et al., CVPR 2021",
    ),
    Metric(
        "hce",
        "HCE",
        "clicks that correct the mask, γ = 5, ε = 2; 0 and more; Qin et al., ECCV 2022; only with --hce",
        lower_is_better=True,
    ),
    Metric("mae_soft", "MAE soft", "mean |p - a|; [0, 1]; as mae, for soft ground truth", lower_is_better=True),
    Metric("sad", "SAD", f"Σ|p - a| / 1000; 0 and more; {_RHEMANN}", lower_is_better=True),
    Metric("mse", "MSE", f"mean (p - a)²; [0, 1]; {_RHEMANN}", lower_is_better=True),
    Metric("grad", "Grad", f"Σ(|∇p| - |∇a|)² / 1000, σ = 1.4; 0 and more; {_RHEMANN}", lower_is_better=True),
    Metric("conn", "Conn", f"Σ|φ(p) - φ(a)| / 1000, θ = 0.15, step 0.1; 0 and more; {_RHEMANN}", lower_is_better=True),
)
CURVES = {"e_curve": "e_max", "dice_curve": "dice_max", "f_curve": "f_max"}
"""Curves, and a data set's metric that is the maximum of their mean."""


@dataclass(frozen=True)
class Measured:
    """All metrics of one mask."""

    values: dict[str, float | None]
    """Values by name. None: not requested, or undefined (S if the ground truth's centre is in the last row or column, E of a
    single pixel)."""
    curves: dict[str, Curve]


def check_library() -> None:
    """Check that PySODMetrics is installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("py_sod_metrics") is None:
        raise ConfigError("evaluating needs one more package: pip install 'matteline[evaluate]'")


def measure(mask: Mask, ground_truth: Mask, *, hce: bool = False) -> Measured:
    """Compute all metrics of a mask (H, W), uint8, against ground truth of the same shape.

    ``hce`` adds human correction efforts, which take several times as long as all others.

    Raises:
        ValueError: The shapes differ, or there are no pixels.
    """
    if mask.shape != ground_truth.shape or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask of shape {mask.shape} cannot be compared with ground truth of shape {ground_truth.shape}")
    alpha, true = mask / 255, ground_truth > TRUE_ABOVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of empty sets, which become None below
        values, curves = _by_library(alpha, true, hce=hce)
    soft, soft_ground_truth = as_alpha(mask), as_alpha(ground_truth)
    values["boundary_iou"] = boundary_iou(alpha > 0.5, true)
    values["mae_soft"] = float(np.abs(soft - soft_ground_truth).mean(dtype=np.float64))
    values |= matting_errors(soft, soft_ground_truth)._asdict()
    defined = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
    if mask.size == 1:
        defined |= dict.fromkeys(("e_adaptive", "e_mean", "e_max"))
    return Measured({metric.name: defined.get(metric.name) for metric in METRICS}, curves)


def boundary_iou(mask: npt.NDArray[np.bool_], ground_truth: npt.NDArray[np.bool_]) -> float:
    """Compute the IoU of two masks' (H, W) boundaries: pixels within 2 % of the diagonal from the contour or the border.

    0 if both are empty, as PySODMetrics defines IoU.
    """
    width = max(1, round(BOUNDARY * math.hypot(*ground_truth.shape)))
    one, other = _boundary(mask, width), _boundary(ground_truth, width)
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def _boundary(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Return the pixels that erosion removes. Outside the picture is background."""
    # ``width`` erosions by 3 x 3 equal one by a larger square, which is faster.
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
    handlers = [sod.MAE(), sod.Smeasure(), sod.Emeasure(), sod.WeightedFmeasure(), thresholded]
    if hce:
        handlers.append(sod.HumanCorrectionEffortMeasure())
    results: dict[str, Any] = {}
    for handler in handlers:
        handler.step(alpha, true, normalize=False)
        results |= handler.get_results()
    curves = {"e_curve": results["em"]["curve"], "dice_curve": results["dice"]["dynamic"], "f_curve": results["f"]["dynamic"]}
    values: dict[str, float | None] = {
        "mae": float(results["mae"]),
        "s_measure": float(results["sm"]),
        "e_adaptive": float(results["em"]["adp"]),
        "dice_binary": float(results["dice"]["binary"]),
        "dice_adaptive": float(results["dice"]["adaptive"]),
        "f_adaptive": float(results["f"]["adaptive"]),
        "weighted_f": float(results["wfm"]),
        "iou": float(results["iou"]["binary"]),
        "hce": float(results["hce"]) if hce else None,
    }
    for name, curve in curves.items():
        kind = name.removesuffix("_curve")
        values |= {f"{kind}_mean": float(curve.mean()), f"{kind}_max": float(curve.max())}
    return values, curves
