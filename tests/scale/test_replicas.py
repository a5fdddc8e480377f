"""Two replicas behind nginx: one is killed under load, and no request fails but those it had, which are asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("bentoml", reason="the serve extra is not installed")

from tools import scale_serve

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        scale_serve.nginx_program() is None, reason="nginx is not installed: apt-get install nginx-light"
    ),
]


def test_replica__that_is_killed_costs_no_request(tiny_zoo: Path) -> None:
    variables = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": "leap-tiny-test", "LEAP_ZOO_SERVE_UI": "off"}
    with scale_serve.replicas(**variables) as (url, servers):
        with scale_serve.Load(url, "/v1/embed?model=leap-tiny-test") as load:
            load.wait(40)
            scale_serve.kill(servers[0])
            load.wait(40)
        assert servers[0].process.poll() is not None
        assert load.answers["200"] >= 80
        assert set(load.answers) == {"200"}, load.answers
