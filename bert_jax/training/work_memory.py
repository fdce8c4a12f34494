"""Keeps XLA's work memory between steps on CPU."""

import ctypes
import platform

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_work_memory() -> bool:
    """Has glibc keep freed memory for the next allocation instead of returning it to the kernel; True where it does.

    XLA on CPU allocates its work memory anew for every call, and glibc maps and unmaps blocks of that size each time,
    so that every step pays for the page faults: a third of the processor time of a BERT-mini step went to the kernel.
    To be called before the process first uses JAX; the process then keeps the most memory it ever had.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) for parameter, value in settings)
