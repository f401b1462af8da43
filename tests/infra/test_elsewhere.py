"""Monitoring uses metrics that exist, the files of ``elsewhere`` are valid, and versions agree."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from jobs.options import seconds
from pipeline.output.lease import TTL_S
from pipeline.output.progress import BEAT_S
from pipeline.run.metrics import ALL

INFRA = Path(__file__).resolve().parents[2] / "infra"
MONITORING = INFRA / "components" / "monitoring"
RAY = Path(ray.__file__).parent


def metrics(text: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z_]+(?=[{\[) ,]|\\?\")", text)) - {"ray_io_cluster", "ray_io_group"}


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_every_metric_is_ours_or_in_a_dashboard_of_ray(name: str) -> None:
    theirs = "".join(path.read_text() for path in (RAY / "dashboard/modules/metrics/dashboards").glob("*_panels.py"))
    known = set(re.findall(r"\bray_[a-z_]+", theirs))
    known |= {metric.exported + end for metric in ALL for end in ("", "_bucket", "_sum", "_count")}
    used = metrics((MONITORING / name).read_text(encoding="utf-8"))
    assert len(used) >= 4
    assert used - known == set()


def test_a_healthy_lease_does_not_raise_the_alert() -> None:
    """It is renewed every TTL_S / 4, exported by Ray every 10 s, and scraped at the interval of the PodMonitor."""
    (endpoint,) = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text(encoding="utf-8"))["spec"]["podMetricsEndpoints"]
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"][0]["rules"]
    (rule,) = (rule for rule in rules if rule["alert"] == "MattelineLeaseOld")
    (limit,) = re.findall(r"> (\d+)$", rule["expr"])
    oldest = TTL_S / 4 + BEAT_S + 10 + seconds(endpoint["interval"])
    assert oldest + 15 <= int(limit) < int(limit) + seconds(rule["for"]) < TTL_S


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_aws_cluster_matches_the_schema_of_ray() -> None:
    cluster: dict[str, Any] = yaml.safe_load((INFRA / "elsewhere" / "aws-ray-cluster.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, json.loads((RAY / "autoscaler" / "ray-schema.json").read_text()))
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_dag_is_valid_python() -> None:
    ast.parse((INFRA / "elsewhere" / "airflow_dag.py").read_text(encoding="utf-8"))


def test_one_version_of_ray_is_used_everywhere(locked_ray: str, bars: Any) -> None:
    named = {
        path.name: set(re.findall(r"-ray(\d+\.\d+\.\d+)", path.read_text(encoding="utf-8")))
        for path in INFRA.rglob("*")
        if path.is_file() and path.suffix != ".jpg"
    }
    other = sorted(name for name, versions in named.items() if versions - {locked_ray})
    assert sum(bool(versions) for versions in named.values()) >= 6
    bars.at_most(f"files of infra/ that name another Ray than the lock {other or ''}".strip(), len(other), 0)


def test_every_image_tag_has_the_version_of_the_package() -> None:
    version = tomllib.loads((INFRA.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    texts = [path.read_text(encoding="utf-8") for path in INFRA.rglob("*") if path.suffix in {".md", ".py", ".yaml"}]
    tags = {tag for text in texts for tag in re.findall(r"example/matteline:(\S+?)-ray", text)}
    assert tags == {version}
