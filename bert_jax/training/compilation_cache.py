"""Keeps what XLA compiles in a folder of the user's, so that the next process starts at once."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Has JAX keep its compiled functions in `$XDG_CACHE_HOME/bert_jax/jax`, or `~/.cache/bert_jax/jax`.

    Where the user has chosen (`JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE=0`, or these settings of
    `jax.config`), nothing is changed. A folder that cannot be written is warned of, and the run compiles as if there
    were no cache; so it does, after a warning of JAX's, where an entry is damaged.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The specification has a relative path ignored.
        base = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        folder = base / "bert_jax" / "jax" / _machine()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # who can write into it can have this process run code
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        warnings.warn(f"what is compiled is not kept for the next start: {error}", stacklevel=2)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # All of it: a start is a dozen small functions, which compile in less than JAX's least second each.
    for name, value in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)


def _machine() -> str:
    """A short name for what the CPU can do: JAX looks for an entry by the program alone, and code for one processor
    stops on another that lacks its instructions, as the machines may that share a home."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        kept = [line for line in described if line.split(":")[0].strip() in ("model name", "flags", "Features")]
    except OSError:
        kept = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *kept]).encode()).hexdigest()[:12]
