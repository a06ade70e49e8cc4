"""Who may change how the server runs."""

from __future__ import annotations

from starlette.requests import Request

from gateway.errors import Forbidden
from gateway.transport import is_loopback


def require_admin(request: Request) -> None:
    """While no keys exist whoever asks from this machine, as with everything else; else keys that may do that, of which
    there are none.

    Raises: Forbidden.
    """
    if request.scope["gateway"]["key"] is not None:
        raise Forbidden("this key may not change how the server runs")
    if request.client is not None and not is_loopback(request.client.host):
        raise Forbidden("without API keys only this machine may change how the server runs")
