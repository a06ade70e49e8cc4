"""Runs code that a model wrote: in a child process that can read Python's own library, and little else.

What holds, on Linux 5.13 and later (x86-64 and arm64), for root and for any other user, in containers too:

- Files: Landlock. Only Python's library and the system's shared libraries can be read, nothing can be written.
- Network, other processes, the kernel's less used doors: seccomp. No sockets but pairs of them within the process, no
  new processes, no signals, no change of files' owners or modes, no io_uring.
- Memory, CPU time, size of files, open files: limits of the process, which are limits of all it does, since it cannot
  start another.
- Environment: empty. Time: killed when it is over.
- Where the kernel lets it have namespaces of its own (user, network, mount, IPC): no network interfaces at all, and an
  empty folder in memory that it may write to, of 16 MB.

Elsewhere nothing is run. Whether a path exists can be found out, its content cannot.
"""
