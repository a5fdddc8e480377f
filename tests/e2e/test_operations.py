"""A real server in operation: pulled from, measured, guarded, killed, stopped under load, and served from the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import stat
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
    """What the server's own loggers said; lines of a moment are written together."""
    time.sleep(1)
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


def test_keys__guard_a_server(keyed_server, key: str, keys_file: Path, red: bytes) -> None:
    with httpx.Client(base_url=keyed_server.url, timeout=60) as http:
        for path in ("/v1/models", "/zoo/index.json", "/metrics"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"x-api-key": key}).status_code == 200
        image = {"content-type": "image/jpeg", "authorization": f"Bearer {key}"}
        for path in ("/v1/classify", "/classify"):
            assert http.post(path, content=red).status_code == 401
            assert http.post(path, content=red, headers=image).status_code == 200
        assert http.get("/readyz").status_code == 200
        assert "alice" in [line.get("key") for line in log_lines(keyed_server)]
        assert key not in keyed_server.log.read_text()

        def wait_for(status: int) -> None:
            deadline = time.monotonic() + 60
            while http.get("/v1/models", headers={"x-api-key": key}).status_code != status:
                assert time.monotonic() < deadline, "the keys were not read again"
                time.sleep(0.1)

        before = keys_file.read_text()
        try:
            keys_file.write_text("bob:" + "b" * 20)
            wait_for(401)
        finally:
            keys_file.write_text(before)
        wait_for(200)


def test_start__a_wrong_setting_ends_it(start, variables: dict[str, str]) -> None:
    with start(wait=False, **variables, LEAP_ZOO_SERVE_KEYS_FIEL="x") as server:
        assert server.process.wait(120) == 1
        said = server.log.read_text()
        assert "Cannot serve" in said
        assert "LEAP_ZOO_SERVE_KEYS_FILE" in said
        assert "Traceback" not in said


def test_stop__under_load_loses_nothing_and_leaves_nothing(
    start, variables: dict[str, str], red: bytes, tmp_path: Path
) -> None:
    """Clients that pause have connections that the server must close, and a request may come just then. Gradio's page
    keeps an event stream open for as long as its tab lives. Without LEAP_ZOO_SERVE_DATA, what clients left is gone.
    """
    with (
        start(**variables, LEAP_ZOO_SERVE_DRAIN=DRAIN, LEAP_ZOO_SERVE_UI="on", TMPDIR=str(tmp_path)) as server,
        httpx.stream("GET", server.url + "/ui/gradio_api/heartbeat/tab", timeout=60) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "data: ALIVE"
        items = server.url + "/v1/galleries/g/items?create=true"
        assert httpx.post(items, files={"image": red}, timeout=60).status_code == 200
        assert len(list(tmp_path.glob("leap-zoo-data-*"))) == 1
        assert "heads and galleries are lost when the service stops" in server.log.read_text()
        (uploads,) = tmp_path.glob("leap-zoo-ui-*")
        assert stat.S_IMODE(uploads.stat().st_mode) == 0o700
        trial = load_trials.stop_under_load(
            ServerProcess(server.port, server.process), photo_request("/v1/embed", red), seconds=1
        )
        found = asyncio.run(trial)
        assert not [line for line in lines if line]  # the stream has been ended, not broken off
        assert [line.get("route") for line in log_lines(server)].count("/v1/embed") == found["answered"]
        assert "Traceback" not in server.log.read_text()
        assert list(tmp_path.glob("leap-zoo-*")) == []
    assert found["lost"] == []
    assert found["other_statuses"] == {}
    assert found["answered_after_signal"] > 0


@pytest.fixture(scope="module")
def mortal(start, tiny_zoo: Path) -> Iterator[Server]:
    """A server whose processes may be ended, in the order of these tests; it answers two requests at a time."""
    variables = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": TINY, "LEAP_ZOO_SERVE_CONCURRENCY": "2"}
    with start(**variables) as server:
        yield server


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP is not ignored, as it is for whatever nohup starts: a server inherits that, and lives on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def only_worker(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def wait_until_back(server: Server) -> None:
    """Until it answers again."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            assert httpx.get(server.url + "/readyz", timeout=5).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(server.log.read_text()[-3000:])


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
    """Although it was killed while clients waited for it, which are not counted forever."""
    ended = threading.Event()
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=mortal.url, timeout=120) as http, contextlib.suppress(httpx.TransportError):
            while not ended.is_set():
                answers.append(http.post("/v1/embed", content=red, headers={"content-type": "image/jpeg"}))

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    while len(answers) < 10:
        time.sleep(0.01)
    worker = only_worker(mortal)
    worker.kill()
    wait_until_back(mortal)
    ended.set()
    for client in clients:
        client.join(60)
    assert only_worker(mortal).pid != worker.pid
    text = httpx.get(mortal.url + "/metrics", timeout=60).text
    assert float(text.partition("\nleap_zoo_in_flight ")[2].split("\n")[0]) <= 1  # the question itself


def test_stop__of_the_worker_alone_brings_another(mortal: Server) -> None:
    worker = only_worker(mortal)
    worker.terminate()
    worker.wait(60)
    wait_until_back(mortal)


@pytest.mark.usefixtures("heard")
def test_kill__of_the_supervisor_ends_its_worker_and_frees_the_port(
    mortal: Server, start, variables: dict[str, str]
) -> None:
    """And the end of its terminal ends the next server on that port."""
    worker = only_worker(mortal)
    mortal.process.kill()
    mortal.process.wait()
    try:
        worker.wait(120)
    except psutil.TimeoutExpired:
        worker.kill()
        pytest.fail(mortal.log.read_text()[-2000:])
    with start(port=mortal.port, **variables) as second:
        assert httpx.get(second.url + "/v1/models", timeout=60).status_code == 200
        assert "in use" not in second.log.read_text()
        second.process.send_signal(signal.SIGHUP)
        second.process.wait(120)
        with pytest.raises(httpx.TransportError):
            httpx.get(second.url + "/livez", timeout=60)


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
