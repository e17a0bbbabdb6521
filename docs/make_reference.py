"""Reference pages that are written from the code itself, so that they cannot fall behind it.

    python docs/make_reference.py command-line > command-line.md
    python docs/make_reference.py configuration > configuration.md

The site's build does the same (site_pages.py).
"""

import re
import subprocess
import sys
from typing import Any

from xraygen.config import RunConfig

Schema = dict[str, Any]

_EXAMPLE = re.compile(r"^(xraygen|torchrun|accelerate) .*", re.MULTILINE)
_RANGES = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
_KINDS = {
    "boolean": "`true`, `false`",
    "integer": "integer",
    "null": "`null`",
    "number": "number",
    "string": "text",
}
_COMMAND_LINE = """# Command line

Written from the program itself. Everywhere exit status 0 is done, 1 means that the answer is no (a check failed, inputs
were refused), 2 is wrong usage, 130 interrupted. What a program reads goes to stdout (`--json`), what a person reads to
stderr.

"""
_CONFIGURATION = """# Configuration

Every setting of a run, written from the models that check them. `xraygen config` lists the presets, `xraygen config
cxr-64` shows one with all that it leaves at the default, and `--set KEY=VALUE` changes a setting, such as
`--set train.batch_size=64`. A YAML file with the same sections is taken in a preset's place. An unknown key, or a value
that is out of range, is refused by its name.

"""


def command_line() -> str:
    """Every verb with its arguments, options and examples, as Typer tells them."""
    printed = subprocess.run(
        [sys.executable, "-m", "typer", "xraygen.cli.main", "utils", "docs", "--name", "xraygen"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    _, _, verbs = printed.partition("## ")
    return _COMMAND_LINE + _EXAMPLE.sub(r"    \g<0>", f"## {verbs}")


def configuration() -> str:
    """Every setting with its type, its default and what it does, a table for each section."""
    schema = RunConfig.model_json_schema()
    sections = {
        name: schema["$defs"][place["$ref"].rpartition("/")[2]]
        for name, place in schema["properties"].items()
    }
    return _CONFIGURATION + "\n".join(_section(name, section) for name, section in sections.items())


def _section(name: str, schema: Schema) -> str:
    """A section's settings as a table."""
    rows = [
        f"| `{name}.{key}` | {_type(setting)} | `{_yaml(setting['default'])}` | {_cell(setting['description'])} |"
        for key, setting in schema["properties"].items()
    ]
    head = ["| setting | type | default | |", "|---|---|---|---|"]
    return "\n".join([f"## {name}", "", schema["description"], "", *head, *rows, ""])


def _type(schema: Schema) -> str:
    """What may stand there, in words: `number > 0, < 1`, or the words that are known."""
    match schema:
        case {"anyOf": choices}:
            words = " or ".join(_type(choice) for choice in choices)
        case {"enum": known}:
            words = ", ".join(f"`{_yaml(word)}`" for word in known)
        case {"const": word}:
            words = f"`{_yaml(word)}`"
        case {"prefixItems": items}:
            words = f"[{', '.join(_type(item) for item in items)}]"
        case {"type": "array", "items": item}:
            words = f"list of {_type(item)}"
        case {"type": "object", "additionalProperties": item}:
            words = f"names, each with {_type(item)}"
        case _:
            limits = ", ".join(f"{sign} {schema[key]}" for key, sign in _RANGES.items() if key in schema)
            words = f"{_KINDS[schema['type']]} {limits}".strip()
    return words


def _yaml(value: Any) -> str:
    """A value as `--set` and YAML take it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(_yaml(item) for item in value)}]"
        case _:
            return str(value)


def _cell(text: str) -> str:
    """Text that may stand in a table: one line, no bar."""
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"command-line": command_line, "configuration": configuration}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
