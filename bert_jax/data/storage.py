"""Folders of files, here or elsewhere: `gs://`, `s3://`, `https://` and whatever else fsspec knows.

ArrayRecord reads files of this machine only, so a file from elsewhere is fetched whole into a cache when it is first
asked for, and dropped there when room is needed. Examples are drawn from the whole corpus, so every batch needs other
shards and after some hundred batches all have been fetched: a cache that cannot hold the corpus fetches on for ever.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRIES = 3  # to fetch a file
ABANDONED = 24 * 3600  # seconds without a change after which nobody is fetching a file any more
PARTIAL = ".partial"


class DamagedFile(ValueError):
    """A file has not the size that it was written with; `fault` says which it has."""

    def __init__(self, file: str | Path, held: int, wanted: int) -> None:
        self.fault = f"it has {held} bytes, and had {wanted} when it was written"
        super().__init__(f"{file} is damaged: {self.fault}")


def is_url(where: str | Path) -> bool:
    """Whether a folder is elsewhere. Raises ValueError for a URL that went through `Path`, which drops a slash."""
    if isinstance(where, Path):
        if re.match("[a-z0-9]{2,}:/", str(where)):
            raise ValueError(f"{where} was a URL before it became a Path, which has no double slash: give it as a str")
        return False
    return "://" in where


def cache_folder() -> Path:
    """Where fetched files are kept: `$XDG_CACHE_HOME/bert_jax/corpora`, or `~/.cache/bert_jax/corpora`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "bert_jax/corpora"


class LocalFolder:
    """A folder of this machine; see `RemoteFolder`."""

    at_once = 1

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def __str__(self) -> str:
        return str(self._path)

    def name(self, file: str) -> str:
        """How a file is called in messages."""
        return str(self._path / file)

    def file(self, name: str, size: int | None = None) -> Path:
        """The file. Raises FileNotFoundError where it is missing, DamagedFile where it has another size."""
        path = self._path / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if size not in (None, held := path.stat().st_size):
            raise DamagedFile(path, held, size)
        return path


class RemoteFolder:
    """A folder elsewhere, whose files are fetched when they are asked for. Picklable; threads and processes may share
    its cache.

    Args:
      url: of the folder.
      index: a file that changes whenever another one does. It is read at once and anew each time, and files that were
        fetched beside another index are not taken.
      cache: folder of this machine; `cache_folder()` if None. Several remote folders can share one.
      limit: bytes that the cache may hold; None for no limit. Where there is no more room, files are dropped that have
        not been asked for the longest. One that is still open goes from the disk when it is closed.

    Raises:
      FileNotFoundError: no such index.
      OSError: it cannot be read.
      ValueError: a kind of URL that fsspec does not know, or that needs a package which is not installed.
    """

    at_once = 8  # files that are worth fetching at the same time

    def __init__(self, url: str, index: str, cache: Path | None = None, limit: int | None = None) -> None:
        self._url, self._cache, self._limit = url.rstrip("/"), Path(cache or cache_folder()), limit
        with _errors_of(self.name(index)):
            content = self._files().cat_file(self.name(index))
        self._here = self._cache / hashlib.sha256(self._url.encode() + b"\0" + content).hexdigest()[:20]
        self._here.mkdir(parents=True, exist_ok=True)
        (self._here / index).write_bytes(content)
        self._prepare()

    def _prepare(self) -> None:
        self._coming: dict[str, int] = {}  # bytes of the files that are being fetched
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_coming", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __str__(self) -> str:
        return self._url

    def name(self, file: str) -> str:
        """How a file is called in messages: its URL."""
        return f"{self._url}/{file}"

    def file(self, name: str, size: int | None = None) -> Path:
        """The file in the cache, fetched if it is not there. It may be dropped again at any time, unless it is open.

        Args:
          name: of a file in the folder, or below it.
          size: what it must have, in bytes; None if that is not known.

        Raises:
          FileNotFoundError: there is no such file.
          DamagedFile: it has another size than it should have.
          ValueError: it is larger than the whole cache may be.
          OSError: it could not be fetched, in `TRIES` tries.
        """
        path = self._here / name
        with contextlib.suppress(FileNotFoundError):
            if size in (None, path.stat().st_size):
                os.utime(path)  # asked for now
                return path
        for wait in range(TRIES):
            try:
                return self._fetch(name, path, size)
            except (FileNotFoundError, ValueError):
                raise
            except OSError:
                if wait == TRIES - 1:
                    raise
                time.sleep(2**wait)
        raise AssertionError

    def _fetch(self, name: str, path: Path, size: int | None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole: a process that is killed leaves no file that looks finished.
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
        os.close(handle)
        try:
            with _errors_of(self.name(name)):
                files = self._files()
                there = files.size(self.name(name))
                if size is not None and there not in (None, size):
                    raise DamagedFile(self.name(name), there, size)
                wanted = size if there is None else there
                with self._room_for(partial, wanted or 0):
                    files.get_file(self.name(name), partial)
                held = os.path.getsize(partial)
                if wanted not in (None, held):
                    raise OSError(f"only {held} of its {wanted} bytes came")
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
        return path

    def _files(self) -> Any:
        import fsspec  # here, since local folders do without it

        try:
            return fsspec.url_to_fs(self._url)[0]
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{self._url}: {error} (for gs:// pip install 'bert_jax[gcs]'; others are [s3] and [https])"
            ) from error

    @contextlib.contextmanager
    def _room_for(self, file: str, size: int) -> Iterator[None]:
        """Drops files from the cache until `size` more bytes fit, and counts these as taken meanwhile."""
        if self._limit is None:
            yield
            return
        if size > self._limit:
            raise ValueError(
                f"{self._cache} may hold {self._limit:,} bytes, but one file alone has {size:,}: allow more"
            )
        with self._lock:
            self._coming[file] = size
            held = []
            for found in self._cache.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process drops files, too
                    if found.is_file() and str(found) not in self._coming:
                        held.append((found.stat().st_mtime, found.stat().st_size, found))
            room = self._limit - sum(self._coming.values()) - sum(size for _, size, _ in held)
            for asked, size, found in sorted(held):
                if room >= 0:
                    break
                if found.suffix == PARTIAL and time.time() - asked < ABANDONED:
                    continue  # another process is fetching it
                found.unlink(missing_ok=True)
                room += size
        try:
            yield
        finally:
            with self._lock:
                del self._coming[file]


@contextlib.contextmanager
def _errors_of(url: str) -> Iterator[None]:
    """Names the URL in whatever goes wrong: each kind of storage raises errors of its own."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: there is no such file") from error
    except ValueError:
        raise
    except Exception as error:
        raise OSError(f"{url} cannot be read: {type(error).__name__}: {error}") from error
