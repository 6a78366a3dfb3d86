"""deploy/: what the compose file promises about every container, and the whole of it on a Docker engine.

The engine's test builds the images. PYTHON_BASE, ENVOY_BASE and REDIS_IMAGE choose other base images, where the usual
ones cannot be pulled.
"""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.support.waiting import free_port, until_sync

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
SERVICES: dict[str, dict[str, object]] = yaml.safe_load(FILE.read_text())["services"]
IMAGES = {
    "PYTHON_BASE": "python:3.12-slim",
    "ENVOY_BASE": "debian:bookworm-slim",
    "REDIS_IMAGE": "redis:7-alpine",
}
PATIENCE_S = 120


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_container_has_no_rights_and_a_read_only_root(service: dict[str, object]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & service.keys()


def test_only_the_gateway_has_a_port_and_nobody_starts_before_what_it_needs_is_ready() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    for name, service in SERVICES.items():
        needs = service.get("depends_on", {})
        assert isinstance(needs, dict)
        for needed, how in needs.items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully"), (name, needed)
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed], (name, needed)


def test_envoy_is_started_beside_a_control_plane_that_works_whatever_the_services_behind_the_gateway_do() -> None:
    probes = {name: str(service["healthcheck"]) for name, service in SERVICES.items() if "healthcheck" in service}
    assert "/health/startup" in probes["control-plane"]
    assert "/health/ready" in probes["extauthz"]
    assert "/health/ready" in probes["ratelimit"]


def test_what_is_built_here_is_not_asked_of_a_registry() -> None:
    for name, service in SERVICES.items():
        if "causeway" in str(service["image"]):
            assert service["pull_policy"] == "${CAUSEWAY_PULL:-never}", name


@pytest.mark.parametrize("file", ["Dockerfile.python", "Dockerfile.envoy"])
def test_an_image_is_made_of_hashed_locks_and_runs_without_rights(file: str) -> None:
    text = (ROOT / "deploy" / file).read_text()
    final = text.rpartition("FROM ")[2]
    assert "--require-hashes" in text
    assert "USER 10001:10001" in final


@cache
def compose() -> tuple[str, ...] | None:
    for words in (("docker", "compose"), ("docker-compose",)):
        if (
            shutil.which(words[0])
            and subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0
        ):
            return words
    return None


def missing() -> str | None:
    """What is not there that the engine's test needs."""
    if not shutil.which("docker"):
        return "no docker command"
    if not _docker("info", within_s=20):
        return "no Docker engine answers"
    if compose() is None:
        return "no docker compose"
    for variable, usual in IMAGES.items():
        image = os.environ.get(variable, usual)
        if not _docker("image", "inspect", image, within_s=20) and not _docker("pull", "-q", image, within_s=120):
            return f"{image} cannot be pulled; set {variable}"
    return None


def _docker(*arguments: str, within_s: float) -> bool:
    """Whether it works, in time."""
    with suppress(subprocess.TimeoutExpired):
        run = subprocess.run(["docker", *arguments], capture_output=True, timeout=within_s, check=False)
        return run.returncode == 0
    return False


@dataclass(frozen=True)
class Deployed:
    port: int
    manifests: Path
    words: tuple[str, ...]
    environ: dict[str, str]

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as failure:
            return failure.code, failure.read().decode()

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self.words, *words], env=self.environ, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def until(self, path: str, status: int) -> str:
        seen: list[object] = []

        def is_answered() -> bool:
            try:
                seen[:] = self.get(path)
            except OSError as failure:
                seen[:] = [failure]
            return seen[0] == status

        until_sync(f"{path} answers {status}", is_answered, within_s=PATIENCE_S)
        return str(seen[1])


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    if reason := missing():
        pytest.skip(reason)
    manifests = tmp_path_factory.mktemp("deploy") / "quickstart"
    shutil.copytree(ROOT / "examples" / "quickstart", manifests)
    for entry in (manifests.parent, manifests):
        entry.chmod(0o755)  # the containers' user reads it
    port = free_port()
    words = (*(compose() or ()), "-f", str(FILE), "-p", f"causeway-test-{port}")
    environ = {**os.environ, "PORT": str(port), "MANIFESTS": str(manifests)}
    found = Deployed(port=port, manifests=manifests, words=words, environ=environ)
    try:
        found.run("build")
        found.run("up", "-d")
        yield found
    finally:
        subprocess.run([*words, "down", "-v", "-t", "10"], env=environ, capture_output=True, timeout=120, check=False)


@pytest.mark.docker
def test_the_deployment_answers_asks_for_tokens_and_follows_an_edit(deployed: Deployed) -> None:
    assert json.loads(deployed.until("/hello", 200)) == {"greeting": "Hello, world!"}
    assert json.loads(deployed.until("/orders", 401))["code"] == "credentials_missing"
    assert deployed.get("/new")[0] == 404
    hello = deployed.manifests / "hello.yaml"
    hello.write_text(hello.read_text() + "  - {path: /new, service: hello, auth: public, rewrite: {path: /hello}}\n")
    assert json.loads(deployed.until("/new", 200)) == {"greeting": "Hello, world!"}


@pytest.mark.docker
def test_a_limit_is_counted_in_redis(deployed: Deployed) -> None:
    deployed.until("/hello/you", 200)
    answers = [deployed.get("/hello/you")[0] for _ in range(6)]
    assert 429 in answers
    keys = deployed.run("exec", "-T", "redis", "redis-cli", "--scan")
    assert "greetings" in keys


@pytest.mark.docker
def test_the_containers_run_without_root(deployed: Deployed) -> None:
    for service in ("gateway", "control-plane", "extauthz", "ratelimit", "redis", "hello"):
        assert deployed.run("exec", "-T", service, "id", "-u").strip() == "10001", service


@pytest.mark.docker
def test_the_verbs_work_in_their_containers_without_a_folder_or_an_address(deployed: Deployed) -> None:
    deployed.until("/hello", 200)

    def causeway(service: str, *words: str) -> str:
        return deployed.run("exec", "-T", service, "causeway", *words).strip()

    token = causeway("control-plane", "token", "--sub", "alice")
    status, body = deployed.get("/orders", authorization=f"Bearer {token}")
    assert (status, json.loads(body)["user"]) == (200, "alice")
    assert "orders.yaml" in causeway("control-plane", "routes")
    assert "redis" in causeway("ratelimit", "limits")
    causeway("extauthz", "revoke", "--jti", "nobody's")
