"""Every overlay is valid for Kubernetes and KubeRay and keeps the rules of ``pipeline.deploy.rules``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.options import seconds
from pipeline.config.job import load_job
from pipeline.deploy.render import kustomize, overlay_names
from pipeline.deploy.rules import NOTIFY, violations
from pipeline.run.notify import VARIABLE

Tree = dict[str, Any]
Judge = Callable[[list[Tree]], list[str]]
Render = Callable[..., list[Tree]]
INFRA = Path(__file__).resolve().parents[2] / "infra"
OVERLAYS = overlay_names()
WAYS = [False, True]
"""Values of ``ray_cron_job``."""


def find(objects: list[Tree], kind: str) -> Tree:
    (thing,) = (thing for thing in objects if thing["kind"] == kind)
    return thing


def cluster(objects: list[Tree]) -> Tree:
    found: Tree = find(objects, "RayJob")["spec"]["rayClusterSpec"]
    return found


def worker(objects: list[Tree]) -> Tree:
    found: Tree = cluster(objects)["workerGroupSpecs"][0]
    return found


def pod(group: Tree) -> Tree:
    found: Tree = group["template"]["spec"]
    return found


def test_the_documented_overlays_exist() -> None:
    assert OVERLAYS == ["cpu", "gpu-spot", "kind"]


def test_overlays_match_the_schemas(rendered: Render, refused: Judge, bars: Any) -> None:
    found = [message for overlay in OVERLAYS for way in WAYS for message in refused(rendered(overlay, ray_cron_job=way))]
    bars.at_most(f"objects that a schema refuses, {len(OVERLAYS)} overlays {found[:1] or ''}".strip(), len(found), 0)


def test_overlays_keep_the_rules(rendered: Render, locked_ray: str, bars: Any) -> None:
    objects = [rendered(overlay, ray_cron_job=way) for overlay in OVERLAYS for way in WAYS]
    found = [message for each in objects for message in violations(each, locked_ray)]
    bars.at_most(f"rules that an overlay breaks {found[:1] or ''}".strip(), len(found), 0)


def test_components_that_no_overlay_uses_can_be_switched_on(
    rendered: Render, refused: Judge, locked_ray: str, tmp_path: Path
) -> None:
    """An edited line of an overlay's kustomization.yaml adds kueue or replaces nightly."""
    rendered("gpu-spot")  # skips the test if neither program is installed
    infra = shutil.copytree(INFRA, tmp_path / "infra")
    overlay = infra / "overlays" / "gpu-spot"
    text = (overlay / "kustomization.yaml").read_text(encoding="utf-8")
    kinds, sizes = {}, {}
    for line, other in [("nightly #", "nightly-ray #"), ("# - ../../components/kueue", "- ../../components/kueue")]:
        assert line in text
        (overlay / "kustomization.yaml").write_text(text.replace(line, other), encoding="utf-8")
        objects = list(yaml.safe_load_all(kustomize(overlay)))
        assert refused(objects) + violations(objects, locked_ray) == []
        kinds[other] = {thing["kind"] for thing in objects}
        sizes[other] = replicas(objects) if "RayJob" in kinds[other] else []
    assert "RayCronJob" in kinds["nightly-ray #"]
    assert "LocalQueue" in kinds["- ../../components/kueue"]
    assert sizes["- ../../components/kueue"] == [4, 4, 4]  # a queue starts all workers of a run together


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_entrypoint_is_a_valid_command(overlay: str, rendered: Render, options_of: Callable[[str], set[str]]) -> None:
    job = find(rendered(overlay), "RayJob")
    command, verb, *rest = shlex.split(job["spec"]["entrypoint"])
    assert (command, verb) == ("matteline", "run")
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    gpu_options = {"--wait-for-gpus", "--max-actors"} if overlay == "gpu-spot" else set()
    assert set(given) == {"--manifest", "--output", "--preset", "--set", "--deadline"} | gpu_options
    assert set(given) <= options_of(verb)
    assert 0 < seconds(given["--deadline"]) < job["spec"]["activeDeadlineSeconds"]
    loaded = load_job(
        manifest=given["--manifest"], output=given["--output"], preset=given["--preset"], overrides=[given["--set"]]
    )
    assert loaded.compute.ray_address == "auto"


