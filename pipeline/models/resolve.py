"""Resolve a recipe: fetch the files that it names, pin them by hash, choose its precision and threshold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.job import Limits
from pipeline.config.presets import Preset, load_preset
from pipeline.config.recipe import REVIEW_BELOW, Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.backgrounds import Backgrounds, pin_backgrounds, pin_video_background
from pipeline.models.detectors.files import resolve_detector
from pipeline.models.devices import can_run_on_gpu
from pipeline.models.layouts import FP16_LAYOUTS, layout_of
from pipeline.paths import WEIGHTS
from pipeline.quality.calibration import Calibration, load_calibration
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with all hashes known, a fixed precision and a fixed threshold, and its files on this machine."""

    recipe: Recipe
    weights: Path | None
    """None for a model without weights."""
    refiner_weights: Path | None
    """None for a refiner without weights."""
    calibration: Calibration | None
    """None: scores are not calibrated."""
    backgrounds: Backgrounds
    """Background pictures of the renditions and of videos."""
    detector: Path | None = None
    """File of the detector, or folder of its files; None without a detector."""
    second: ResolvedRecipe | None = None
    """The second model's; None without one."""

    def check(self, engine: str, *, headers_only: bool = False) -> None:
        """Refuse unusable weights without loading them.

        Args:
            engine: As ``compute.engine``.
            headers_only: As for ``check_files``.

        Raises:
            ConfigError: Recipe and engine do not fit together.
            WeightsError: A file is not of the layout that the recipe names.
        """
        from pipeline.models.check import check_files

        check_files(self.recipe, self.weights, self.refiner_weights, engine, headers_only=headers_only)
        if self.second is not None:
            with _of_the_second():
                self.second.check(engine, headers_only=headers_only)


def resolve(recipe: Recipe, files: Files, *, gpu: bool, limits: Limits | None = None) -> ResolvedRecipe:
    """Fetch and pin everything that a recipe names, and choose ``precision`` and ``review_below``.

    Resolving a resolved recipe changes nothing.

    Args:
        recipe: The recipe.
        files: Access to storage.
        gpu: Whether models that can run on a GPU will. ``recipe.precision=auto`` depends on it, and the detector's, which runs
            where the model does.
        limits: Limits of background pictures; default ``Limits()``.

    Raises:
        ConfigError: A background cannot be used.
        WeightsError: A weights or calibration file cannot be fetched, or does not match its hash. The same for a detector.
    """
    renditions, backgrounds = pin_backgrounds(recipe.renditions, files, limits or Limits())
    recipe, of_videos = pin_video_background(recipe, files, limits or Limits())
    backgrounds |= of_videos
    uris = {
        "weights": "" if recipe.model == "fake" else recipe.weights,
        "refiner_weights": recipe.refiner_weights or (str(WEIGHTS / "cgm.safetensors") if recipe.refiner == "cgm" else ""),
        "calibration": recipe.calibration,
    }
    paths: dict[str, Path | None] = dict.fromkeys(uris)
    pinned: dict[str, object] = {"renditions": renditions}
    for setting, uri in uris.items():
        if uri:
            paths[setting], pinned[f"{setting}_sha256"] = _fetch(setting, uri, getattr(recipe, f"{setting}_sha256"), files)
    detector = None
    if recipe.detector is not None:
        if recipe.detector.many == "each":
            raise ConfigError(
                "recipe.detector.many=each makes several items of one: find their boxes with matteline detect, and run the "
                "manifest that it writes"
            )
        on_gpu = gpu and can_run_on_gpu(recipe.model)
        pinned["detector"], detector = resolve_detector(recipe.detector, files, gpu=on_gpu)
    second = None
    if recipe.second is not None:
        with _of_the_second():
            second = resolve(recipe.second.recipe, files, gpu=gpu, limits=limits)
        pinned["second"] = recipe.second.model_copy(update={"recipe": second.recipe})
    recipe = recipe.model_copy(update=pinned)
    if recipe.precision == "auto":
        recipe = recipe.model_copy(update={"precision": _precision(recipe, paths["weights"], gpu)})
    calibration = load_calibration(recipe, paths["calibration"])
    recipe = with_threshold(recipe, calibration)
    return ResolvedRecipe(recipe, paths["weights"], paths["refiner_weights"], calibration, backgrounds, detector, second)


def _precision(recipe: Recipe, weights: Path | None, gpu: bool) -> str:
    """Choose a precision: fp16 on GPUs for layouts whose alpha it keeps, else fp32.

    All CPUs get the same, so that a run can continue on another machine.

    Raises:
        WeightsError: On a GPU: the weights are of no known layout.
    """
    if not gpu or recipe.model != "mvanet" or weights is None:
        return "fp32"
    layout = layout_of(weights)
    if layout is None:
        from pipeline.models.mvanet.checkpoint import recognise  # imports PyTorch

        layout = recognise(weights)
    return "fp16" if layout in FP16_LAYOUTS else "fp32"


def resolve_finder(recipe: Recipe, files: Files, *, gpu: bool, names: bool = True) -> ResolvedRecipe:
    """Fetch and pin what finds objects without cutting them out: the detector, and with ``many: each`` the model.

    Args:
        recipe: It has a detector.
        files: Access to storage.
        gpu: As for ``resolve``.
        names: False if no item has a name, so that the detector's files are not needed.

    Raises:
        ConfigError: As ``resolve_detector`` and ``resolve``.
        WeightsError: As ``resolve_detector`` and ``resolve``.
    """
    assert recipe.detector is not None, "the recipe has a detector"
    detector, folder = resolve_detector(recipe.detector, files, gpu=gpu) if names else (recipe.detector, None)
    if detector.many != "each":
        return ResolvedRecipe(recipe.model_copy(update={"detector": detector}), None, None, None, {}, folder)
    model = resolve(recipe.without_files().model_copy(update={"detector": None}), files, gpu=gpu)
    return replace(model, recipe=model.recipe.model_copy(update={"detector": detector}), detector=folder)


@contextmanager
def _of_the_second() -> Iterator[None]:
    """Say of an error that the second model has it."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"recipe.second: {error}") from error


def with_threshold(recipe: Recipe, calibration: Calibration | None) -> Recipe:
    """Return the recipe with a number as ``review_below``: its own, else the calibration's, else ``REVIEW_BELOW``."""
    if recipe.review_below is not None:
        return recipe
    chosen = calibration.review_below if calibration is not None else None
    return recipe.model_copy(update={"review_below": REVIEW_BELOW if chosen is None else chosen})


def _fetch(setting: str, uri: str, sha256: str | None, files: Files) -> tuple[Path, str]:
    try:
        return fetch_weights(uri, sha256, files)
    except WeightsError as error:  # its text names the setting of the model's weights
        raise WeightsError(str(error).replace("recipe.weights", f"recipe.{setting}")) from error


def check_licence(preset: Preset, accepted: bool) -> None:
    """Refuse weights that may not be used commercially, unless their licence was accepted. The same for a second model's.

    Raises:
        ConfigError: It was not accepted.
    """
    if preset.recipe.second is not None:
        check_licence(load_preset(preset.recipe.second.preset), accepted)
    if not (preset.commercial or accepted):
        raise ConfigError(
            f"the weights of {preset.recipe.name} are under {preset.licence}, which does not allow free commercial use; "
            "read it and pass --accept-licence (in Python: accept_licence=True)"
        )
