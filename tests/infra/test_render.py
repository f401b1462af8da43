"""``matteline infra render``: what comes out fits and holds the user's values; what can't work is refused with a sentence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs.main import app
from pipeline.deploy.kustomize import build
from pipeline.deploy.nightly import nightly, overlay_names
from pipeline.deploy.settings import check_schedule
from pipeline.errors import ConfigError

OVERLAYS = Path(__file__).resolve().parents[2] / "infra" / "overlays"
GIVEN = {
    "name": "shoes",
    "image": "registry.example:5000/team/matteline:7-ray2.60.0",
    "manifest": "s3://shop/in/manifest.parquet",
    "output": "gs://shop-out/cut=outs",
    "preset": "mvanet-lite",
    "schedule": "30 1 * * MON-FRI",
    "replicas": "12",
}


def rendered(*more: str) -> list[dict[str, Any]]:
    options = [word for key, value in GIVEN.items() for word in (f"--{key}", value)]
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", "gpu-spot", *options, *more])
    assert done.exit_code == 0, done.exception
    return list(yaml.safe_load_all(done.stdout))


def test_one_command_gives_a_nightly_run(refused: Callable[[list[dict[str, Any]]], list[str]]) -> None:
    objects = rendered()
    (job,) = (thing for thing in objects if thing["kind"] == "RayJob")
    (night,) = (thing for thing in objects if thing["kind"] == "CronJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["entrypoint"].startswith(
        f"matteline run --manifest {GIVEN['manifest']} --output {GIVEN['output']} --preset mvanet-lite "
    )
    assert [cluster["workerGroupSpecs"][0][key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 12]
    assert job["spec"]["entrypoint"].endswith(" --wait-for-gpus 12 --max-actors 12")
    assert (job["metadata"]["name"], night["metadata"]["name"], night["spec"]["schedule"]) == (
        "shoes",
        "shoes",
        GIVEN["schedule"],
    )
    pod = night["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["env"][0] == {"name": "PATTERN", "value": "shoes"}
    (rules,) = (thing["spec"]["groups"][0]["rules"] for thing in objects if thing["kind"] == "PrometheusRule")
    assert re.findall(r'(kube_\w+){cronjob="(.*?)"}', rules[0]["expr"]) == [
        ("kube_cronjob_status_last_successful_time", "shoes"),
        ("kube_cronjob_created", "shoes"),
    ]
    assert str(objects).count(GIVEN["image"]) == 4
    assert "example" not in str(objects).replace(GIVEN["image"], "")
    assert refused(objects) == []


def test_rays_own_schedule_takes_the_place_of_the_other(refused: Callable[[list[dict[str, Any]]], list[str]]) -> None:
    objects = rendered("--ray-cron-job")
    assert {"CronJob", "RayJob"} & {thing["kind"] for thing in objects} == set()
    (night,) = (thing for thing in objects if thing["kind"] == "RayCronJob")
    assert GIVEN["manifest"] in night["spec"]["jobTemplate"]["entrypoint"]
    assert "suspend" not in night["spec"]["jobTemplate"]
    assert refused(objects) == []


@pytest.mark.parametrize("overlay", overlay_names())
def test_what_is_not_given_is_as_the_overlay_says(overlay: str) -> None:
    assert nightly(overlay, {}) == build(OVERLAYS / overlay)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "Shoes", "name"),
        ("name", "s" * 33, "at most 32"),
        ("image", "ghcr.io/example/matteline", "tag"),
        ("image", "ghcr.io/example/matteline:latest", "latest"),
        ("image", "ghcr.io/example/matteline:1-ray2.59.0", "2.59.0"),
        ("manifest", "manifest.parquet", "manifest"),
        ("manifest", "s3://shop/a b.csv", "manifest"),
        ("output", "s3://shop/out;reboot", "output"),
        ("output", "s3://shop/$(id)", "output"),
        ("output", "file:///tmp/out", "every node"),
        ("preset", "--force", "preset"),
        ("replicas", "0", "replicas"),
        ("schedule", "0 2 * *", "five fields"),
        ("schedule", "60 2 * * *", "minute"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        nightly("gpu-spot", {**GIVEN, key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "edited", "said"),
    [
        ('replicas: "4"', "replicas: 8", r'replicas must be text: quote it, replicas: "8"'),
        ("name: matteline", "name: 2026", r'name must be text: quote it, name: "2026"'),
        ("preset: ben2-base", "preset:", 'has no preset: add it, preset: "…"'),
        ("  preset: ben2-base\n", "", 'has no preset: add it, preset: "…"'),
    ],
)
def test_an_edit_that_is_no_text_is_refused_with_its_mend(line: str, edited: str, said: str, tmp_path: Path) -> None:
    infra = shutil.copytree(OVERLAYS.parent, tmp_path / "infra")
    path = infra / "overlays" / "gpu-spot" / "settings.yaml"
    text = path.read_text(encoding="utf-8")
    assert line in text
    path.write_text(text.replace(line, edited), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        nightly("gpu-spot", {}, infra=infra)


def test_settings_without_data_are_refused(tmp_path: Path) -> None:
    infra = shutil.copytree(OVERLAYS.parent, tmp_path / "infra")
    path = infra / "overlays" / "gpu-spot" / "settings.yaml"
    path.write_text(path.read_text(encoding="utf-8").partition("data:")[0] + "data:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no name"):
        nightly("gpu-spot", {}, infra=infra)


def test_an_unknown_overlay_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'tpu'; there are cpu, gpu-spot, kind"):
        nightly("tpu", GIVEN)


def test_without_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkout"):
        nightly("cpu", GIVEN, infra=tmp_path)


def test_more_of_kustomize_than_is_understood_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nhelmCharts: []\n")
    with pytest.raises(ConfigError, match="helmCharts"):
        build(tmp_path)


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/15 0-6 1,15 * *", "0 22 * jan-mar/2 1-5", "5 4 * * SUN"])
def test_schedules_that_kubernetes_takes(schedule: str) -> None:
    check_schedule(schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "@daily",
        "0 24 * * *",
        "0 2 0 * *",
        "0 2 * 13 *",
        "0 2 * * 7",
        "5-1 2 * * *",
        "*/0 2 * * *",
        "a 2 * * *",
        "1,, 2 * * *",
    ],
)
def test_schedules_that_kubernetes_refuses(schedule: str) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        check_schedule(schedule)
