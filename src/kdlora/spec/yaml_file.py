"""YAML as people write it: yes, no, on and off are words, as YAML 1.2 says and PyYAML does not.

Else the classes `no` and `yes`, a column called `on` or an arm's value `off` would be read as false
and true. Settings that are truth values take the words as well.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_yaml(text: str) -> Any:
    """What a YAML document says; no object is ever built that a file could choose.

    Raises yaml.YAMLError, or ValueError or RecursionError for dates, numbers and nesting.
    """
    return yaml.load(text, Loader=_Loader)
