"""Test docker-compose.yml: valid by the specification, secure by its settings, and each of its commands works.

There is no container engine in the tests: the services' commands run as plain processes with the services'
environment, in the file's order, against real servers.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import socket
import sys
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import jsonschema
import pytest

from coordination.settings import load_settings
from tests.support import compose
from tests.support.processes import Process, Processes, until
from tests.support.sources import ROOT

OURS = ("migrate", "worker", "beat", "flower")
ALL = {"postgres", "redis", *OURS}


@pytest.fixture
def document() -> dict[str, Any]:
    return compose.filled_in(compose.raw(), {})


@pytest.fixture
def services(document: dict[str, Any]) -> dict[str, Any]:
    return document["services"]


@pytest.fixture(scope="module")
def specification() -> jsonschema.Draft7Validator:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator(schema)


class TestTheFile:
    def test_is_valid_by_the_compose_specification(
        self, specification: jsonschema.Draft7Validator, document: dict[str, Any]
    ) -> None:
        for form in (compose.raw(), document):
            errors = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in specification.iter_errors(form)]

            assert not errors

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("services", "worker", "restrat"), "always"),
            (("services", "worker", "depends_on", "redis", "condition"), "service_well"),
            (("services", "redis", "healthcheck", "retries"), [3]),
            (("service",), {}),
        ],
    )
    def test_the_specification_would_notice_a_mistake(
        self, specification: jsonschema.Draft7Validator, path: tuple[str, ...], value: object
    ) -> None:
        broken = copy.deepcopy(compose.raw())
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

        assert not specification.is_valid(broken)

    def test_names_the_services_that_the_readme_promises(self, document: dict[str, Any]) -> None:
        assert set(document["services"]) == ALL
        assert "version" not in document

    def test_every_volume_it_mounts_is_declared(self, document: dict[str, Any]) -> None:
        mounted = {
            volume.partition(":")[0]
            for service in document["services"].values()
            for volume in service.get("volumes", [])
        }

        assert mounted == set(document["volumes"])

    def test_every_variable_can_be_set_from_outside(self) -> None:
        outside = {"POSTGRES_PASSWORD": "pg", "REDIS_PASSWORD": "re", "FLOWER_PASSWORD": "fl", "FLOWER_PORT": "5600"}

        services = compose.filled_in(compose.raw(), outside)["services"]

        assert services["worker"]["environment"]["COORD_DATABASE_URL"] == "postgresql://coord:pg@postgres:5432/coord"
        assert services["worker"]["environment"]["COORD_REDIS_URL"] == "redis://:re@redis:6379/0"
        assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "pg"
        assert services["redis"]["command"][2] == services["redis"]["environment"]["REDISCLI_AUTH"] == "re"
        assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "coord:fl"
        assert services["flower"]["ports"] == ["127.0.0.1:5600:5555"]


class TestTheOrder:
    def test_nobody_starts_before_what_it_needs(self, services: dict[str, Any]) -> None:
        order = compose.start_order(services)

        assert {*order[:2]} == {"postgres", "redis"}
        assert order[2] == "migrate"

    def test_who_is_waited_for_can_say_that_it_is_there(self, services: dict[str, Any]) -> None:
        for name, other, condition in compose.conditions(services):
            if condition == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
            else:
                assert condition == "service_completed_successfully"
                assert services[other]["restart"] == "no", f"{name} waits for the end of {other}"

    def test_all_but_the_migration_wait_for_it(self, services: dict[str, Any]) -> None:
        waits = {(name, other) for name, other, _ in compose.conditions(services)}

        assert {(name, "migrate") for name in OURS if name != "migrate"} <= waits


class TestScalingAndSafety:
    def test_workers_can_be_multiplied(self, services: dict[str, Any]) -> None:
        assert not {"container_name", "ports", "hostname"} & services["worker"].keys()

    def test_a_stopped_worker_has_time_to_hand_its_jobs_back(self, services: dict[str, Any]) -> None:
        minutes = re.fullmatch(r"(\d+)m", services["worker"]["stop_grace_period"])
        assert minutes is not None

        assert timedelta(minutes=int(minutes[1])) > 2 * load_settings({"HOME": "/nowhere"}).shutdown_grace

    def test_redis_keeps_what_it_is_told(self, services: dict[str, Any]) -> None:
        command = " ".join(services["redis"]["command"])

        assert "--appendonly yes" in command
        assert "--maxmemory-policy noeviction" in command
        assert services["redis"]["volumes"] == ["redis:/data"]

    def test_nothing_but_flower_can_be_reached_and_that_from_this_machine_only(self, services: dict[str, Any]) -> None:
        published = {name: service["ports"] for name, service in services.items() if "ports" in service}

        assert published == {"flower": ["127.0.0.1:5555:5555"]}

    @pytest.mark.parametrize("name", sorted(ALL))
    def test_a_container_can_do_little_harm(self, services: dict[str, Any], name: str) -> None:
        service = services[name]

        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")

    def test_the_image_runs_as_an_ordinary_user(self) -> None:
        last_stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]

        users = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)

        assert users == ["coord"]
        assert "curl" not in last_stage

    def test_the_image_holds_all_that_is_copied_into_it(self) -> None:
        let_in = {
            line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
        }
        copied = {
            name
            for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
            for name in line.split()
        }

        assert copied == let_in
        assert all((ROOT / name).exists() for name in copied)

    def test_the_environment_is_one_that_the_settings_understand(self, services: dict[str, Any]) -> None:
        for name in OURS:
            settings = load_settings(services[name]["environment"])

            assert not settings.embedded
            assert settings.database_url == "postgresql+psycopg://coord:coord@postgres:5432/coord"
            assert str(settings.home) == "/var/lib/coord"


class Stack:
    """The services of the file as processes on this machine."""

    def __init__(
        self, services: Mapping[str, Any], processes: Processes, folder: Path, urls: Mapping[str, str]
    ) -> None:
        self._services = services
        self._processes = processes
        self._urls = urls
        self.home = folder / "home"
        self.home.mkdir()
        self.port = _free_port()
        self._places = {
            "/var/lib/coord": str(self.home),
            "/tmp/": f"{folder}/",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - what a container may do and this machine should not
            "5555": str(self.port),
        }

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables that the service's container would have, with paths of this machine."""
        image = {"HOME": str(self.home), "HOSTNAME": socket.gethostname()}
        return (
            image | {key: self._here(value) for key, value in self._services[name]["environment"].items()} | self._urls
        )

    def command(self, name: str, *, key: str = "command") -> list[str]:
        """Return the service's command (or its health check) as it runs here."""
        words = self._services[name][key]
        if key == "healthcheck":
            kind, *words = words["test"]
            if kind == "CMD-SHELL":
                words = ["sh", "-c", *words]
        return [_python_of_the_tests(self._here(word)) for word in words]

    def start(self, name: str, *more: str, announces: bool = False) -> Process:
        """Start one container of the service."""
        command = [*self.command(name), *more]
        return self._processes.start(*command, env=self.environment(name), cwd=self.home, announces=announces)

    def check_health(self, name: str) -> None:
        """Run the service's health check once."""
        check = self._processes.start(*self.command(name, key="healthcheck"), env=self.environment(name), cwd=self.home)

        assert check.wait() == 0, check.output

    def ask_flower(self, path: str, *, who: str = "coord:coord") -> str:
        """Return a page of Flower."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        token = base64.b64encode(who.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own address
            return response.read().decode()

    def _here(self, text: str) -> str:
        # In one pass: a replacement on this machine may contain the name of a path in the container.
        return re.sub("|".join(map(re.escape, self._places)), lambda match: self._places[match.group()], text)


@pytest.fixture
def stack(
    services: dict[str, Any], processes: Processes, tmp_path: Path, blank_postgres_url: str, redis_url: str
) -> Stack:
    urls = {"COORD_DATABASE_URL": blank_postgres_url, "COORD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    return Stack(services, processes, tmp_path, urls)


SUBMIT = """
from datetime import timedelta
from coordination import Plan, Task, connect
from coordination.domain.plans.plans import ProjectRef

