"""Check rendered Kubernetes objects for mistakes that no schema finds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.deploy.settings import BUILT_WITH, NAME

Tree = dict[str, Any]
NAME_MAX = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36, "CronJob": 52}
"""Maximum length of a name, in characters. ``settings.NAME_MAX`` is lower, because each run's RayJob appends its time."""
SPOT = re.compile(r"spot", re.IGNORECASE)
DEADLINE = re.compile(r"--deadline ([\d.]+)h\b")
CREDENTIAL = re.compile(
    r"aws_(secret|access)|\bakia[a-z0-9]{12}|password|token=|storage\.(key|secret|token)|private key", re.IGNORECASE
)
NOTIFY = "MATTELINE_NOTIFY"
"""``pipeline.run.notify.VARIABLE``, which this layer may not import."""


def violations(objects: list[Tree], ray: str) -> list[str]:
    """Return one sentence per broken rule.

    Args:
        objects: Kubernetes objects, RayJobs and RayCronJobs among them.
        ray: The version of Ray that ``requirements.lock`` pins.
    """
    found = [message for thing in objects for message in check_object(thing)]
    accounts = {thing["metadata"]["name"] for thing in objects if thing["kind"] == "ServiceAccount"}
    for thing in objects:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec", {})
        if kind == "CronJob":
            found += _check_cron_job(name, spec, accounts)
        elif kind in ("RayJob", "RayCronJob"):
            found += _check_ray_job(name, spec.get("jobTemplate", {}) if kind == "RayCronJob" else spec, ray, accounts)
    schedules = [thing for thing in objects if thing["kind"] in ("CronJob", "RayCronJob")]
    if len(schedules) != 1:
        found.append(f"there must be one CronJob or RayCronJob, not {len(schedules)}: two would write to one output")
    cron_jobs = [thing for thing in schedules if thing["kind"] == "CronJob"]
    ray_jobs = [thing for thing in objects if thing["kind"] == "RayJob"]
    found += [message for cron_job in cron_jobs for job in ray_jobs for message in _check_template(job, cron_job)]
    return found


def _check_template(job: Tree, cron_job: Tree) -> Iterator[str]:
    """Check the RayJob that a CronJob copies."""
    name, spec = job["metadata"]["name"], job["spec"]
    if not spec.get("suspend"):
        yield f"{name}: a RayJob that a CronJob copies must have suspend: true, or kubectl apply starts it"
    attempts, seconds = spec.get("backoffLimit", 0) + 1, spec.get("activeDeadlineSeconds", 0)
    limit = cron_job["spec"]["jobTemplate"]["spec"].get("activeDeadlineSeconds", 0)
    if attempts * seconds > limit:  # KubeRay restarts the count for each attempt
        yield f"{name}: {attempts} attempts of {seconds} s exceed activeDeadlineSeconds of the CronJob's Job, {limit}"


def check_object(thing: Tree) -> Iterator[str]:
    """Yield a sentence about a name that Kubernetes refuses, and about a credential."""
    kind, name = thing["kind"], thing["metadata"]["name"]
    if not NAME.fullmatch(name) or len(name) > NAME_MAX.get(kind, 63):
        yield f"{kind} {name}: a name has at most {NAME_MAX.get(kind, 63)} lower-case letters, digits and dashes"
    if kind == "Secret" or CREDENTIAL.search(str(thing)):
        yield f"{kind} {name}: contains a credential"


def _check_cron_job(name: str, spec: Tree, accounts: set[str]) -> Iterator[str]:
    if spec.get("concurrencyPolicy") != "Forbid":
        yield f"{name}: concurrencyPolicy must be Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    yield from _check_pod("the submitter", pod, accounts)


