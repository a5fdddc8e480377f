"""`python -m serve.browser [FOLDER]`: fetch onnxruntime-web for the page, with npm, at the version of package.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serve.browser.runtime import FILES, FOLDER, CannotFetch, fetch


def main() -> int:
    """Fetch it. Returns the exit status: 2 when it cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m serve.browser", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: where the server looks for it")
    folder = parser.parse_args().folder
    try:
        fetch(folder)
    except (CannotFetch, OSError) as error:
        print(f"serve.browser: {error}", file=sys.stderr)
        return 2
    sizes = ", ".join(f"{name} {(folder / name).stat().st_size / 1e6:.1f} MB" for name in FILES[1:])
    print(f"onnxruntime-web is in {folder}: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