def replicas(objects: list[Tree]) -> list[int]:
    return [worker(objects)[key] for key in ("replicas", "minReplicas", "maxReplicas")]


@pytest.mark.parametrize("way", WAYS, ids=["nightly", "nightly-ray"])
def test_a_run_on_gpus_starts_with_one_and_requests_the_rest(way: bool, rendered: Render) -> None:
    objects = rendered("gpu-spot", ray_cron_job=way, replicas="12")
    if way:
        objects = [{"kind": "RayJob", "spec": find(objects, "RayCronJob")["spec"]["jobTemplate"]}]
    assert replicas(objects) == [1, 1, 12]
    assert find(objects, "RayJob")["spec"]["entrypoint"].endswith(" --deadline 11h --wait-for-gpus 12 --max-actors 12")


@pytest.mark.parametrize("overlay", ["cpu", "kind"])
def test_a_run_on_cpus_has_a_fixed_number_of_workers(overlay: str, rendered: Render) -> None:
    objects = rendered(overlay, replicas="12")
    assert replicas(objects) == [12, 12, 12]
    assert find(objects, "RayJob")["spec"]["entrypoint"].endswith(" --deadline 11h")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_driver_reads_the_notification_address_from_an_optional_secret(overlay: str, rendered: Render) -> None:
    made = cluster(rendered(overlay))
    (head,) = pod(made["headGroupSpec"])["containers"]
    secret = {"name": "matteline-notify", "key": "to", "optional": True}
    assert NOTIFY == VARIABLE
    assert head["env"] == [{"name": NOTIFY, "valueFrom": {"secretKeyRef": secret}}]
    for page in ("README.md", "RUNBOOK.md"):
        assert "create secret generic matteline-notify --from-literal=to=" in (INFRA / page).read_text(encoding="utf-8")
    assert not any("env" in pod(group)["containers"][0] for group in made["workerGroupSpecs"])


