"""Every overlay against the schemas of Kubernetes and KubeRay, against our own rules, and against kubectl's rendering."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.run import seconds
from pipeline.config.job import load_job
from pipeline.deploy.kustomize import build
from pipeline.deploy.nightly import overlay_names
from pipeline.deploy.rules import NOTIFY, faults
from pipeline.run.notify import VARIABLE

Tree = dict[str, Any]
Judge = Callable[[list[Tree]], list[str]]
INFRA = Path(__file__).resolve().parents[2] / "infra"
OVERLAYS = overlay_names()
WAYS: list[dict[str, str]] = [{}, {"nightly": "nightly-ray"}]


def keyed(objects: list[Tree]) -> dict[tuple[str, str], Tree]:
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects}


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


def test_the_overlays_that_the_documents_name_are_here() -> None:
    assert OVERLAYS == ["cpu", "gpu-spot", "kind"]


def test_overlays_fit_the_schemas(refused: Judge, bars: Any) -> None:
    found = [fault for overlay in OVERLAYS for way in WAYS for fault in refused(build(INFRA / "overlays" / overlay, None, way))]
    bars.at_most(f"objects that a schema refuses, {len(OVERLAYS)} overlays {found[:1] or ''}".strip(), len(found), 0)


def test_overlays_keep_the_rules_that_no_schema_holds(locked_ray: str, bars: Any) -> None:
    rendered = [build(INFRA / "overlays" / overlay, None, way) for overlay in OVERLAYS for way in WAYS]
    found = [fault for objects in rendered for fault in faults(objects, locked_ray)]
    bars.at_most(f"rules that an overlay breaks {found[:1] or ''}".strip(), len(found), 0)


def test_ours_is_what_kubectl_renders(kubectl: Callable[[Path], list[Tree]], bars: Any) -> None:
    other = [name for name in OVERLAYS if keyed(build(INFRA / "overlays" / name)) != keyed(kubectl(INFRA / "overlays" / name))]
    bars.at_most(f"overlays that kubectl kustomize renders otherwise {other or ''}".strip(), len(other), 0)


def test_kubectl_agrees_on_the_other_components(kubectl: Callable[[Path], list[Tree]], tmp_path: Path) -> None:
    """nightly-ray and kueue stand in no overlay by default; they are one edited line away."""
    text = (INFRA / "overlays" / "gpu-spot" / "kustomization.yaml").read_text(encoding="utf-8")
    for name in ("base", "components"):
        shutil.copytree(INFRA / name, tmp_path / name)
    edited = tmp_path / "overlays" / "edited"
    shutil.copytree(INFRA / "overlays" / "gpu-spot", edited)
    for line, other in [("nightly #", "nightly-ray #"), ("# - ../../components/kueue", "- ../../components/kueue")]:
        assert line in text
        (edited / "kustomization.yaml").write_text(text.replace(line, other), encoding="utf-8")
        assert keyed(build(edited)) == keyed(kubectl(edited))
    assert counts(build(edited)) == [4, 4, 4]  # a queue starts a night whole


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_entrypoint_is_a_command_that_the_product_accepts(overlay: str, options_of: Callable[[str], set[str]]) -> None:
    job = find(build(INFRA / "overlays" / overlay), "RayJob")
    command, verb, *rest = shlex.split(job["spec"]["entrypoint"])
    assert (command, verb) == ("matteline", "run")
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    counts = {"--wait-for-gpus", "--max-actors"} if overlay == "gpu-spot" else set()
    assert set(given) == {"--manifest", "--output", "--preset", "--set", "--deadline"} | counts
    assert set(given) <= options_of(verb)
    assert 0 < seconds(given["--deadline"]) < job["spec"]["activeDeadlineSeconds"]
    loaded = load_job(
        manifest=given["--manifest"], output=given["--output"], preset=given["--preset"], overrides=[given["--set"]]
    )
    assert loaded.compute.ray_address == "auto"


def counts(objects: list[Tree]) -> list[int]:
    return [worker(objects)[key] for key in ("replicas", "minReplicas", "maxReplicas")]


@pytest.mark.parametrize("way", WAYS, ids=["nightly", "nightly-ray"])
def test_a_night_on_gpus_starts_with_one_and_asks_for_the_rest(way: dict[str, str]) -> None:
    objects = build(INFRA / "overlays" / "gpu-spot", {"replicas": "12"}, way)
    if way:
        objects = [{"kind": "RayJob", "spec": find(objects, "RayCronJob")["spec"]["jobTemplate"]}]
    assert counts(objects) == [1, 1, 12]
    assert find(objects, "RayJob")["spec"]["entrypoint"].endswith(" --deadline 11h --wait-for-gpus 12 --max-actors 12")


@pytest.mark.parametrize("overlay", ["cpu", "kind"])
def test_a_night_without_gpus_waits_for_none_and_has_a_fixed_number(overlay: str) -> None:
    objects = build(INFRA / "overlays" / overlay, {"replicas": "12"})
    assert counts(objects) == [12, 12, 12]
    assert find(objects, "RayJob")["spec"]["entrypoint"].endswith(" --deadline 11h")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_driver_learns_whom_to_tell_from_a_secret_that_may_be_missing(overlay: str) -> None:
    made = cluster(build(INFRA / "overlays" / overlay))
    (head,) = pod(made["headGroupSpec"])["containers"]
    secret = {"name": "matteline-notify", "key": "to", "optional": True}
    assert NOTIFY == VARIABLE
    assert head["env"] == [{"name": NOTIFY, "valueFrom": {"secretKeyRef": secret}}]
    assert "create secret generic matteline-notify --from-literal=to=" in (INFRA / "RUNBOOK.md").read_text(encoding="utf-8")
    assert not any("env" in pod(group)["containers"][0] for group in made["workerGroupSpecs"])


def night(objects: list[Tree]) -> Tree:
    found: Tree = find(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
    return found


def submitter(objects: list[Tree]) -> Tree:
    found: Tree = pod(night(objects))
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
    "other Ray": (lambda o: cluster(o).update(rayVersion="2.59.0"), "rayVersion 2.59.0"),
    "other Ray in an image": (
        lambda o: pod(cluster(o)["headGroupSpec"])["containers"][0].update(image="ghcr.io/a/b:1-ray2.59.0"),
        "another Ray",
    ),
    "two images": (lambda o: pod(worker(o))["containers"][0].update(image="ghcr.io/a/b:1"), "one image"),
    "long name": (lambda o: find(o, "RayJob")["metadata"].update(name="m" * 48), "47"),
    "root": (lambda o: pod(worker(o)).pop("securityContext"), "gpu: runs as root"),
    "root submitter": (lambda o: submitter(o)["securityContext"].update(runAsUser=0), "submitter: runs as root"),
    "ttl without shutdown": (lambda o: find(o, "RayJob")["spec"].pop("shutdownAfterJobFinishes"), "shutdownAfterJobFinishes"),
    "no deadline": (lambda o: find(o, "RayJob")["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds"),
    "no deadline of its own": (
        lambda o: find(o, "RayJob")["spec"].update(entrypoint="matteline run --deadline 48h"),
        "before activeDeadlineSeconds",
    ),
    "more tries than a night has hours": (lambda o: find(o, "RayJob")["spec"].update(backoffLimit=2), "in 3 tries of 43200 s"),
    "a night without an end": (lambda o: night(o).pop("activeDeadlineSeconds"), "in 2 tries of 43200 s"),
    "driver on a worker": (lambda o: find(o, "RayJob")["spec"].update(entrypointNumCpus=1), "leaves the head"),
    "work on the head": (lambda o: cluster(o)["headGroupSpec"].update(rayStartParams={}), "no work"),
    "head on spot": (lambda o: pod(cluster(o)["headGroupSpec"]).pop("affinity"), "off spot"),
    "restarts": (lambda o: pod(worker(o)).update(restartPolicy="Always"), "restartPolicy"),
    "replicas": (lambda o: worker(o).update(maxReplicas=0), "replicas outside"),
    "GPUs that come and stay idle": (
        lambda o: find(o, "RayJob")["spec"].update(entrypoint="matteline run --deadline 11h --wait-for-gpus 4"),
        "gpu: GPUs that come after the start",
    ),
    "no drain": (lambda o: pod(worker(o))["containers"][0].pop("lifecycle"), "no drain"),
    "no time to drain": (lambda o: pod(worker(o)).update(terminationGracePeriodSeconds=30), "no time"),
    "no cache": (lambda o: pod(worker(o))["containers"][0].pop("volumeMounts"), "no cache"),
    "overlap": (lambda o: find(o, "CronJob")["spec"].update(concurrencyPolicy="Allow"), "Forbid"),
    "starts when applied": (lambda o: find(o, "RayJob")["spec"].pop("suspend"), "suspended"),
    "a key": (
        lambda o: pod(worker(o))["containers"][0].update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
        "carries a key",
    ),
    "a webhook in the open": (
        lambda o: pod(cluster(o)["headGroupSpec"])["containers"][0]["env"][0].update(value="https://hooks.example.com/1"),
        "in the open",
    ),
    "no account": (lambda o: o.remove(next(t for t in o if t["kind"] == "ServiceAccount")), "isn't here"),
    "two clusters": (lambda o: find(o, "RayJob")["spec"].update(clusterSelector={"a": "b"}), "one of rayClusterSpec"),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_schema_catches(mistake: str, objects: list[Tree], refused: Judge) -> None:
    assert refused(objects) == []
    UNFIT[mistake](objects)
    assert len(refused(objects)) >= 1


@pytest.mark.parametrize("mistake", BROKEN)
def test_rules_catch(mistake: str, objects: list[Tree], locked_ray: str) -> None:
    break_it, said = BROKEN[mistake]
    break_it(objects)
    assert any(said in fault for fault in faults(objects, locked_ray))


def test_planted_mistakes_caught(refused: Judge, locked_ray: str, bars: Any) -> None:
    way = INFRA / "overlays" / "gpu-spot"
    caught = 0
    for plant in UNFIT.values():
        plant(objects := build(way))
        caught += bool(refused(objects))
    for break_it, said in BROKEN.values():
        break_it(objects := build(way))
        caught += any(said in fault for fault in faults(objects, locked_ray))
    bars.at_least("planted mistakes that turn the check red", caught, len(UNFIT) + len(BROKEN))