def _check_ray_job(name: str, spec: Tree, ray: str, accounts: set[str]) -> Iterator[str]:
    if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        yield f"{name}: needs either rayClusterSpec or clusterSelector"
        return
    if "rayClusterSpec" not in spec:
        yield f"{name}: needs rayClusterSpec, so that each run has a cluster of its own"
        return
    cluster = spec["rayClusterSpec"]
    yield from check_cluster(name, cluster, ray, accounts)
    if not spec.get("shutdownAfterJobFinishes"):
        yield f"{name}: shutdownAfterJobFinishes must be true; suspend and ttlSecondsAfterFinished need it"
    if spec.get("activeDeadlineSeconds", 0) <= 0:
        yield f"{name}: activeDeadlineSeconds must be above 0, or a run that hangs keeps its machines"
    own = DEADLINE.search(spec.get("entrypoint", ""))
    if not own or float(own[1]) * 3600 >= spec.get("activeDeadlineSeconds", 0):
        yield f"{name}: --deadline in the entrypoint (hours) must end the run before activeDeadlineSeconds does"
    if {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(spec):
        yield f"{name}: an entrypoint with resources may be placed on a worker; the driver must stay on the head"
    for group in cluster.get("workerGroupSpecs", []):
        yield from _check_growth(group, spec.get("entrypoint", ""))


def check_cluster(name: str, cluster: Tree, ray: str, accounts: set[str]) -> Iterator[str]:
    """Yield one sentence per broken rule of a Ray cluster, be it of a run or of a service.

    Args:
        name: Name of the object that it belongs to.
        cluster: Its specification.
        ray: The version of Ray that ``requirements.lock`` pins.
        accounts: Names of the service accounts that are defined.
    """
    if cluster.get("rayVersion") != ray:
        yield f"{name}: rayVersion {cluster.get('rayVersion')} differs from requirements.lock, {ray}"
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    images = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    if len(images) != 1:
        yield f"{name}: head and workers must run the same image"
    for image in sorted(images):
        tagged = BUILT_WITH.search(image)
        if tagged and tagged[1] != ray:
            yield f"{name}: image {image} has another version of Ray than requirements.lock, {ray}"
    yield from _check_head(groups[0])
    for group in groups:
        yield from _check_pod(group.get("groupName", "head"), group["template"]["spec"], accounts)
    for group in groups[1:]:
        yield from _check_workers(group)


def _check_head(head: Tree) -> Iterator[str]:
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: num-cpus must be 0, so that only the driver or the controller runs there"
    terms = str(head["template"]["spec"].get("affinity", {}).get("nodeAffinity", {}))
    if not SPOT.search(terms) or "NotIn" not in terms or "'In'" in terms:
        yield "head: nodeAffinity must exclude spot machines"


def _check_pod(name: str, pod: Tree, accounts: set[str]) -> Iterator[str]:
    if pod.get("restartPolicy", "Never") != "Never":
        yield f"{name}: restartPolicy must be Never; autoscaler v2 needs it"
    user = pod.get("securityContext", {})
    if not user.get("runAsNonRoot") or not user.get("runAsUser"):
        yield f"{name}: runs as root"
    if pod.get("serviceAccountName") not in accounts:
        yield f"{name}: its service account is not defined"
    for container in pod["containers"]:
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{name}: container {container['name']} must set allowPrivilegeEscalation: false"
        if any(variable["name"] == NOTIFY and "value" in variable for variable in container.get("env", [])):
            yield f"{name}: container {container['name']} has {NOTIFY} in plain text; a webhook's address belongs in a Secret"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{name}: container {container['name']} has no memory limit"


def _check_growth(group: Tree, entrypoint: str) -> Iterator[str]:
    name, pod = group["groupName"], group["template"]["spec"]
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    grows = group["minReplicas"] < group["maxReplicas"] and any(resource.endswith("/gpu") for resource in limits)
    if grows and "--max-actors " not in entrypoint:
        yield f"{name}: GPUs added after the start stay idle without --max-actors in the entrypoint"


def _check_workers(group: Tree) -> Iterator[str]:
    name, pod = group["groupName"], group["template"]["spec"]
    if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
        yield f"{name}: replicas must be between minReplicas and maxReplicas"
    for container in pod["containers"]:
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [""])[-1]
        rest = re.search(r"sleep (\d+)", hook)
        if "ray drain-node" not in hook or not rest or int(rest[1]) >= pod.get("terminationGracePeriodSeconds", 30):
            yield f"{name}: preStop must drain the node within terminationGracePeriodSeconds"
    if not any(mount["mountPath"] == "/var/cache/matteline" for mount in pod["containers"][0].get("volumeMounts", [])):
        yield f"{name}: no volume is mounted at /var/cache/matteline, the cache of the weights"
