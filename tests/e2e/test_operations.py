"""A real server in operation: pulled from, measured, guarded, killed, stopped under load, and served from the store."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

import leap_zoo
from leap_zoo.pull import pull
from leap_zoo.store import default_model
from tools import load_trials
from tools.http_load import photo_request
from tools.server_process import ServerProcess, free_port

if TYPE_CHECKING:
    from conftest import Server

ROOT = Path(__file__).parents[2]
TINY = "leap-tiny-test"
DRAIN = "6"  # seconds: on a busy machine, a client may take one or two to send what it has begun
KEY = "k3y-k3y-k3y-k3y-k3y"


@pytest.fixture
def variables(tiny_zoo: Path) -> dict[str, str]:
    return {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": TINY}


@pytest.fixture
def red(colour_photos: dict[str, Path]) -> bytes:
    return colour_photos["red"].read_bytes()


def test_pull__from_a_running_server(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path))
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    done = pull(TINY, server.url + "/zoo", everything=True)
    assert all(file.downloaded for file in done.files)
    assert leap_zoo.load(TINY).card.id == TINY
    again = pull(TINY, server.url + "/zoo", everything=True)
    assert not any(file.downloaded for file in again.files)


def test_zoo__a_download_goes_on_where_it_stopped(server, tiny_zoo: Path) -> None:
    url = f"{server.url}/zoo/{TINY}/model_int8.onnx"
    whole = (tiny_zoo / TINY / "model_int8.onnx").read_bytes()
    head = httpx.head(url, timeout=60)
    assert head.headers["content-length"] == str(len(whole))
    rest = httpx.get(url, headers={"range": "bytes=100-", "if-range": head.headers["etag"]}, timeout=60)
    assert (rest.status_code, rest.content) == (206, whole[100:])


def log_lines(server) -> list[dict[str, Any]]:
    """What the server's own loggers said."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_metrics__include_bentomls(server, red: bytes) -> None:
    image = {"content-type": "image/jpeg", "x-request-id": "known"}
    answer = httpx.post(server.url + "/v1/embed", content=red, headers=image, timeout=60)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "known")
    httpx.post(server.url + "/classify", content=red, headers={"content-type": "image/jpeg"}, timeout=60)
    series = httpx.get(server.url + "/metrics", timeout=60).text.count("\n")
    for guess in range(5):
        for path in (f"/v1/guess-{guess}", f"/guess-{guess}", f"/zoo/guess-{guess}/card.json", f"/ui/guess-{guess}"):
            assert httpx.get(server.url + path, timeout=60).status_code == 404
            assert httpx.request(f"GUESS{guess}", server.url + path, timeout=60).status_code in (400, 404, 405)
    text = httpx.get(server.url + "/metrics", timeout=60).text
    # One route `unmatched`, the templates of /zoo and /ui, and for each a status class and a method `other`.
    assert text.count("\n") - series < 4 * 25
    assert httpx.get(server.url + "/v1/again", timeout=60).status_code == 404
    assert httpx.get(server.url + "/metrics", timeout=60).text.count("\n") == text.count("\n")
    assert 'leap_zoo_requests_total{method="POST",route="/v1/embed",status_class="2xx"}' in text
    assert 'leap_zoo_stage_seconds_count{stage="inference"}' in text
    assert "bentoml_service_request_total" in text
    assert "guess" not in text
    (served,) = [line for line in log_lines(server) if line.get("request_id") == "known"]
    assert (served["logger"], served["route"], served["status"]) == ("leap_zoo.serve.access", "/v1/embed", 200)


