"""The reference page of the study file, written from the schema: every key with its meaning.

python -m kdlora.spec.reference > docs/study-file.md
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

from kdlora.spec.schema import study_schema

_HEAD = """# The study file

Every key of a study file, with its type, its default and its meaning. The page is written from
the models that read the file, by `python -m kdlora.spec.reference > docs/study-file.md`: do not
edit it by hand. [Presets](presets.md) are studies to begin with, and `kdlora init --schema` prints
the same as a JSON schema, by which an editor completes and checks the file.

Keys that are not listed are errors, and so are values of another type: `kdlora plan study.yaml`
tells all of them at once.
"""
_SIMPLE = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}
_CHANGES = "Changes"  # ends the names of the schema's sections of which some settings are replaced


def reference_page() -> str:
    """The page as Markdown: the keys of the file itself, then those of every section."""
    schema = study_schema()
    parts = {n: part for n, part in schema["$defs"].items() if not n.endswith(_CHANGES)}
    places = _places(schema, parts)
    sections = [_HEAD, "## At the top\n", _table(schema, parts)]
    for name in sorted(parts, key=lambda name: list(places).index(name)):
        sections += [f"## {name}\n", f"*{places[name]}.* {parts[name].get('description', '')}\n"]
        sections.append(_table(parts[name], parts))
    return "\n".join(sections)


def _places(schema: dict[str, Any], parts: dict[str, Any]) -> dict[str, str]:
    """Section -> where in the file it stands, in the order in which the file names them."""
    places: dict[str, str] = {}
    waiting = [("", schema)]
    for above, part in waiting:
        for key, value in part["properties"].items():
            for name in _named(value):
                if name in parts and name not in places:
                    place = f"{above}.{key}" if above else key
                    places[name] = f"`{place}`"
                    waiting.append((place, parts[name]))
    return places


def _named(value: Any) -> Iterator[str]:
    """Names of the sections that a part of the schema refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _table(part: dict[str, Any], parts: dict[str, Any]) -> str:
    required = part.get("required", ())
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in part["properties"].items():
        default = "**required**" if key in required else _default(value)
        kind = _type(value).replace("|", "\\|")
        rows.append(f"| `{key}` | {kind} | {default} | {_meaning(value, parts)} |")
    return "\n".join(rows) + "\n"


def _meaning(value: dict[str, Any], parts: dict[str, Any]) -> str:
    """What a key says of itself, else what its section says; on one line of the table."""
    own = value.get("description")
    if own is None:
        own = next((parts[n]["description"] for n in _named(value) if n in parts), "")
    return html.escape(" ".join(own.split()), quote=False).replace("|", "\\|")


def _default(value: dict[str, Any]) -> str:
    if "default" not in value or value["default"] is None:
        return ""
    if isinstance(value["default"], dict) and value["default"]:
        return "each key's own"
    return f"`{json.dumps(value['default'], ensure_ascii=False)}`"


def _type(value: dict[str, Any]) -> str:
    """The type in a reader's words; what may be left empty is not said again."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2].removesuffix(_CHANGES)
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        known = [f"`{one}`" for one in value["enum"]]
        return ", ".join(known) if len(known) < 12 else f"a name such as {', '.join(known[:3])}"
    if "anyOf" in value:
        kinds = [_type(one) for one in value["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = value.get("type")
    if kind == "array":
        return f"list of {_type(value.get('items') or {})}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    return _SIMPLE.get(str(kind), "any value") + _range(value)


def _range(value: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    found = [f"{sign} {value[name]:g}" for name, sign in signs.items() if name in value]
    return f" {' and '.join(found)}" if found else ""


if __name__ == "__main__":
    print(reference_page(), end="")
