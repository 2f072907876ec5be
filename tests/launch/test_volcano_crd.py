"""The tables of strict_schema.py, and what is rendered, against Volcano's whole CRD where one is given.

TORCHFLAVA_VOLCANO_CRD=FILE names it: config/crd/volcano/bases/batch.volcano.sh_jobs.yaml of Volcano's sources.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from strict_schema import VOLCANO, faults

CRD = os.environ.get("TORCHFLAVA_VOLCANO_CRD")
pytestmark = pytest.mark.skipif(not CRD, reason="TORCHFLAVA_VOLCANO_CRD names no CRD of Volcano's jobs")

EVERYTHING = (
    "queue=high,namespace=ml,service_account=trainer,priority_class=urgent,grace=600,secrets=wandb;hf:HF_TOKEN,"
    "devices=vpc.amazonaws.com/efa:4;hugepages-2Mi:5Gi;rdma/hca:1,node_selector=pool:gpu,tolerations=gpu;pool:x,"
    "image_secret=registry,fs_group=1000"
)


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    documents = yaml.safe_load_all(Path(str(CRD)).read_text())
    versions = next(one for one in documents if one)["spec"]["versions"]
    return dict(next(one for one in versions if one["name"] == "v1alpha1")["schema"]["openAPIV3Schema"])


def kind_of(schema: dict[str, Any]) -> str:
    """A schema's type in the language of the tables, without the names of objects."""
    if schema["type"] == "array":
        return f"list[{kind_of(schema['items'])}]"
    if "additionalProperties" in schema:
        return f"dict(str, {kind_of(schema['additionalProperties'])})"
    return {"string": "str", "integer": "int", "boolean": "bool", "object": "object"}[schema["type"]]


def test_the_tables_are_the_crd_s(crd: dict[str, Any]) -> None:
    spec = crd["properties"]["spec"]["properties"]
    task = spec["tasks"]["items"]["properties"]
    template = task["template"]["properties"]
    there = {
        "Job": crd["properties"],
        "JobSpec": spec,
        "Task": task,
        "Policy": spec["policies"]["items"]["properties"],
        "Template": template,
        "Metadata": template["metadata"]["properties"],
    }
    assert there.keys() == VOLCANO.keys()
    objects = "|".join([*VOLCANO, "V1PodSpec"])
    for name, fields in VOLCANO.items():
        for field, kind in fields.items():
            plain = re.sub(rf"\b({objects})\b", "object", kind)
            assert plain == kind_of(there[name][field]), f"{name}.{field}"


def differences(value: Any, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Where a value leaves a schema; top-level metadata is Kubernetes' own and free."""
    if path == "$.metadata" or schema.get("x-kubernetes-int-or-string"):
        return
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if type(value) is not kinds[schema["type"]]:
        yield f"{path}: {value!r}"
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from differences(entry, schema["items"], f"{path}[{index}]")
    elif isinstance(value, dict):
        yield from (f"{path}: lacks {name}" for name in schema.get("required", ()) if name not in value)
        for name, entry in value.items():
            below = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if below is None:
                yield f"{path}: unknown {name}"
            else:
                yield from differences(entry, below, f"{path}.{name}")
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} has not the form {schema['pattern']}"


@pytest.mark.parametrize("nodes", ["1", "8", "2:4"])
@pytest.mark.parametrize("options", ["", EVERYTHING])
def test_what_is_rendered_is_valid(
    rendered: Callable[..., dict[str, Any]], crd: dict[str, Any], nodes: str, options: str
) -> None:
    mounts = "type=bind,src=/data,dst=/data,readonly,type=volume,src=runs,dst=/runs,type=device,src=/dev/fuse"
    words = ["--gpus", "8", "--cpus", "96", "--mem-gb", "1000", "--retries", "5", "--mounts", mounts]
    job = rendered("--nodes", nodes, *words, options=options)
    assert [*differences(job, crd)] == faults(job) == []


@pytest.mark.parametrize(
    ("at", "value"),
    [("replicaz", 1), ("replicas", "1"), ("name", "Not_A_Label"), ("policies", {})],
)
def test_both_find_what_is_wrong(
    rendered: Callable[..., dict[str, Any]], crd: dict[str, Any], at: str, value: object
) -> None:
    job = rendered()
    job["spec"]["tasks"][0][at] = value
    assert [*differences(job, crd)] != []
    assert faults(job) != []
