"""The compilation cache: on by default in the user's cache folder, unless the user has chosen otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bert_jax.training.compilation_cache import keep_compiled

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
CHOSEN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", *(
    f"JAX_PERSISTENT_CACHE_MIN_{name}" for name in ("COMPILE_TIME_SECS", "ENTRY_SIZE_BYTES")
))  # fmt: skip


@pytest.fixture
def not_chosen(monkeypatch, tmp_path):
    """As on a machine where nothing is set; the tests' own cache is back afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_of_the_user(not_chosen):
    """Where the platform keeps caches, for this kind of processor, and whatever is compiled."""
    keep_compiled()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir() and folder.parent == not_chosen / "bert_jax" / "jax"
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1


@pytest.mark.parametrize("unusable", ["", "relative/folder"])
def test_the_default_folder(not_chosen, monkeypatch, tmp_path, unusable):
    """Without a usable XDG_CACHE_HOME, the .cache of the home."""
    monkeypatch.setenv("XDG_CACHE_HOME", unusable)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled()
    assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(tmp_path / ".cache")


def test_what_the_user_set_wins(not_chosen, monkeypatch):
    """A folder, none at all, and what is worth keeping."""
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    keep_compiled()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1
    jax.config.update("jax_compilation_cache_dir", "/chosen")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == "/chosen"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_made(not_chosen):
    """It is said, and nothing breaks."""
    (not_chosen / "bert_jax").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept"):
        keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_next_process_finds_it(tmp_path):
    """The settings have their effect in a process of their own: the first one writes, the second adds nothing; and the
    import of the package alone sets nothing."""
    program = """
import jax, bert_jax.pretrained
assert jax.config.jax_compilation_cache_dir is None
bert_jax.pretrained.keep_compiled()
jax.jit(lambda x: x + 1)(1.0)
"""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    found = []
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env=environment)
        found.append(sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*-cache")))
    assert found[0] and found[0] == found[1]