def test_keys__guard_a_server(start, variables: dict[str, str], tmp_path: Path, red: bytes) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{KEY}\n")
    closed = {"LEAP_ZOO_SERVE_KEYS_FILE": str(keys), "LEAP_ZOO_SERVE_METRICS": "key", "LEAP_ZOO_SERVE_UI": "on"}
    with start(**variables, **closed) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        for path in ("/v1/models", "/zoo/index.json", "/ui/", "/metrics"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"x-api-key": KEY}).status_code == 200
        image = {"content-type": "image/jpeg", "authorization": f"Bearer {KEY}"}
        for path in ("/v1/classify", "/classify"):
            assert http.post(path, content=red).status_code == 401
            assert http.post(path, content=red, headers=image).status_code == 200
        assert http.get("/readyz").status_code == 200
        keys.write_text("bob:" + "b" * 20)
        deadline = time.monotonic() + 60
        while http.get("/v1/models", headers={"x-api-key": KEY}).status_code != 401:
            assert time.monotonic() < deadline, "the keys were not read again"
            time.sleep(0.1)
        assert "alice" in [line.get("key") for line in log_lines(server)]
        assert KEY not in server.log.read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEAP_ZOO_SERVE_KEYS_FIEL", "x"), ("LEAP_ZOO_SERVE_KEYS_FILE", "/nowhere/keys")],
)
def test_start__a_wrong_setting_ends_it(start, variables: dict[str, str], name: str, value: str) -> None:
    with start(wait=False, **variables, **{name: value}) as server:
        assert server.process.wait(120) == 1
        said = server.log.read_text()
        assert "Cannot serve" in said
        assert "LEAP_ZOO_SERVE_" in said
        assert "Traceback" not in said


class Load:
    """Clients that ask all the time, each over a connection that it keeps. A request is lost when it was begun over
    a connection, and no answer came.
    """

    def __init__(self, url: str, photo: bytes, clients: int = 8) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self.refused = 0
        self.stop = threading.Event()
        self._url, self._photo = url, photo
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as http:
            while not self.stop.is_set():
                try:
                    status = http.post(
                        "/v1/embed", content=self._photo, headers={"content-type": "image/jpeg"}
                    ).status_code
                except httpx.ConnectError:
                    self.refused += 1
                    return
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    return
                if status == 200:
                    self.answered += 1
                else:
                    self.failed.append(str(status))


def test_stop__under_load_and_with_an_open_page_loses_no_accepted_request(
    start, variables: dict[str, str], red: bytes
) -> None:
    """Gradio's page keeps an event stream open for as long as its tab lives."""
    with (
        start(**variables, LEAP_ZOO_SERVE_DRAIN=DRAIN, LEAP_ZOO_SERVE_UI="on") as server,
        httpx.stream("GET", server.url + "/ui/gradio_api/heartbeat/tab", timeout=60) as stream,
        Load(server.url, red) as load,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "data: ALIVE"
        while load.answered < 50:
            time.sleep(0.01)
        server.terminate(seconds=120)  # without an end to the stream, never
        load.stop.set()
        assert not [line for line in lines if line]  # the stream has been ended, not broken off
        said = server.log.read_text()
        assert load.failed == []  # who came too late was refused
        assert [line.get("route") for line in log_lines(server)].count("/v1/embed") == load.answered
        assert "Traceback" not in said


def test_stop__loses_nothing_of_new_idle_and_busy_connections(start, variables: dict[str, str], red: bytes) -> None:
    """Clients that pause have connections that the server must close, and a request may come just then."""
    with start(**variables, LEAP_ZOO_SERVE_DRAIN=DRAIN, LEAP_ZOO_SERVE_UI="on") as server:
        trial = load_trials.stop_under_load(
            ServerProcess(server.port, server.process), photo_request("/v1/embed", red), seconds=1
        )
        found = asyncio.run(trial)
    assert found["lost"] == []
    assert found["other_statuses"] == {}
    assert found["answered_after_signal"] > 0


@pytest.fixture(scope="module")
def mortal(start, tiny_zoo: Path) -> Iterator[Server]:
    """A server whose worker may be ended, and which answers two requests at a time."""
    variables = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": TINY, "LEAP_ZOO_SERVE_CONCURRENCY": "2"}
    with start(**variables) as server:
        yield server


def test_overload__the_excess_is_refused_and_all_is_well_after(mortal: Server, red: bytes) -> None:
    """How soon, and how much memory it takes, depends on the machine: docs/serving.md has what was measured."""
    photo = {"content": red, "headers": {"content-type": "image/jpeg"}}
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=mortal.url, timeout=120) as http:
            while not {200, 503} <= {answer.status_code for answer in answers}:
                answers.append(http.post("/v1/embed", **photo))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {answer.status_code for answer in answers} == {200, 503}
    busy = [answer for answer in answers if answer.status_code == 503]
    assert {(answer.json()["code"], int(answer.headers["retry-after"]) > 0) for answer in busy} == {("busy", True)}
    with httpx.Client(base_url=mortal.url, timeout=120) as http:
        assert [http.post("/v1/embed", **photo).status_code for _ in range(10)] == [200] * 10


