"""`python -m serve.demo`: the page alone, without the service around it."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Serve the page until Ctrl-C. Returns the exit status: 2 when the model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m serve.demo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    options = parser.parse_args()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

    import uvicorn

    from leap_zoo import LeapZooError
    from serve.app import build_site
    from serve.engine import start_engine
    from serve.middleware import UI_PATH
    from serve.settings import read_serve_settings, use_checkouts_zoo
    from serve.stores import open_stores

    use_checkouts_zoo()
    try:
        settings = read_serve_settings()
        site = build_site(start_engine(settings), open_stores(settings.data, qdrant=settings.qdrant), settings)
    except LeapZooError as error:
        print(f"serve.demo: {error}", file=sys.stderr)
        return 2
    print(f"The demo is at http://{options.host}:{options.port}{UI_PATH}/", flush=True)
    uvicorn.run(site, host=options.host, port=options.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
