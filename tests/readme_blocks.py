"""The code blocks of the README, for its test and for CI.

python tests/readme_blocks.py python           the Python blocks that do without PyTorch, as one
                                               program
python tests/readme_blocks.py console          all commands, one a line
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands after the fence.
        line: of its first line in the file.
        text: what is inside.
    """

    language: str
    line: int
    text: str

    @property
    def needs_torch(self) -> bool:
        """Whether a Python block can run only where PyTorch is installed."""
        return self.language == "python" and "torch" in self.text

    @property
    def lines(self) -> tuple[str, ...]:
        """What a console block has one type, line by line."""
        return tuple(
            line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of a console block; ``a && b`` is two."""
        return tuple(command for line in self.lines for command in line.split(" && "))


def blocks(path: Path = README) -> list[Block]:
    """All fenced blocks in order."""
    source = path.read_text()
    return [
        Block(m[1], source.count("\n", 0, m.start(2)) + 1, m[2])
        for m in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL)
    ]


def main(language: str) -> None:
    """Prints the blocks of one language."""
    for block in blocks():
        if block.language == language and not block.needs_torch:
            print("\n".join(block.commands) if language == "console" else block.text)


if __name__ == "__main__":
    main(sys.argv[1])
