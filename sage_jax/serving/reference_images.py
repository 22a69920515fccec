"""Good images that a service has for its requests: found by name, or by the name of the image to inspect."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath
from typing import Final

from sage_jax.config import nearest
from sage_jax.data.records import Reference
from sage_jax.inspection.images import References, find_images
from sage_jax.serving.faults import RequestFault

_KEPT: Final = 64
"""Files whose content is kept."""


class ReferenceImages:
    """The images of a file or folder that was named at the start; a file that changes is read again.

    A name is the path of an image below the folder, with `/`, or that of a folder in it, which stands for its images.

    Args:
      path: "" = none.

    Raises:
      ConfigError: There is no such file or folder, or no image in it.
    """

    def __init__(self, path: str) -> None:
        self._path, self._matchers = path, dict[int, References]()
        self._named: dict[str, list[Path]] = {}
        self._names: dict[Path, str] = {}
        # Time and size are there to tell a changed file from the one that was read before.
        self._content = functools.lru_cache(_KEPT)(lambda path, changed, size: path.read_bytes())
        if not path:
            return
        References(path)
        root = Path(path).expanduser()
        for image in [root] if root.is_file() else find_images(path):
            inside = PurePosixPath(image.name if root.is_file() else image.relative_to(root).as_posix())
            self._names[image] = str(inside)
            self._named.setdefault(str(inside), []).append(image)
            for folder in list(inside.parents)[:-1]:
                self._named.setdefault(str(folder), []).append(image)

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return sorted(self._named)

    def named(self, name: str, most: int) -> list[Reference]:
        """The references of a name, at most so many.

        Raises:
          RequestFault: 422, there is none of that name; the message names near ones.
        """
        found = self._named.get(name)
        if found is None:
            raise RequestFault(422, f"references: there is none of the name {name!r}{nearest(name, self.names[:50])}")
        return [self._read(path) for path in found[:most]]

    def for_image(self, name: str, most: int) -> tuple[Reference, ...]:
        """The references for an image of a name: those of its own name, or the first; none without a folder.

        Raises:
          RequestFault: 500, one is gone.
        """
        if not self._path:
            return ()
        if most not in self._matchers:
            self._matchers[most] = References(self._path, most)
        return tuple(self._read(path) for path in self._matchers[most].paths_of(Path(name or "image")))

    def first(self, most: int) -> tuple[Reference, ...]:
        """The first references, for images without one of their own name."""
        return self.for_image("", most)

    def _read(self, path: Path) -> Reference:
        name = self._names[path]
        try:
            state = path.stat()
            return Reference(self._content(path, state.st_mtime_ns, state.st_size), name)
        except OSError as error:
            raise RequestFault(500, f"reference {name}: cannot be read: {error.strerror}") from None
