"""What must hold of the rendered objects, and no schema says: KubeRay's operator refuses some of it, the rest costs a night."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.deploy.settings import BUILT_WITH, NAME

Tree = dict[str, Any]
NAME_MAX = {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36, "CronJob": 52}
"""Characters of a name. A CronJob whose nights become RayJobs has fewer, see ``settings``."""
SPOT = re.compile(r"spot", re.IGNORECASE)
DEADLINE = re.compile(r"--deadline ([\d.]+)h\b")
KEYS = re.compile(
    r"aws_(secret|access)|\bakia[a-z0-9]{12}|password|token=|storage\.(key|secret|token)|private key", re.IGNORECASE
)
NOTIFY = "MATTELINE_NOTIFY"
"""``pipeline.run.notify.VARIABLE``, which is a layer above."""


def faults(objects: list[Tree], ray: str) -> list[str]:
    """What is wrong with rendered objects, a sentence each; none if all is well.

    Args:
        objects: Kubernetes objects, RayJobs and RayCronJobs among them.
        ray: the version of Ray that ``requirements.lock`` pins.
    """
    found = [fault for thing in objects for fault in _of_any(thing)]
    accounts = {thing["metadata"]["name"] for thing in objects if thing["kind"] == "ServiceAccount"}
    for thing in objects:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec", {})
        if kind == "CronJob":
            found += _of_cronjob(name, spec, accounts)
        elif kind in ("RayJob", "RayCronJob"):
            found += _of_rayjob(name, spec.get("jobTemplate", {}) if kind == "RayCronJob" else spec, ray, accounts)
    nights = [thing for thing in objects if thing["kind"] in ("CronJob", "RayCronJob")]
    if len(nights) != 1:
        found.append(f"one schedule, not {len(nights)}: two would meet at one output")
    patterns = [thing for thing in objects if thing["kind"] == "RayJob"]
    found += [fault for night in nights if night["kind"] == "CronJob" for job in patterns for fault in _of_pattern(job, night)]
    return found


def _of_pattern(job: Tree, night: Tree) -> Iterator[str]:
    """What a CronJob asks of the RayJob that it copies."""
    name, spec = job["metadata"]["name"], job["spec"]
    if not spec.get("suspend"):
        yield f"{name}: the CronJob's pattern must be suspended, or applying it starts it"
    tries, each = spec.get("backoffLimit", 0) + 1, spec.get("activeDeadlineSeconds", 0)
    limit = night["spec"]["jobTemplate"]["spec"].get("activeDeadlineSeconds", 0)
    if tries * each > limit:  # KubeRay counts anew for each try
        yield f"{name}: a night in {tries} tries of {each} s outlives activeDeadlineSeconds of the CronJob's Job, {limit}"


def _of_any(thing: Tree) -> Iterator[str]:
    kind, name = thing["kind"], thing["metadata"]["name"]
    if not NAME.fullmatch(name) or len(name) > NAME_MAX.get(kind, 63):
        yield f"{kind} {name}: at most {NAME_MAX.get(kind, 63)} characters, lower case, digits and dashes"
    if kind == "Secret" or KEYS.search(str(thing)):
        yield f"{kind} {name}: carries a key"


def _of_cronjob(name: str, spec: Tree, accounts: set[str]) -> Iterator[str]:
    if spec.get("concurrencyPolicy") != "Forbid":
        yield f"{name}: concurrencyPolicy must be Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    yield from _of_pod("the submitter", pod, accounts)


def _of_rayjob(name: str, spec: Tree, ray: str, accounts: set[str]) -> Iterator[str]:
    if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        yield f"{name}: one of rayClusterSpec and clusterSelector"
        return
    if "rayClusterSpec" not in spec:
        yield f"{name}: a run has a cluster of its own, gone when it is over"
        return
    cluster = spec["rayClusterSpec"]
    if cluster.get("rayVersion") != ray:
        yield f"{name}: rayVersion {cluster.get('rayVersion')} is not the lock's {ray}"
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    images = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    if len(images) != 1:
        yield f"{name}: head and workers must run one image"
    for image in sorted(images):
        tagged = BUILT_WITH.search(image)
        if tagged and tagged[1] != ray:
            yield f"{name}: {image} is built with another Ray than the lock's {ray}"
    if not spec.get("shutdownAfterJobFinishes"):
        yield f"{name}: shutdownAfterJobFinishes must be true, as suspend and ttlSecondsAfterFinished need it"
    if spec.get("activeDeadlineSeconds", 0) <= 0:
        yield f"{name}: activeDeadlineSeconds must be above 0, or a run that hangs holds its machines"
    own = DEADLINE.search(spec.get("entrypoint", ""))
    if not own or float(own[1]) * 3600 >= spec.get("activeDeadlineSeconds", 0):
        yield f"{name}: the run's own --deadline (hours) must end it before activeDeadlineSeconds kills it"
    if {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(spec):
        yield f"{name}: an entrypoint with resources leaves the head"
    yield from _of_head(groups[0])
    for group in groups:
        yield from _of_pod(group.get("groupName", "head"), group["template"]["spec"], accounts)
    for group in groups[1:]:
        yield from _of_workers(group, spec.get("entrypoint", ""))


def _of_head(head: Tree) -> Iterator[str]:
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: must hold no work, num-cpus 0"
    terms = str(head["template"]["spec"].get("affinity", {}).get("nodeAffinity", {}))
    if not SPOT.search(terms) or "NotIn" not in terms or "'In'" in terms:
        yield "head: must stay off spot machines"


def _of_pod(name: str, pod: Tree, accounts: set[str]) -> Iterator[str]:
    if pod.get("restartPolicy", "Never") != "Never":
        yield f"{name}: autoscaler v2 wants restartPolicy Never"
    user = pod.get("securityContext", {})
    if not user.get("runAsNonRoot") or not user.get("runAsUser"):
        yield f"{name}: runs as root"
    if pod.get("serviceAccountName") not in accounts:
        yield f"{name}: has a service account that isn't here"
    for container in pod["containers"]:
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{name}: {container['name']} may become root"
        if any(variable["name"] == NOTIFY and "value" in variable for variable in container.get("env", [])):
            yield f"{name}: {container['name']} has {NOTIFY} in the open; a webhook's address is a secret"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{name}: {container['name']} has no memory limit"


def _of_workers(group: Tree, entrypoint: str) -> Iterator[str]:
    name, pod = group["groupName"], group["template"]["spec"]
    if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
        yield f"{name}: replicas outside of minReplicas and maxReplicas"
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    grows = group["minReplicas"] < group["maxReplicas"] and any(resource.endswith("/gpu") for resource in limits)
    if grows and "--max-actors " not in entrypoint:
        yield f"{name}: GPUs that come after the start stay idle without --max-actors in the entrypoint"
    for container in pod["containers"]:
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [""])[-1]
        rest = re.search(r"sleep (\d+)", hook)
        if "ray drain-node" not in hook or not rest or int(rest[1]) >= pod.get("terminationGracePeriodSeconds", 30):
            yield f"{name}: no drain before it is taken away, or no time for it"
    if not any(mount["mountPath"] == "/var/cache/matteline" for mount in pod["containers"][0].get("volumeMounts", [])):
        yield f"{name}: no cache for the weights"
