"""Errors that are neither the request's nor a model's: what the log gets of them, and what the client."""

from __future__ import annotations

import errno
import logging

from sqlalchemy.exc import OperationalError

from gateway.errors import GatewayError, StoreUnavailable

log = logging.getLogger(__name__)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def unexpected(error: Exception, request_id: str) -> GatewayError:
    """The error to answer with; it is logged, with its place in the code unless a disk or a lock is the reason."""
    if isinstance(error, OperationalError):
        log.error("request %s: the database could not be used: %s", request_id, error.orig)
        return StoreUnavailable()
    if isinstance(error, OSError) and error.errno in DISK:
        log.error("request %s: %s: %s", request_id, error.filename or "a file", error.strerror)
        return StoreUnavailable()
    log.error("request %s failed", request_id, exc_info=error)
    return GatewayError("internal error")
