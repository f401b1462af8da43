"""The service's manifests are valid for Kubernetes, KubeRay and Ray Serve, and keep the rules of ``deploy.service``."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config.detector import load_detector_preset
from pipeline.config.job import nest_settings
from pipeline.config.presets import load_preset, preset_names
from pipeline.deploy.service import DEPLOYMENT, IMPORT_PATH, KEYS, TOKEN, identities, render_service, violations
from pipeline.errors import ConfigError
from pipeline.serve.metrics import ON_RAY
from pipeline.serve.settings import TOKEN_VARIABLE

Tree = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "infra" / "service" / "monitoring"
RAY_SERVE = Path(str(importlib.util.find_spec("ray").submodule_search_locations[0])) / "serve"  # type: ignore[union-attr, index]
GIVEN = {
    "name": "cutter",
    "image": "registry.example:5000/team/matteline:7-ray2.60.0",
    "preset": "mvanet-lite",
    "machines": "6",
    "replicas": "12",
}


@pytest.fixture(scope="session")
def text(want: Callable[[str], Any]) -> str:
    try:
        return render_service(GIVEN)
    except ConfigError as error:
        if "is on PATH" in str(error):
            want(str(error))
        raise


@pytest.fixture
def objects(text: str) -> list[Tree]:
    return list(yaml.safe_load_all(text))


def spec_of(objects: list[Tree]) -> Tree:
    (found,) = (thing["spec"] for thing in objects if thing["kind"] == "RayService")
    return dict(found)


def application(objects: list[Tree]) -> Tree:
    (found,) = yaml.safe_load(spec_of(objects)["serveConfigV2"])["applications"]
    return dict(found)


def container(objects: list[Tree]) -> Tree:
    (found,) = spec_of(objects)["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    return dict(found)


def test_the_values_arrive(objects: list[Tree], refused: Callable[[list[Tree]], list[str]], locked_ray: str) -> None:
    assert refused(objects) + violations(objects, locked_ray) == []
    (service,) = (thing for thing in objects if thing["kind"] == "RayService")
    made = application(objects)
    assert service["metadata"]["name"] == "cutter" and str(objects).count(GIVEN["image"]) == 2
    assert made["args"]["presets"] == ["mvanet-lite"] and load_preset("mvanet-lite")
    assert made["deployments"][0]["autoscaling_config"]["max_replicas"] == 12
    assert service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] == 6


def test_the_command_writes_the_same(text: str, tmp_path: Path) -> None:
    options = [word for key in KEYS for word in (f"--{key}", GIVEN[key])]
    done = CliRunner().invoke(app, ["infra", "service", *options, "-o", str(tmp_path / "service.yaml")])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "service.yaml").read_text() == text
    for key, value in (("image", "matteline:latest"), ("replicas", "0"), ("replicas", "99"), ("name", "A"), ("preset", "a b")):
        done = CliRunner().invoke(app, ["infra", "service", f"--{key}", value])
        assert isinstance(done.exception, ConfigError), key


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A rendition of the user's own."""
    (tmp_path / "mine.yaml").write_text('trim: 0.05\nbackground: "#f4f1ea"\nformat: jpeg\n')
    return tmp_path / "mine.yaml"


@pytest.fixture
def rendered_service(text: str) -> Callable[..., list[Tree]]:
    """``rendered_service(*options)``: what ``matteline infra service`` writes. ``text`` skips the test without Kustomize."""

    def run(*options: str) -> list[Tree]:
        done = CliRunner().invoke(app, ["infra", "service", *options])
        assert done.exit_code == 0, done.exception
        return list(yaml.safe_load_all(done.stdout))

    return run


