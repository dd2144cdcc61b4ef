"""Which names a server answers to, so that no web page reaches it under a name of its own.

A page from anywhere may point its own name at 127.0.0.1 and then ask whatever listens there (DNS
rebinding); its requests carry that name in Host, and in Origin. Names are therefore an allow-list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from kdlora.errors import InputError

ANY = "*"
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")


@dataclass(frozen=True)
class AllowedHosts:
    """The names that requests may carry: loopback always, `names` beside it.

    With `addresses` any IP address too: an address is no name that somebody could point elsewhere,
    and a server that listens beyond loopback is reached by its addresses.
    """

    names: frozenset[str] = frozenset()
    addresses: bool = False

    def refuse(self, host: str, origin: str | None) -> str | None:
        """What is wrong with the Host and the Origin of a request, or None.

        An Origin is sent by browsers; it has to be the server itself, or a page of a name that is
        allowed.
        """
        if not self._allows(_name(host)):
            return f"Host is {host[:80]!r}"
        if origin is None or (origin.partition("://")[2] or origin).lower() == host.lower():
            return None
        if not self._allows(_name(origin.partition("://")[2])):
            return f"Origin is {origin[:80]!r}"
        return None

    def _allows(self, name: str | None) -> bool:
        if ANY in self.names:
            return True
        if name is None:
            return False
        if name in self.names or name in _LOOPBACK_NAMES or name.endswith(".localhost"):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self.addresses or address.is_loopback


def allowed_hosts(listens_on: str, more: Iterable[str] = ()) -> AllowedHosts:
    """The names of a server that listens on `listens_on`, and `more` that the user gave.

    Raises InputError for what is no name.
    """
    given = [name.strip().lower() for name in more]
    bad = [name for name in given if name != ANY and _name(name) is None]
    if bad:
        raise InputError(
            f"{' and '.join(map(repr, bad))} is no host name; give one such as "
            "models.example.org, without http:// and port, or * for any"
        )
    own = _name(listens_on) or _name(f"[{listens_on}]")
    beyond = own is None or not AllowedHosts()._allows(own)
    names = {_name(name) or name for name in given} | ({own} if own else set())
    return AllowedHosts(frozenset(names), addresses=beyond)


def _name(authority: str) -> str | None:
    """The name or address of ``name``, ``name:port``, ``[::1]`` and ``[::1]:port``, lower case."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/@?#\s]+))(?::\d{1,5})?", authority)
    if match is None:
        return None
    name = (match[1] or match[2]).lower()
    if match[1] is None and not _NAME.fullmatch(name):
        return None
    return name.rstrip(".")