def schedule(objects: list[Tree]) -> Tree:
    found: Tree = find(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
    return found


def submitter(objects: list[Tree]) -> Tree:
    found: Tree = pod(schedule(objects))
    return found


UNFIT: dict[str, Callable[[list[Tree]], object]] = {
    "unknown field of the job": lambda o: find(o, "RayJob")["spec"].update(activeDeadline=3600),
    "misspelt group": lambda o: cluster(o).update(workerGroups=[]),
    "unknown field of a container": lambda o: pod(worker(o))["containers"][0].update(imagePull="Always"),
    "number for text": lambda o: cluster(o).update(rayVersion=2.6),
    "text for a number": lambda o: worker(o).update(maxReplicas="four"),
    "ray start parameter that is no text": lambda o: worker(o)["rayStartParams"].update({"num-cpus": 0}),
    "missing group name": lambda o: worker(o).pop("groupName"),
    "bad quantity": lambda o: pod(worker(o))["containers"][0]["resources"]["limits"].update(memory="32 GB"),
    "misspelt field of the CronJob": lambda o: find(o, "CronJob")["spec"].update(concurencyPolicy="Forbid"),
    "misspelt field of the network policy": lambda o: find(o, "NetworkPolicy")["spec"].update(ingres=[]),
    "role without verbs": lambda o: find(o, "Role")["rules"][0].pop("verbs"),
}
BROKEN: dict[str, tuple[Callable[[list[Tree]], object], str]] = {
    "other Ray": (lambda o: cluster(o).update(rayVersion="2.59.0"), "rayVersion 2.59.0 differs"),
    "other Ray in an image": (
        lambda o: pod(cluster(o)["headGroupSpec"])["containers"][0].update(image="ghcr.io/a/b:1-ray2.59.0"),
        "another version of Ray",
    ),
    "two images": (lambda o: pod(worker(o))["containers"][0].update(image="ghcr.io/a/b:1"), "the same image"),
    "long name": (lambda o: find(o, "RayJob")["metadata"].update(name="m" * 48), "47"),
    "root": (lambda o: pod(worker(o)).pop("securityContext"), "gpu: runs as root"),
    "root submitter": (lambda o: submitter(o)["securityContext"].update(runAsUser=0), "submitter: runs as root"),
    "ttl without shutdown": (lambda o: find(o, "RayJob")["spec"].pop("shutdownAfterJobFinishes"), "shutdownAfterJobFinishes"),
    "no deadline": (lambda o: find(o, "RayJob")["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds"),
    "no deadline of its own": (
        lambda o: find(o, "RayJob")["spec"].update(entrypoint="matteline run --deadline 48h"),
        "before activeDeadlineSeconds",
    ),
    "more attempts than the Job has time for": (
        lambda o: find(o, "RayJob")["spec"].update(backoffLimit=2),
        "3 attempts of 43200 s",
    ),
    "a Job without a deadline": (lambda o: schedule(o).pop("activeDeadlineSeconds"), "2 attempts of 43200 s"),
    "driver on a worker": (lambda o: find(o, "RayJob")["spec"].update(entrypointNumCpus=1), "must stay on the head"),
    "work on the head": (lambda o: cluster(o)["headGroupSpec"].update(rayStartParams={}), "only the driver"),
    "head on spot": (lambda o: pod(cluster(o)["headGroupSpec"]).pop("affinity"), "exclude spot"),
    "restarts": (lambda o: pod(worker(o)).update(restartPolicy="Always"), "restartPolicy"),
    "replicas": (lambda o: worker(o).update(maxReplicas=0), "between minReplicas"),
    "added GPUs that stay idle": (
        lambda o: find(o, "RayJob")["spec"].update(entrypoint="matteline run --deadline 11h --wait-for-gpus 4"),
        "gpu: GPUs added after the start",
    ),
    "no drain": (lambda o: pod(worker(o))["containers"][0].pop("lifecycle"), "must drain"),
    "no time to drain": (lambda o: pod(worker(o)).update(terminationGracePeriodSeconds=30), "must drain"),
    "no cache": (lambda o: pod(worker(o))["containers"][0].pop("volumeMounts"), "cache of the weights"),
    "overlap": (lambda o: find(o, "CronJob")["spec"].update(concurrencyPolicy="Allow"), "Forbid"),
    "starts when applied": (lambda o: find(o, "RayJob")["spec"].pop("suspend"), "suspend: true"),
    "a credential": (
        lambda o: pod(worker(o))["containers"][0].update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
        "contains a credential",
    ),
    "a webhook in plain text": (
        lambda o: pod(cluster(o)["headGroupSpec"])["containers"][0]["env"][0].update(value="https://hooks.example.com/1"),
        "in plain text",
    ),
    "no account": (lambda o: o.remove(next(t for t in o if t["kind"] == "ServiceAccount")), "not defined"),
    "two clusters": (lambda o: find(o, "RayJob")["spec"].update(clusterSelector={"a": "b"}), "either rayClusterSpec"),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_the_schemas_find_a_mistake(mistake: str, objects: list[Tree], refused: Judge) -> None:
    assert refused(objects) == []
    UNFIT[mistake](objects)
    assert len(refused(objects)) >= 1


@pytest.mark.parametrize("mistake", BROKEN)
def test_the_rules_find_a_mistake(mistake: str, objects: list[Tree], locked_ray: str) -> None:
    break_it, message = BROKEN[mistake]
    break_it(objects)
    assert any(message in found for found in violations(objects, locked_ray))


def test_every_planted_mistake_is_found(rendered: Render, refused: Judge, locked_ray: str, bars: Any) -> None:
    caught = 0
    for plant in UNFIT.values():
        plant(objects := rendered("gpu-spot"))
        caught += bool(refused(objects))
    for break_it, message in BROKEN.values():
        break_it(objects := rendered("gpu-spot"))
        caught += any(message in found for found in violations(objects, locked_ray))
    bars.at_least("planted mistakes that turn the check red", caught, len(UNFIT) + len(BROKEN))