def test_settings_become_arguments(
    rendered_service: Callable[..., list[Tree]],
    refused: Callable[[list[Tree]], list[str]],
    locked_ray: str,
    mine: Path,
    objects: list[Tree],
) -> None:
    settings = ("limits.max_pixels=25000000", "storage.region=eu-west-1", "recipe.detector=nanodet", "compute.batch_size=2")
    made = rendered_service(
        *("--preset", "mvanet-lite", "--preset", "u2netp", "--rendition", str(mine), "--accept-licence", "--replicas", "3"),
        *(word for setting in settings for word in ("--set", setting)),
        *("--allow-host", "cut.example.com", "--allow-origin", "https://shop.example.com:8443"),
        *("--allow-root", "https://photos.example.com/spring"),
    )
    assert refused(made) + violations(made, locked_ray) == []
    arguments, plain = application(made)["args"], application(objects)["args"]
    assert arguments == plain | {
        "presets": ["mvanet-lite", "u2netp"],
        "settings": plain["settings"]
        | {
            "limits.max_pixels": "25000000",
            "storage.region": "eu-west-1",
            "recipe.detector": {"preset": "nanodet", "threshold": 0.25},
            "compute.batch_size": "2",
        },
        "renditions": [{"trim": 0.05, "background": "#f4f1ea", "format": "jpeg", "name": "mine"}],
        "accept_licence": True,
        "allow_hosts": ["cut.example.com"],
        "allow_origins": ["https://shop.example.com:8443"],
        "allow_roots": ["https://photos.example.com/spring"],
    }
    (deployment,) = application(made)["deployments"]
    assert deployment["autoscaling_config"]["max_replicas"] == 3
    assert deployment == application(objects)["deployments"][0] | {"autoscaling_config": deployment["autoscaling_config"]}


def test_a_detector_of_the_users_own_goes_along(rendered_service: Callable[..., list[Tree]], tmp_path: Path) -> None:
    bundled = load_detector_preset("nanodet").model_dump(mode="json", exclude={"detector"})
    own = {"model": "grounding-dino", "weights": "s3://shop/detector", "threshold": 0.4}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(bundled | {"detector": own}))
    made = rendered_service("--set", f"recipe.detector={tmp_path / 'own.yaml'}", "--set", "recipe.detector.label=cup")
    settings = application(made)["args"]["settings"]
    assert settings["recipe.detector"]["weights"] == "s3://shop/detector" and settings["recipe.detector"]["label"] == ["cup"]
    assert str(tmp_path) not in str(made) and "recipe.detector.label" not in settings


@pytest.mark.parametrize(
    "options, words",
    [
        (["--set", "max_pixels=5"], "section.key=value"),
        (["--set", "limits.max_pixel=5"], "max_pixel"),
        (["--set", "limits.max_pixels=0"], "max_pixels"),
        (["--set", "recipe.review_below=2"], "review_below"),
        (["--set", "budget.deadline_s=60"], "takes no jobs"),
        (["--set", "compute.ray_address=auto"], "is for runs"),
        (["--set", "storage.key=AKIDX", "--set", "storage.secret=hush"], "would be readable"),
        (["--set", "storage.allow_roots=[/data]"], "file of this machine"),
        (["--set", "recipe.weights=/tmp/own.onnx"], "file of this machine"),
        (["--set", "recipe.second=FOLDER/own.yaml"], "file of this machine"),
        (["--set", "recipe.renditions=[white]"], "--rendition"),
        (["--set", "recipe.detector=x"], "there is no detector 'x'"),
        (["--set", "recipe.detector=nanodet", "--set", 'recipe.detector.label=["max_replicas: 9"]'], "write it otherwise"),
        (["--preset", "x"], "there is no preset 'x'"),
        (["--preset", "FOLDER/own.yaml"], "file of this machine"),
        (["--preset", "u2netp", "--preset", "U2NETP"], "the same name"),
        (["--preset", "LICENSED"], "--accept-licence"),
        (["--rendition", "x"], "there is no rendition 'x'"),
        (["--rendition", "white"], "is given twice"),
        (["--rendition", "FOLDER/picture.yaml"], "file of this machine"),
        (["--allow-host", "https://cut.example.com"], "is not a host name"),
        (["--allow-origin", "shop.example.com"], "is not an origin"),
        (["--allow-root", "/data"], "https://"),
        (["--allow-root", "https://user:word@photos.example.com"], "without user"),
        (["--identity", "aws"], "eks, gke"),
    ],
)
def test_what_the_cluster_could_not_use_is_refused(options: list[str], words: str, tmp_path: Path) -> None:
    """In one sentence, before anything is rendered."""
    own = load_preset("u2netp").model_dump(mode="json", exclude_unset=True) | {"recipe": {"model": "fake", "frame_px": 64}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "picture.yaml").write_text("background: wood.jpg\n")
    licensed = next(name for name in preset_names() if not load_preset(name).commercial)
    given = [one.replace("FOLDER", str(tmp_path)).replace("LICENSED", licensed) for one in options]
    done = CliRunner().invoke(app, ["infra", "service", *given])
    assert isinstance(done.exception, ConfigError), done.exception
    message = str(done.exception)
    assert words in message and "\n" not in message and "hush" not in message