with connect() as co:
    run = co.submit(
        Plan(
            name="containers",
            project=ProjectRef(name="harbour"),
            tasks=[
                Task("load", {"shell": "echo 3 crates"}, title="Load the crates"),
                Task("sail", {"python": "posixpath:basename", "args": {"p": "over/sea"}}, needs=["load"]),
                Task("unload", {"shell": "echo unloaded"}, title="Unload them", needs=["sail"]),
            ],
        )
    )
    run.wait(timeout=60)
    print("state", run.state)
    for key in ("load", "sail", "unload"):
        print(key, run.task(key).output)
"""


@pytest.mark.timeout(240)
def test_the_services_run_a_plan_together_and_end_when_told(stack: Stack, processes: Processes) -> None:
    migrated = stack.start("migrate")
    assert migrated.wait() == 0, migrated.output
    # Containers have a host name each; on one machine the second worker needs another name.
    workers = [stack.start("worker", *more, announces=True) for more in ((), ("--hostname", "second@%h"))]
    beat, flower = stack.start("beat"), stack.start("flower")
    for worker in workers:
        worker.wait_until_ready()
    flower.wait_for_port(stack.port)
    stack.check_health("worker")
    stack.check_health("flower")
    until(lambda: _alive(stack) == 2, what="Flower hears the workers")
    # Workers send task events once Flower has asked for them; beat's first sweep shows that they do.
    until(lambda: _shown(stack, "coordination.sweep"), what="Flower hears of tasks")

    client = processes.start_python("-c", SUBMIT, env=stack.environment("worker"))

    assert client.wait(within=timedelta(seconds=90)) == 0, client.output
    assert client.output.split("\n")[:4] == ["state completed", "load 3 crates", "sail sea", "unload unloaded"]
    shown = until(lambda: _shown(stack, "Unload them"), what="Flower shows the last job")
    assert re.search(r"harbour.*unload", shown)
    with pytest.raises(HTTPError, match="401"):
        stack.ask_flower("/api/tasks", who="coord:guessed")
    for process in (*workers, beat, flower):
        assert process.exit_code is None, process.output
        assert process.stop() == 0, process.output


def _alive(stack: Stack) -> int:
    listed = json.loads(stack.ask_flower("/workers?json=1"))
    return sum(bool(worker["status"]) for worker in listed["data"])


def _shown(stack: Stack, title: str) -> str:
    tasks = stack.ask_flower("/api/tasks")
    return tasks if title in tasks else ""


def _python_of_the_tests(word: str) -> str:
    return sys.executable if word == "python" else re.sub(r"^python ", f"'{sys.executable}' ", word)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
