"""``matteline infra render`` writes valid manifests with the user's values, and refuses invalid values in one sentence."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config.job import Job, load_job
from pipeline.config.run_options import RunOptions
from pipeline.deploy.render import kustomize, overlay_names, render
from pipeline.deploy.rules import violations
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


@pytest.fixture
def command(rendered: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """``command(*options)``: what ``matteline infra render`` writes to stdout for the values in GIVEN."""
    rendered("gpu-spot")  # skips the test if neither program is installed

    def run(*more: str) -> list[dict[str, Any]]:
        options = [word for key, value in GIVEN.items() for word in (f"--{key}", value)]
        done = CliRunner().invoke(app, ["infra", "render", "--overlay", "gpu-spot", *options, *more])
        assert done.exit_code == 0, done.exception
        return list(yaml.safe_load_all(done.stdout))

    return run


def test_one_command_writes_a_nightly_run(
    command: Callable[..., list[dict[str, Any]]], refused: Callable[[list[dict[str, Any]]], list[str]]
) -> None:
    objects = command()
    (job,) = (thing for thing in objects if thing["kind"] == "RayJob")
    (cron_job,) = (thing for thing in objects if thing["kind"] == "CronJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["entrypoint"].startswith(
        f"matteline run --manifest {GIVEN['manifest']} --output {GIVEN['output']} --preset mvanet-lite "
    )
    assert [cluster["workerGroupSpecs"][0][key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 12]
    assert job["spec"]["entrypoint"].endswith(" --wait-for-gpus 12 --max-actors 12")
    assert job["metadata"]["name"] == cron_job["metadata"]["name"] == "shoes"
    assert cron_job["spec"]["schedule"] == GIVEN["schedule"]
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["env"][0] == {"name": "PATTERN", "value": "shoes"}
    (rules,) = (thing["spec"]["groups"][0]["rules"] for thing in objects if thing["kind"] == "PrometheusRule")
    assert re.findall(r'(kube_\w+){cronjob="(.*?)"}', rules[0]["expr"]) == [
        ("kube_cronjob_status_last_successful_time", "shoes"),
        ("kube_cronjob_created", "shoes"),
    ]
    assert str(objects).count(GIVEN["image"]) == 4
    assert "example" not in str(objects).replace(GIVEN["image"], "")
    assert refused(objects) == []


def test_a_ray_cron_job_replaces_the_cron_job(
    command: Callable[..., list[dict[str, Any]]], refused: Callable[[list[dict[str, Any]]], list[str]]
) -> None:
    objects = command("--ray-cron-job")
    assert {"CronJob", "RayJob"} & {thing["kind"] for thing in objects} == set()
    (cron_job,) = (thing for thing in objects if thing["kind"] == "RayCronJob")
    assert GIVEN["manifest"] in cron_job["spec"]["jobTemplate"]["entrypoint"]
    assert "suspend" not in cron_job["spec"]["jobTemplate"]
    assert refused(objects) == []


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job with a rendition of the user's own."""
    (tmp_path / "mine.yaml").write_text('trim: 0.05\nbackground: "#f4f1ea"\nformat: jpeg\n')
    settings = {
        "manifest": "s3://shop/in/manifest.parquet",
        "output": {"uri": "s3://shop/out", "name": "{sku}"},
        "recipe": {"renditions": ["amazon-main", str(tmp_path / "mine.yaml")], "review_below": 0.9},
        "budget": {"deadline_s": 21600},
        "storage": {"allow_roots": ["https://cdn.example.com/photos"]},
        "run": {"changed": True},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "job.yaml"


def job_that_runs(objects: list[dict[str, Any]], folder: Path) -> tuple[list[str], Job]:
    """The words of the entrypoint, and the job that it runs."""
    (spec,) = (thing["spec"] for thing in objects if thing["kind"] in ("RayJob", "RayCronJob"))
    spec = spec.get("jobTemplate", spec)
    words = shlex.split(spec["entrypoint"])
    (files,) = (thing for thing in objects if thing["kind"] == "ConfigMap" and thing["metadata"]["name"].endswith("-job"))
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": files["metadata"]["name"]}} in pod["volumes"]
    assert {"name": "job", "mountPath": "/etc/matteline", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    workers = [group["template"]["spec"]["volumes"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
    assert all([volume["name"] for volume in volumes] == ["cache"] for volumes in workers)
    for name, text in files["data"].items():
        (folder / name).write_text(text)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--job"] == "/etc/matteline/job.yaml"
    preset = given["--preset"].replace("/etc/matteline", str(folder))
    made = {"manifest": given["--manifest"], "output": given["--output"], "preset": preset}
    return words, load_job(**made, job_file=str(folder / "job.yaml"))


@pytest.mark.parametrize("overlay", overlay_names())
@pytest.mark.parametrize("way", [(), ("--ray-cron-job",)], ids=["nightly", "nightly-ray"])
def test_a_job_file_goes_to_the_cluster(
    overlay: str,
    way: tuple[str, ...],
    job_file: Path,
    rendered: Callable[..., Any],
    refused: Callable[[list[dict[str, Any]]], list[str]],
    locked_ray: str,
    tmp_path: Path,
) -> None:
    rendered(overlay)  # skips the test if neither program is installed
    more = (
        "--retry",
        "fetch,write",
        "--replace",
        "--allow-root",
        "s3://shop/more",
        "--rendition",
        "transparent",
        "--name",
        "shoes",
    )
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", overlay, "--job", str(job_file), *more, *way])
    assert done.exit_code == 0, done.exception
    objects = list(yaml.safe_load_all(done.stdout))
    (tmp_path / "there").mkdir()
    words, job = job_that_runs(objects, tmp_path / "there")
    assert words[2:8] == ["--manifest", "s3://shop/in/manifest.parquet", "--output", "s3://shop/out", "--preset", "mvanet-lite"]
    assert words[words.index("--deadline") + 1] == "6h"
    assert ("--max-actors" in words) == (overlay == "gpu-spot")
    assert [one.name for one in job.recipe.renditions] == ["amazon-main", "mine", "transparent"]
    assert job.run == RunOptions(changed=True, replace=True, retry=("fetch", "write"))
    assert (job.output.name, job.recipe.review_below, job.compute.ray_address) == ("{sku}", 0.9, "auto")
    assert job.storage.allow_roots == ("https://cdn.example.com/photos", "s3://shop/more")
    assert "shoes-job" in str(objects)
    assert refused(objects) + violations(objects, locked_ray) == []


def test_options_without_a_job_file_add_to_the_overlay(command: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text(
        "about: ours\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\nrecipe: {model: fake, frame_px: 64}\n"
    )
    objects = command("--changed", "--set", "limits.fetch_s=9", "--preset", str(tmp_path / "preset.yaml"))
    words, job = job_that_runs(objects, tmp_path)
    assert words[3:8:2] == [GIVEN["manifest"], GIVEN["output"], "/etc/matteline/preset.yaml"]
    assert (job.run.changed, job.limits.fetch_s, job.recipe.name) == (True, 9.0, "preset")


def test_settings_that_the_overlay_contradicts_are_refused(command: Callable[..., Any]) -> None:
    command()
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", "gpu-spot", "--set", "compute.actors=3"])
    assert isinstance(done.exception, ConfigError)
    assert "--max-actors of this overlay: compute: actors is a fixed number" in str(done.exception)


def test_render_has_the_options_of_run() -> None:
    def names(command: Any) -> set[str]:
        return {name for option in command.params for name in option.opts}

    commands: Any = typer.main.get_command(app)
    of_run = names(commands.commands["run"])
    of_the_overlay = {"--wait-for-gpus", "--min-actors", "--max-actors"}
    of_a_terminal = {"--watch", "--interval", "--verbose", "-v"}
    missing = of_run - names(commands.commands["infra"].commands["render"])
    assert missing == of_the_overlay | of_a_terminal


def test_columns_labels_deadline_and_baseline_go_to_the_cluster(
    command: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    more = ("--image-column", "url", "--id-column", "sku", "--box-column", "a,b,c,d", "--label", "cup", "--deadline", "90m")
    words, job = job_that_runs(command(*more, "--drift-from", "s3://shop/accepted.json"), tmp_path)
    assert words[words.index("--deadline") + 1] == "1.5h"
    assert (job.columns.image, job.columns.id, job.columns.box) == ("url", "sku", "a,b,c,d")
    assert job.recipe.detector is not None and job.recipe.detector.label == ("cup",)
    assert (job.budget.deadline_s, job.drift.accepted) == (5400, "s3://shop/accepted.json")


def test_two_actors_share_each_gpu_of_the_readme_s_job(command: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    readme = (OVERLAYS.parents[1] / "jobs" / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(manifest: .*?)```", readme, re.S)
    (tmp_path / "nightly.yaml").write_text(text)
    assert yaml.safe_load(text)["compute"] == {"gpus_per_actor": 0.5}
    words, job = job_that_runs(
        command("--job", str(tmp_path / "nightly.yaml"), "--replicas", "4", "--accept-licence"), tmp_path
    )
    assert words[-4:] == ["--wait-for-gpus", "4", "--max-actors", "8"]
    assert job.columns.id == "sku"


@pytest.mark.parametrize(
    ("overlay", "share", "said"),
    [
        ("gpu-spot", "2", "a worker of overlay gpu-spot has 1 GPU; give at most 1"),
        ("cpu", "0.5", "the workers of overlay cpu have no GPU"),
        ("kind", "1", "the workers of overlay kind have no GPU"),
    ],
)
def test_more_gpus_per_actor_than_a_worker_has_are_refused(
    command: Callable[..., Any], overlay: str, share: str, said: str
) -> None:
    command("--set", "compute.gpus_per_actor=1")
    words = ["infra", "render", "--overlay", overlay, "-m", GIVEN["manifest"], "-o", GIVEN["output"]]
    done = CliRunner().invoke(app, [*words, "--set", f"compute.gpus_per_actor={share}"])
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)


def test_o_is_the_output(command: Callable[..., Any]) -> None:
    command()
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", "cpu", "-o", "s3://shop/cutouts"])
    assert done.exit_code == 0 and "--output s3://shop/cutouts" in " ".join(done.stdout.split())
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", "cpu", "-o", "nightly.yaml"])
    assert isinstance(done.exception, ConfigError) and "output 'nightly.yaml'" in str(done.exception)
    assert "--file nightly.yaml" in str(done.exception)


@pytest.mark.parametrize("overlay", overlay_names())
def test_a_value_that_is_not_given_comes_from_the_overlay(overlay: str, rendered: Callable[..., Any]) -> None:
    assert rendered(overlay) == list(yaml.safe_load_all(kustomize(OVERLAYS / overlay)))


@pytest.mark.parametrize("name", ["true", "null", "y"])
def test_a_name_that_yaml_may_read_as_another_type_stays_a_string(name: str, rendered: Callable[..., Any]) -> None:
    (job,) = (thing for thing in rendered("cpu", name=name) if thing["kind"] == "RayJob")
    assert job["metadata"]["name"] == name


def test_the_overlay_itself_is_not_changed(command: Callable[..., Any]) -> None:
    before = {path: path.read_bytes() for path in OVERLAYS.rglob("*.yaml")}
    command("--ray-cron-job")
    assert {path: path.read_bytes() for path in OVERLAYS.rglob("*.yaml")} == before


def test_a_file_is_written_with_the_command_that_applies_it(command: Callable[..., Any], tmp_path: Path) -> None:
    command()
    file = tmp_path / "nightly.yaml"
    done = CliRunner().invoke(app, ["infra", "render", "--overlay", "cpu", "--file", str(file)])
    assert done.stdout.replace("\n", "") == f"{file}: kubectl apply --server-side -f {file}"
    assert "kind: RayJob" in file.read_text(encoding="utf-8")


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Replace all that is on PATH, and beside the interpreter, by shell scripts."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_without_kubectl_and_kustomize_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="neither kubectl nor kustomize is on PATH; install kubectl"):
        render("cpu", {})


def test_kustomize_is_used_if_there_is_no_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, kustomize='echo "$1"')
    assert kustomize(tmp_path) == "build\n"


def test_the_error_of_kubectl_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, kubectl='echo "unknown field" >&2; exit 1')
    with pytest.raises(ConfigError, match="kubectl kustomize failed on overlay cpu: unknown field"):
        render("cpu", {})


@pytest.mark.parametrize(
    ("key", "value", "message"),
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
def test_an_invalid_value_is_refused_in_one_sentence(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        render("gpu-spot", {**GIVEN, key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "edited", "message"),
    [
        ('replicas: "4"', "replicas: 8", r'replicas must be a string: quote it, replicas: "8"'),
        ("name: matteline", "name: 2026", r'name must be a string: quote it, name: "2026"'),
        ("preset: ben2-base", "preset:", 'has no preset: add it, preset: "…"'),
        ("  preset: ben2-base\n", "", 'has no preset: add it, preset: "…"'),
    ],
)
def test_a_setting_that_is_not_a_string_is_refused_with_the_fix(line: str, edited: str, message: str, tmp_path: Path) -> None:
    infra = shutil.copytree(OVERLAYS.parent, tmp_path / "infra")
    path = infra / "overlays" / "gpu-spot" / "settings.yaml"
    text = path.read_text(encoding="utf-8")
    assert line in text
    path.write_text(text.replace(line, edited), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        render("gpu-spot", {}, infra=infra)


def test_settings_without_data_are_refused(tmp_path: Path) -> None:
    infra = shutil.copytree(OVERLAYS.parent, tmp_path / "infra")
    path = infra / "overlays" / "gpu-spot" / "settings.yaml"
    path.write_text(path.read_text(encoding="utf-8").partition("data:")[0] + "data:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no name"):
        render("gpu-spot", {}, infra=infra)


def test_an_unknown_overlay_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'tpu'; choose one of cpu, gpu-spot, kind"):
        render("tpu", GIVEN)


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/15 0-6 1,15 * *", "0 22 * jan-mar/2 1-5", "5 4 * * SUN"])
def test_schedules_that_kubernetes_accepts(schedule: str) -> None:
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