METADATA = "169.254."
"""Beginning of the addresses at which clouds hand out credentials."""


def test_the_pods_reach_no_credentials_of_the_cloud_unless_told_to(
    objects: list[Tree],
    rendered_service: Callable[..., list[Tree]],
    refused: Callable[[list[Tree]], list[str]],
    locked_ray: str,
) -> None:
    assert METADATA not in str(objects)
    opened = {"eks": [("169.254.170.23/32", 80)], "gke": [("169.254.169.252/32", 988), ("169.254.169.254/32", 80)]}
    assert identities() == sorted(opened)
    for cloud, addresses in opened.items():
        made = rendered_service("--identity", cloud)
        assert refused(made) + violations(made, locked_ray) == []
        (policy,) = (thing for thing in made if METADATA in str(thing))
        assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "worker"
        rules = policy["spec"]["egress"]
        assert [(rule["to"][0]["ipBlock"]["cidr"], rule["ports"][0]["port"]) for rule in rules] == addresses
        assert len(made) == len(objects) + 1


def fields(file: str, name: str) -> set[str]:
    """Return the fields of a pydantic class of the installed Ray, from its source: to import it needs ray[serve]."""
    tree = ast.parse((RAY_SERVE / file).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def test_ray_serve_knows_every_key(objects: list[Tree]) -> None:
    made = application(objects)
    (deployment,) = made["deployments"]
    assert set(made) <= fields("schema.py", "ServeApplicationSchema")
    assert set(deployment) <= fields("schema.py", "DeploymentSchema")
    assert set(deployment["ray_actor_options"]) <= fields("schema.py", "RayActorOptionsSchema")
    assert set(deployment["autoscaling_config"]) <= fields("config.py", "AutoscalingConfig")


def test_the_settings_are_those_of_a_job(objects: list[Tree]) -> None:
    made, source = application(objects)["args"], (ROOT / "pipeline/serve/on_ray.py").read_text(encoding="utf-8")
    assert set(nest_settings(made["settings"])) <= {"limits", "compute", "storage", "recipe"}
    assert all(f'"{name}"' in source for name in made)
    module, _, builder = IMPORT_PATH.partition(":")
    assert module == "pipeline.serve.on_ray" and f"def {builder}(" in source and f'NAME = "{DEPLOYMENT}"' in source
    assert TOKEN == TOKEN_VARIABLE


BROKEN: dict[str, tuple[Callable[[Tree, Tree, Tree], object], str]] = {
    "no probe of the proxy": (lambda _, box, __: box.pop("readinessProbe"), "readinessProbe"),
    "no liveness": (lambda _, box, __: box.pop("livenessProbe"), "livenessProbe"),
    "no token": (lambda _, box, __: box.pop("env"), "MATTELINE_TOKEN"),
    "a token in plain text": (lambda _, box, __: box.update(env=[{"name": TOKEN, "value": "x" * 16}]), "MATTELINE_TOKEN"),
    "an optional token": (
        lambda _, box, __: box["env"][0]["valueFrom"]["secretKeyRef"].update(optional=True),
        "not optional",
    ),
    "no memory limit": (lambda _, box, __: box["resources"]["limits"].pop("memory"), "no memory limit"),
    "no drain": (lambda _, box, __: box.pop("lifecycle"), "must drain"),
    "other Ray": (lambda spec, _, __: spec["rayClusterConfig"].update(rayVersion="2.59.0"), "rayVersion 2.59.0"),
    "replicas on the head": (
        lambda spec, _, __: spec["rayClusterConfig"]["headGroupSpec"].update(rayStartParams={}),
        "num-cpus must be 0",
    ),
    "another application": (lambda _, __, made: made.update(import_path="x:y"), "the application is"),
    "no replica": (lambda _, __, made: made["deployments"][0]["autoscaling_config"].update(min_replicas=0), "min_replicas"),
    "too many replicas": (
        lambda _, __, made: made["deployments"][0]["autoscaling_config"].update(max_replicas=13),
        "13 replicas of num_gpus 0.5 do not fit",
    ),
    "too many CPUs": (lambda _, __, made: made["deployments"][0]["ray_actor_options"].update(num_cpus=5), "of num_cpus 5"),
    "a queue that is never full": (lambda _, __, made: made["deployments"][0].update(max_ongoing_requests=5), "args.queue"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_the_rules_find_a_mistake(mistake: str, objects: list[Tree], locked_ray: str) -> None:
    changed = copy.deepcopy(objects)
    (service,) = (thing for thing in changed if thing["kind"] == "RayService")
    made = yaml.safe_load(service["spec"]["serveConfigV2"])
    (box,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    break_it, message = BROKEN[mistake]
    break_it(service["spec"], box, made["applications"][0])
    service["spec"]["serveConfigV2"] = yaml.safe_dump(made)
    assert any(message in found for found in violations(changed, locked_ray))


def test_a_schema_finds_a_misspelt_field(objects: list[Tree], refused: Callable[[list[Tree]], list[str]]) -> None:
    (service,) = (thing for thing in objects if thing["kind"] == "RayService")
    service["spec"]["serveConfig"] = service["spec"].pop("serveConfigV2")
    assert refused(objects)


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    """Ours by their definition, Ray Serve's by the source of the installed version."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"][0]["rules"]
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    queries = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"\bray_(?!io_)\w+", query)}
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    ours = {metric.exported + end for metric in ON_RAY.values() for end in ends.get(metric.kind, ("",))}
    source = "".join(path.read_text(encoding="utf-8") for path in RAY_SERVE.glob("_private/*.py"))
    named = {name.replace("{protocol_name}", "http") for name in re.findall(r'"(serve_[\w{}]+)"', source)}
    theirs = {f"ray_{name}{end}" for name in named for end in ("", "_total")}  # Ray adds the end to counters
    assert used <= ours | theirs and used & ours and used & theirs
    readme = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    for rule in rules:
        assert f"`{rule['alert']}`" in readme
    labels = {name for query in queries for name in re.findall(r'(\w+)=~?"', query)}
    assert labels <= {"application", "deployment", "ray_io_cluster", "status", "status_code", "path"}
    by_name = {rule["alert"]: rule["expr"] for rule in rules}
    assert 'or absent(ray_serve_deployment_replica_healthy{deployment="Cutouts"})' in by_name["MattelineServiceDown"]
    for name in ("MattelineServiceFull", "MattelineServiceFails"):  # requests that no replica takes are counted by proxies only
        assert "ray_matteline" not in by_name[name] and '"status_code"' in source


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
@pytest.mark.parametrize("case", ["the head is gone", "the proxy refuses", "all is well"])
def test_the_alerts_fire_when_they_should(case: str, tmp_path: Path) -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]
    (tmp_path / "rules.yml").write_text(json.dumps(rules))
    answers = 'ray_serve_num_http_requests_total{application="matteline",ray_io_cluster="c",status_code="%s"}'
    series = {
        answers % 200: "0+60x30",
        answers % 503: "0+60x30" if case == "the proxy refuses" else "0+0x30",
    }
    if case != "the head is gone":
        series['ray_serve_deployment_replica_healthy{deployment="Cutouts",ray_io_cluster="c"}'] = "1+0x30"
    firing = {"the head is gone": "MattelineServiceDown", "the proxy refuses": "MattelineServiceFull"}.get(case)
    shown = {
        rule["alert"]: f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}})'
        for rule in rules["groups"][0]["rules"]
    }
    asked = [
        {"expr": expr, "eval_time": "25m", "exp_samples": [{"labels": "{}", "value": 1}] if name == firing else []}
        for name, expr in shown.items()
    ]
    test = {"interval": "1m", "input_series": [{"series": one, "values": of} for one, of in series.items()]}
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test | {"promql_expr_test": asked}]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
