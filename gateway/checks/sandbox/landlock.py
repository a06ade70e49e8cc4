"""Landlock: a process gives up all files but a few. See `man 7 landlock`."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on all processors
PR_SET_NO_NEW_PRIVS, ASK_VERSION, PATH_BENEATH = 38, 1, 1
READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE, DEVICE_IOCTL = 1 << 2, 1 << 3, 1 << 1, 1 << 14, 1 << 15
RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # bits; 16 later
ALL_OF_NETWORK = 0b11  # TCP
ALL_SCOPES = 0b11  # abstract sockets, signals


def version() -> int:
    """0 where the kernel does not have it, or it is switched off."""
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(ASK_VERSION))))


def restrict(readable: Iterable[str], writable: Iterable[str] = ()) -> bool:
    """From now on, in this thread and what it starts, only these files and folders can be opened. False where that
    cannot be had."""
    found = version()
    if found < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rights = (1 << RIGHTS_BY_VERSION.get(found, 16)) - 1
    fields = [rights, *([ALL_OF_NETWORK] if found >= 4 else []), *([ALL_SCOPES] if found >= 6 else [])]
    given = struct.pack(f"={len(fields)}Q", *fields)
    rules = int(libc.syscall(CREATE_RULESET, given, ctypes.c_size_t(len(given)), ctypes.c_uint(0)))
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow(libc, rules, path, READ_FILE | READ_DIR)
        for path in writable:
            _allow(libc, rules, path, rights & ~1)  # all but to execute
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return int(libc.syscall(RESTRICT_SELF, rules, ctypes.c_uint(0))) == 0
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """Nothing where there is no such path."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= READ_FILE | WRITE_FILE | TRUNCATE | DEVICE_IOCTL
        rule = struct.pack("=Qi", rights, place)
        libc.syscall(ADD_RULE, rules, PATH_BENEATH, rule, ctypes.c_uint(0))
    finally:
        os.close(place)
