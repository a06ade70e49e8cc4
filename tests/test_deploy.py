"""The files of deploy/: the pages show them as they are, they fit the program and each other, and what reads them takes
them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from gateway import cli
from gateway.api.door import OPERATIONS
from gateway.serve import GRACE_S
from tests.conftest import ROOT, build_from
from tests.engines.environments import NotHere, environment

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNIT = (DEPLOY / "onion-gateway.service").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SHOWN = {  # by file: the page that has it, and its block there
    "onion-gateway.service": ("deploy.md", "ini", 0),
    "compose.yaml": ("deploy.md", "yml", 0),
    "nginx.conf": ("reverse-proxy.md", "nginx", 0),
    "Caddyfile": ("reverse-proxy.md", "caddy", 0),
    "envoy.yaml": ("reverse-proxy.md", "yml", 0),
}
KUBERNETES_VALIDATE, KUBERNETES = "kubernetes-validate==1.37.0", "1.37"
REPLICAS = sorted((DEPLOY / "replicas").glob("*.yaml"))
COMPOSE_SPEC = "compose-spec==0.2.1"


def manifests(kind: str) -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text()) if one["kind"] == kind]


def only(kind: str) -> dict[str, Any]:
    (found,) = manifests(kind)
    return found


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    return found


def seconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)s?", text)
    assert found is not None, text
    return float(found[1])


def grace_in(words: list[str]) -> float:
    """Of a command line, after checking that the command has all its options."""
    assert words[:2] == ["gateway", "serve"]
    known = {name for option in get_command(cli.app).commands["serve"].params for name in option.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known
    return seconds(words[words.index("--grace-s") + 1]) if "--grace-s" in words else GRACE_S


@pytest.mark.parametrize("name", SHOWN)
def test_the_pages_show_the_files_as_they_are(name: str) -> None:
    page, language, number = SHOWN[name]
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks[number] == (DEPLOY / name).read_text()


def test_every_file_is_on_a_page() -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("deploy.md", "operations.md", "reverse-proxy.md"))
    for path in DEPLOY.rglob("*"):
        assert path.is_dir() or f"../deploy/{path.relative_to(DEPLOY)}" in text, path.name


def test_the_unit_gives_it_time_and_room_to_stop() -> None:
    start = re.search(r"^ExecStart=/opt/onion-gateway/bin/(.+)$", UNIT, re.MULTILINE)
    stop = re.search(r"^TimeoutStopSec=(.+)$", UNIT, re.MULTILINE)
    assert start is not None and stop is not None
    assert seconds(stop[1]) >= grace_in(start[1].split()) + 10
    for setting in ("NoNewPrivileges=yes", "ProtectSystem=strict", "User=onion-gateway", "KillMode=mixed"):
        assert f"\n{setting}\n" in UNIT
    assert "Environment=GATEWAY_HOME=/var/lib/onion-gateway\n" in UNIT and "StateDirectory=onion-gateway\n" in UNIT


def test_the_compose_file_fits_the_image() -> None:
    service = compose()
    assert seconds(service["stop_grace_period"]) >= GRACE_S + 10
    assert service["ports"] == ["127.0.0.1:8080:8080"] and "EXPOSE 8080" in DOCKERFILE
    places = {volume.split(":")[1] for volume in service["volumes"]}
    assert places == {"/data", "/config/models.yaml", "/config/policies"}
    for place in places:
        assert place in DOCKERFILE
    for volume in service["volumes"][1:]:
        assert (DEPLOY / volume.split(":")[0]).exists()
    assert service["read_only"] and service["cap_drop"] == ["ALL"]


def test_the_pod_gives_it_time_to_stop_and_is_looked_at_where_it_answers() -> None:
    pod = only("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before_s = seconds(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= before_s + grace_in(container["args"]) + 10
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert set(paths.values()) <= OPERATIONS
    assert only("Deployment")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] in OPERATIONS


def test_the_pods_are_the_images_and_share_their_folders() -> None:
    uid = re.search(r"--uid (\d+)", DOCKERFILE)
    assert uid is not None
    for kind in ("Deployment", "Job"):
        pod = only(kind)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsUser"] == int(uid[1])
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["data"] == "/data" and "GATEWAY_HOME=/data" in DOCKERFILE
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert claims == [only("PersistentVolumeClaim")["metadata"]["name"]]
    words = only("Job")["spec"]["template"]["spec"]["containers"][0]["command"]
    assert words[:3] == ["gateway", "keys", "create"]


def test_what_selects_pods_finds_the_server_and_the_port() -> None:
    template = only("Deployment")["spec"]["template"]
    labels, port = template["metadata"]["labels"], template["spec"]["containers"][0]["ports"][0]
    service, budget, network = (only(kind)["spec"] for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"))
    for selector in (
        only("Deployment")["spec"]["selector"]["matchLabels"],
        service["selector"],
        budget["selector"]["matchLabels"],
        network["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert service["ports"][0]["targetPort"] == port["name"]
    assert network["ingress"][0]["ports"][0]["port"] == port["containerPort"] == 8080


def test_the_configuration_of_the_cluster_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    data, folder = only("ConfigMap")["data"], only("Deployment")["spec"]["template"]["spec"]["volumes"][1]["configMap"]
    assert folder["name"] == only("ConfigMap")["metadata"]["name"]
    assert {item["key"] for item in folder["items"]} == set(data)
    gateway, _ = build_from(tmp_path, data["models.yaml"], default=data["default.yaml"])
    assert all(model.responder for model in gateway.models.values())


def replica(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "replicas" / name).read_text())


def test_replicas_are_the_one_but_for_what_they_share() -> None:
    alone, several = only("Deployment"), replica("deployment.yaml")
    assert several["spec"]["replicas"] > 1 and several["metadata"] == alone["metadata"]
    assert "rollingUpdate" in several["spec"]["strategy"]
    one, other = (each["spec"]["template"]["spec"] for each in (alone, several))
    (own,), (shared,) = one.pop("containers"), other.pop("containers")
    names = [variable["name"] for variable in shared["env"]]
    assert names == ["GATEWAY_DATABASE_URL", "GATEWAY_REDIS_URL", "GATEWAY_REPLICA", "OPENAI_API_KEY"]
    assert {**own, "env": None} == {**shared, "env": None}
    assert not any("persistentVolumeClaim" in volume for volume in other["volumes"])
    (keys,) = replica("first-key.yaml")["spec"]["template"]["spec"]["containers"]
    assert keys["env"] == shared["env"][:1]
    labels = several["spec"]["template"]["metadata"]["labels"]
    assert replica("network.yaml")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_gateways_of_the_compose_file_are_those_that_nginx_asks() -> None:
    services = replica("compose.yaml")["services"]
    gateways = {name: one for name, one in services.items() if one.get("image") == "onion-gateway"}
    page = (DEPLOY / "replicas" / "nginx.conf").read_text()
    assert set(re.findall(r"server (\S+):8080", page)) == set(gateways) and len(gateways) > 1
    for name, one in gateways.items():
        assert seconds(one["stop_grace_period"]) >= GRACE_S + 10
        assert one["hostname"] == name  # by which its models' timeline is known
        assert (DEPLOY / "replicas" / one["build"] / "Dockerfile").exists()
        for volume in one["volumes"][1:]:
            assert (DEPLOY / "replicas" / volume.split(":")[0]).exists()
    kept = [one["volumes"][0] for one in gateways.values()]
    assert len(set(kept)) == len(kept)
    written = page.partition("\n")[2].partition("keepalive")[2]
    assert written and written in (ROOT / "docs" / "replicas.md").read_text()


@pytest.mark.slow
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    program = shutil.which("true")
    unit = tmp_path / "onion-gateway.service"
    unit.write_text(UNIT.replace("/opt/onion-gateway/bin/gateway", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    looked = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(looked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]


def installed(name: str, package: str) -> Path:
    """The interpreter of an environment that has it."""

    def install(python: Path) -> None:
        done = subprocess.run([python, "-m", "pip", "install", "-q", package], capture_output=True, text=True)
        if done.returncode:
            raise NotHere(done.stderr[-200:])

    return environment(name, install) / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [*MANIFESTS, *(path for path in REPLICAS if path.name != "compose.yaml")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_kubernetes_takes_the_manifests(path: Path) -> None:
    command = installed("kubernetes-validate", KUBERNETES_VALIDATE).with_name("kubernetes-validate")
    done = subprocess.run([command, "-k", KUBERNETES, "--strict", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


TAKE = "import compose_spec, json, sys; print(json.dumps(compose_spec.PyCompose.from_yaml(sys.stdin.read()).to_dict()))"


@pytest.mark.slow
def test_compose_takes_the_file() -> None:
    python = installed("compose-spec", COMPOSE_SPEC)

    def take(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-c", TAKE], input=text, capture_output=True, text=True)

    text = (DEPLOY / "compose.yaml").read_text()
    for path in (DEPLOY / "compose.yaml", DEPLOY / "replicas" / "compose.yaml"):
        done = take(yaml.safe_dump(yaml.safe_load(path.read_text())))  # it knows no `<<`
        assert done.returncode == 0, done.stderr[-500:]
        assert list(json.loads(done.stdout)["services"]) == list(yaml.safe_load(path.read_text())["services"])
    assert take(text.replace("stop_grace_period", "stop_grace_perio")).returncode, "it would see a mistake"
