"""The end of a file that grows: each look gives the lines that are new, also after the file was cut or replaced."""

from pathlib import Path


class Tail:
    """Only whole lines are given; a torn last one is given when it is whole."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.began_anew = False  # the last look found another file than the one before it
        self._forget()

    def _forget(self) -> None:
        self.file, self.offset, self.last, self.shrunk = None, 0, b"", False

    def look(self) -> list[str]:
        """The whole lines since the last look."""
        self.began_anew = False
        try:
            with open(self.path, "rb") as file:
                return self._new_of(file)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _new_of(self, file) -> list[str]:
        size, known = file.seek(0, 2), self.file is not None
        if known and size < self.offset and not self.shrunk:
            self.shrunk = True  # whoever goes on writing cuts a torn line: in between the file is short
            return []
        if known and not self._is_same(file, size):
            self._forget()
            self.began_anew = True
        self.file, self.shrunk = True, False
        file.seek(self.offset)
        whole = file.read(size - self.offset)
        whole = whole[: whole.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        if lines:
            self.offset, self.last = self.offset + len(whole), lines[-1] + b"\n"
        return [line.decode("utf-8", "replace") for line in lines]

    def _is_same(self, file, size: int) -> bool:
        """Whether what was read before still lies before the offset; its last line has a time, so it is told by that."""
        if size < self.offset:
            return False
        file.seek(self.offset - len(self.last))
        return file.read(len(self.last)) == self.last