def test_kill__a_worker_comes_back(mortal: Server, red: bytes) -> None:
    server = mortal
    with Load(server.url, red, clients=2) as load:
        while load.answered < 10:
            time.sleep(0.01)
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                photo = {"content": red, "headers": {"content-type": "image/jpeg"}}
                if httpx.post(server.url + "/v1/embed", timeout=5, **photo).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            pytest.fail(server.log.read_text()[-3000:])
        load.stop.set()
        assert psutil.Process(server.process.pid).children()[0].pid != worker.pid
        text = httpx.get(server.url + "/metrics", timeout=60).text
        assert float(text.partition("\nleap_zoo_in_flight ")[2].split("\n")[0]) <= 3  # those of the dead are forgotten


def test_stop__of_the_worker_alone_brings_another(mortal: Server) -> None:
    (worker,) = psutil.Process(mortal.process.pid).children()
    worker.terminate()
    worker.wait(60)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            assert httpx.get(mortal.url + "/readyz", timeout=5).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(mortal.log.read_text()[-3000:])


@pytest.fixture(scope="module")
def bento(torchless: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """A store with a bento of this checkout: the environment that has it, and the bento's folder."""
    env = torchless | {"BENTOML_HOME": str(tmp_path_factory.mktemp("store")), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    name, _, version = done.stdout.strip().rpartition("__tag__:")[2].partition(":")
    return env, Path(env["BENTOML_HOME"]) / "bentos" / name / version


def test_bento__holds_what_it_needs_and_no_more(bento: tuple[dict[str, str], Path]) -> None:
    _, folder = bento
    source = folder / "src"
    assert sorted(path.name for path in source.iterdir()) == ["README.md", "bentofile.yaml", "leap_zoo", "serve"]
    assert (source / "serve" / "index.html").is_file()
    assert (source / "leap_zoo" / "bundled" / "index.json").is_file()
    packages = (folder / "env" / "python" / "requirements.txt").read_text()
    for package in ("onnxruntime", "msgspec", "gradio", "uvloop", "orjson", "qdrant-client"):
        assert f"\n{package}==" in "\n" + packages
    assert "torch" not in packages
    dockerfile = (folder / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM python:3.11-slim" in dockerfile
    assert "ARG BENTOML_DO_NOT_TRACK=True" in dockerfile
    assert "\nUSER bentoml\n" in dockerfile


def test_bento__is_served_from_the_store(
    bento: tuple[dict[str, str], Path], tmp_path: Path, sample_photos: list[Path]
) -> None:
    env, _ = bento
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "leap-zoo:latest", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(url + "/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        answer = httpx.post(url + "/v1/classify", files={"image": sample_photos[0].read_bytes()}, timeout=60)
        assert answer.status_code == 200, log.read_text()[-3000:]
        assert answer.headers["x-content-type-options"] == "nosniff"  # our outermost layer came along
        assert httpx.get(url + "/ui/", timeout=60).status_code == 200
        assert httpx.get(url + "/zoo/index.json", timeout=60).json()["models"][0]["id"] == default_model()
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def test_deploy__manifests_are_consistent() -> None:
    folder = ROOT / "docs" / "deploy"
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    (service,) = compose["services"].values()
    assert {name.partition(":")[0] for name in service["volumes"]} <= set(compose["volumes"])
    assert set(service["secrets"]) <= set(compose["secrets"])
    claim, deployment, balancer = yaml.safe_load_all((folder / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert balancer["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment.keys() | {"LEAP_ZOO_SERVE_KEYS_FILE"} == service["environment"].keys()
    from serve.settings import read_serve_settings

    for found in (environment, service["environment"]):
        assert read_serve_settings(found).data == Path("/home/bentoml/data")
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/readyz",
        "/livez",
    }
