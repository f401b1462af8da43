"""The RayJob against KubeRay's schema, and against what the schema can't say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from pipeline.config import load_job

Tree = dict[str, Any]


def groups(job: Tree) -> Iterator[Tree]:
    """Head group and worker groups."""
    cluster = job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def containers(job: Tree) -> Iterator[Tree]:
    """Every container of the cluster."""
    for group in groups(job):
        yield from group["template"]["spec"]["containers"]


def faults(job: Tree, locked_ray: str) -> list[str]:
    """What KubeRay's operator, or our own rules, would refuse in a RayJob that fits the schema."""
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    found = []
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"]):
        found.append("name: at most 47 characters, lower case, digits and dashes")
    if cluster["rayVersion"] != locked_ray:
        found.append(f"rayVersion {cluster['rayVersion']} is not the lock's {locked_ray}")
    if len({container["image"] for container in containers(job)}) != 1:
        found.append("head and workers must run one image")
    found += [
        f"{c['image']} doesn't end in -ray{locked_ray}" for c in containers(job) if not c["image"].endswith(f"-ray{locked_ray}")
    ]
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
    if {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(spec):
        found.append("an entrypoint with resources leaves the head")
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append("the head must hold no work")
    return [*found, *pod_faults(job)]


def pod_faults(job: Tree) -> list[str]:
    """The same, of the groups and their pods."""
    found = []
    for group in groups(job):
        pod = group["template"]["spec"]
        name = group.get("groupName", "head")
        if pod.get("restartPolicy", "Never") != "Never":
            found.append(f"{name}: autoscaler v2 wants restartPolicy Never")
        if not pod.get("securityContext", {}).get("runAsNonRoot") or not pod["securityContext"].get("runAsUser"):
            found.append(f"{name}: runs as root")
        if pod.get("serviceAccountName") != "matteline":
            found.append(f"{name}: has another service account")
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: replicas outside of minReplicas and maxReplicas")
        (worker,) = group["template"]["spec"]["containers"]
        drain = worker["lifecycle"]["preStop"]["exec"]["command"][-1]
        sleep_s = int(re.search(r"sleep (\d+)", drain)[1])  # type: ignore[index]
        if "ray drain-node" not in drain or sleep_s >= group["template"]["spec"]["terminationGracePeriodSeconds"]:
            found.append(f"{group['groupName']}: no time to drain")
    return found


def test_fits_kuberays_schema(rayjob: Tree, rayjob_schema: Tree) -> None:
    jsonschema.Draft202012Validator(rayjob_schema).validate(rayjob)


def test_keeps_the_rules_that_no_schema_holds(rayjob: Tree, locked_ray: str) -> None:
    assert faults(rayjob, locked_ray) == []


def test_declares_its_service_account_and_nothing_else(documents: list[Tree]) -> None:
    account, job = documents
    assert (account["kind"], account["apiVersion"]) == ("ServiceAccount", "v1")
    assert (job["kind"], job["apiVersion"]) == ("RayJob", "ray.io/v1")
    assert account["metadata"]["name"] == "matteline"


def test_carries_no_secret(rayjob: Tree) -> None:
    text = str(rayjob).lower()
    assert not re.search(r"aws_(secret|access)|akia|password|token=|storage\.(key|secret|token)", text)


def test_entrypoint_is_a_command_that_the_product_accepts(rayjob: Tree) -> None:
    command, verb, *rest = shlex.split(rayjob["spec"]["entrypoint"])
    assert (command, verb) == ("matteline", "run")
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    assert set(given) == {"--manifest", "--output", "--preset", "--set"}
    job = load_job(manifest=given["--manifest"], output=given["--output"], preset=given["--preset"], overrides=[given["--set"]])
    assert job.compute.ray_address == "auto"
    assert job.recipe.name == "ben2-base"


def worker(job: Tree) -> Tree:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


UNFIT: dict[str, Callable[[Tree], object]] = {
    "unknown field of the job": lambda job: job["spec"].update(activeDeadline=3600),
    "misspelt group": lambda job: job["spec"]["rayClusterSpec"].update(workerGroups=[]),
    "unknown field of a container": lambda job: next(containers(job)).update(imagePull="Always"),
    "number for text": lambda job: job["spec"]["rayClusterSpec"].update(rayVersion=2.6),
    "text for a number": lambda job: worker(job).update(maxReplicas="four"),
    "ray start parameter that is no text": lambda job: worker(job)["rayStartParams"].update({"num-cpus": 0}),
    "missing group name": lambda job: worker(job).pop("groupName"),
    "bad quantity": lambda job: worker(job)["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="32 GB"),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_schema_catches(mistake: str, rayjob: Tree, rayjob_schema: Tree) -> None:
    UNFIT[mistake](rayjob)
    assert not jsonschema.Draft202012Validator(rayjob_schema).is_valid(rayjob)


BROKEN: dict[str, tuple[Callable[[Tree], object], str]] = {
    "other Ray": (lambda job: job["spec"]["rayClusterSpec"].update(rayVersion="2.59.0"), "rayVersion 2.59.0"),
    "other Ray in an image": (
        lambda job: next(containers(job)).update(image="ghcr.io/example/matteline:0.1.0-ray2.59.0"),
        "one image",
    ),
    "long name": (lambda job: job["metadata"].update(name="m" * 48), "47"),
    "root": (lambda job: worker(job)["template"]["spec"].pop("securityContext"), "gpu: runs as root"),
    "ttl without shutdown": (lambda job: job["spec"].pop("shutdownAfterJobFinishes"), "shutdownAfterJobFinishes"),
    "driver on a worker": (lambda job: job["spec"].update(entrypointNumCpus=1), "leaves the head"),
    "work on the head": (lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(rayStartParams={}), "no work"),
    "restarts": (lambda job: worker(job)["template"]["spec"].update(restartPolicy="Always"), "restartPolicy"),
    "replicas": (lambda job: worker(job).update(maxReplicas=1), "replicas outside"),
    "no time to drain": (lambda job: worker(job)["template"]["spec"].update(terminationGracePeriodSeconds=30), "no time"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_rules_catch(mistake: str, rayjob: Tree, locked_ray: str) -> None:
    break_it, said = BROKEN[mistake]
    break_it(rayjob)
    assert any(said in fault for fault in faults(rayjob, locked_ray))
