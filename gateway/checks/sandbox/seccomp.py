"""A filter of system calls, through `prctl`: no library is needed, nor any right."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, GREATER, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # another way to call the same kernel, with other numbers
LAST_KNOWN = 451  # newer calls do not exist here

DENIED = {
    "network": "socket connect accept accept4 bind listen io_uring_setup io_uring_enter io_uring_register",
    "processes": "fork vfork execve execveat ptrace process_vm_readv process_vm_writev process_madvise kcmp setsid"
    " setpgid setpriority sched_setaffinity sched_setscheduler sched_setparam sched_setattr ioprio_set migrate_pages"
    " move_pages",
    "signals": "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_open pidfd_getfd",
    "files": "chmod fchmod fchmodat chown lchown fchown fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr"
    " fremovexattr utime utimes utimensat futimesat truncate name_to_handle_at open_by_handle_at fanotify_init"
    " fanotify_mark quotactl quotactl_fd",
    "mounts": "mount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot"
    " unshare setns",
    "memory that no limit counts": "memfd_create memfd_secret shmget semget msgget mq_open",
    "kernel": "bpf perf_event_open userfaultfd keyctl add_key request_key init_module finit_module delete_module"
    " kexec_load kexec_file_load reboot swapon swapoff acct settimeofday clock_settime clock_adjtime adjtimex"
    " sethostname setdomainname vhangup iopl ioperm",
}
# fmt: off
X86_64 = {
    "socket": 41, "connect": 42, "accept": 43, "accept4": 288, "bind": 49, "listen": 50, "fork": 57, "vfork": 58,
    "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kill": 62,
    "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "memfd_create": 319, "shmget": 29,
    "semget": 64, "msgget": 68, "mq_open": 240, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163,
    "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "sethostname": 170,
    "setdomainname": 171, "quotactl": 179, "name_to_handle_at": 303, "open_by_handle_at": 304, "setpriority": 141,
    "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
    "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "kcmp": 312, "fanotify_init": 300,
    "fanotify_mark": 301, "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "lchown": 94, "fchown": 93,
    "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
    "fremovexattr": 199, "utime": 132, "utimes": 235, "utimensat": 280, "futimesat": 261, "truncate": 76,
    "vhangup": 153, "iopl": 172, "ioperm": 173, "clone": 56, "prlimit64": 302, "setsid": 112, "setpgid": 109,
}
AARCH64 = {
    "socket": 198, "connect": 203, "accept": 202, "accept4": 242, "bind": 200, "listen": 201, "execve": 221,
    "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kill": 129, "tkill": 130,
    "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "mount": 40, "umount2": 39, "pivot_root": 41,
    "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "keyctl": 219,
    "add_key": 217, "request_key": 218, "memfd_create": 279, "shmget": 194, "semget": 190, "msgget": 186,
    "mq_open": 180, "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104,
    "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "settimeofday": 170,
    "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "sethostname": 161, "setdomainname": 162,
    "quotactl": 60, "name_to_handle_at": 264, "open_by_handle_at": 265, "setpriority": 140, "sched_setaffinity": 122,
    "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274, "ioprio_set": 30, "migrate_pages": 238,
    "move_pages": 239, "kcmp": 272, "fanotify_init": 262, "fanotify_mark": 263, "fchmod": 52, "fchmodat": 53,
    "fchown": 55, "fchownat": 54, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14,
    "lremovexattr": 15, "fremovexattr": 16, "utimensat": 88, "truncate": 45, "vhangup": 58, "clone": 220,
    "prlimit64": 261, "setsid": 157, "setpgid": 154,
}
SINCE_5 = {  # the same everywhere
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447,
}
# fmt: on
ARCHITECTURES = {
    "x86_64": (0xC000003E, {**X86_64, **SINCE_5}),
    "aarch64": (0xC00000B7, {**AARCH64, **SINCE_5}),
}


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def restrict() -> bool:
    """From now on, in this process and its threads. False where the kernel or the processor does not have it."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None:
        return False
    program = filter_for(*found)
    libc = ctypes.CDLL(None, use_errno=True)
    given = _Program(len(program) // 8, program)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0) == 0)


def filter_for(arch: int, numbers: dict[str, int]) -> bytes:
    """A program of classic BPF: what is not denied is allowed."""
    lines = [
        _line(LOAD, ARCH_AT),
        _line(EQUAL, arch, 1, 0),
        _line(RETURN, KILL),
        _line(LOAD, NUMBER_AT),
        _line(AT_LEAST, X32, 0, 1),
        _line(RETURN, KILL),
        _line(GREATER, LAST_KNOWN, 0, 1),
        _line(RETURN, ERRNO | errno.ENOSYS),
        _line(EQUAL, numbers["clone3"], 0, 1),
        _line(RETURN, ERRNO | errno.ENOSYS),  # then libc takes `clone`, whose flags can be looked at
        _line(EQUAL, numbers["clone"], 0, 4),
        _line(LOAD, FIRST_ARGUMENT_AT),
        _line(ANY_BIT, CLONE_THREAD, 0, 1),
        _line(RETURN, ALLOW),
        _line(RETURN, ERRNO | errno.EPERM),
        _line(EQUAL, numbers["prlimit64"], 0, 4),
        _line(LOAD, FIRST_ARGUMENT_AT),
        _line(EQUAL, 0, 0, 1),  # its own limits
        _line(RETURN, ALLOW),
        _line(RETURN, ERRNO | errno.EPERM),
    ]
    for name in " ".join(DENIED.values()).split():
        if name in numbers:  # arm64 does not have the oldest
            lines += [_line(EQUAL, numbers[name], 0, 1), _line(RETURN, ERRNO | errno.EPERM)]
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
