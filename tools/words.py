"""Find wording that this project avoids, in its documents and in the docstrings, comments and messages of its code.

`make lint` runs it. It reads Markdown outside code blocks, and the docstrings, comments and strings (of three words or
more) in Python files. Text in backticks is code and is skipped. codespell checks the spelling.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# What not to write (a regular expression, case-insensitive) -> what to write instead.
BANNED = {
    r"\bof ours\b": "our, or this project's",
    r"\bone's own\b": "your own",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bwhoever\b": "anyone who, or the one who",
    r"\banew\b": "again, or from scratch",
    r"\bin silence\b": "silently",
    r"(?<!there )\b(is|are|was|were) (?-i:none)\b(?! of)": "say what it is not",
    r"(?<!there )\b(is|are|was|were) no (photo|json|zoo|folder|text|image)\b(?! (in|is|are|of|to|left))": "is not a",
    r"\bwhat it stands\b|\band stands\b|\bstands? back\b": "limits under load",
    r"\bhonest about\b|\bhow honest\b": "say what is measured",
    r"\btells of\b|\btold of\b": "reports, describes",
    r"\b(came|comes) of (it|that)\b": "the result",
    r"\bas (many|much|long|large) \w+ as (it|one) may\b": "state the limit",
    r"\bheld to be\b": "assumed to be",
    r"\bby how (little|much)\b": "name the quantity",
    r"\brather too\b": "tends to be too",
    r"\bwhat is held\b|\bare held to\b": "what is in memory; must match",
    r"\bas of `": "as in `",
    r"\bfor want of\b|\bwherefore\b|\bthereof\b|\bwhilst\b": "plain words",
}
BRITISH = re.compile(
    r"\b(\w*(colour|behaviour|neighbour|favour|honour)\w*|grey\w*|(un)?label(led|ling)|cancell(ed|ing)|modell(ed|ing)"
    r"|travell(ed|ing)|centre[ds]?|licences?|distil|artefacts?|catalogued?|analys(e[ds]?|ing)"
    r"|(re|de|un)?(normal|standard|optim|recogn|serial|quant|initial|summar|organ|minim|maxim|special|general|util"
    r"|real|parallel|random|visual|final|synchron)is(e[drs]?|ing|ation|ations)\b(?<!realis))\b",
    re.IGNORECASE,
)
# Cards generate READMEs of models; tests quote other texts.
SKIPPED = re.compile(r"^(zoo|results|leap_zoo/bundled|tests)/|^tools/words\.py$")


def main() -> int:
    """Print each finding as file:line; return 1 when there is one."""
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md", "Makefile"], capture_output=True, text=True, check=True)
    found = 0
    for name in listed.stdout.splitlines():
        if SKIPPED.search(name) or not Path(name).is_file():
            continue
        content = Path(name).read_text(encoding="utf-8")
        for line, text in _python(content) if name.endswith(".py") else _prose(content):
            for word, advice in findings(text):
                print(f"{name}:{line}: {word!r}: {advice}")
                found += 1
    return 1 if found else 0


def findings(text: str) -> Iterator[tuple[str, str]]:
    """The words in `text` that this project avoids, each with what to write instead."""
    for pattern, advice in BANNED.items():
        for match in re.finditer(pattern, text if "`" in pattern else _without_code(text), re.IGNORECASE):
            yield match[0], advice
    for match in BRITISH.finditer(_without_code(text)):
        yield match[0], "American spelling"


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`|https?://\S+|\S*/\S*|\w+\.\w+\S*", "`", text)


def _prose(content: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(content.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _python(content: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comments, docstrings and strings of three words or more."""
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 2:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line


if __name__ == "__main__":
    sys.exit(main())
