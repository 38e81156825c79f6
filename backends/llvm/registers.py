"""Register buffers: which SSA value holds which elements."""

from __future__ import annotations

from .builder import Value


class Cells:
    """The elements of one register buffer, as spans that each lie in one value.

    Attributes:
        spans: first element -> (number of elements, the value; it may have more lanes).
        owner: element -> first element of its span; missing while undefined.
    """

    __slots__ = ("owner", "spans")

    def __init__(self) -> None:
        self.spans: dict[int, tuple[int, Value]] = {}
        self.owner: dict[int, int] = {}

    def copy(self) -> Cells:
        """A copy that changes apart."""
        new = Cells()
        new.spans = dict(self.spans)
        new.owner = dict(self.owner)
        return new

    def find(self, element: int) -> tuple[Value, int] | None:
        """The value that holds an element and the lane, or None while it is undefined."""
        first = self.owner.get(element)
        if first is None:
            return None
        return self.spans[first][1], element - first

    def exact(self, first: int, count: int) -> Value | None:
        """The value whose span is exactly this one."""
        span = self.spans.get(first)
        return span[1] if span is not None and span[0] == count else None

    def put(self, first: int, count: int, value: Value) -> None:
        """Adds a span over elements that are in no other span."""
        self.spans[first] = (count, value)
        for element in range(first, first + count):
            self.owner[element] = first

    def overlapping(self, first: int, count: int) -> list[int]:
        """The first elements of the spans that meet a range."""
        owner, elements = self.owner, range(first, first + count)
        if owner.keys().isdisjoint(elements):
            return []
        return list(dict.fromkeys([owner[e] for e in elements if e in owner]))

    def drop(self, first: int) -> tuple[int, Value]:
        """Removes a span; its elements become undefined."""
        count, value = self.spans.pop(first)
        for element in range(first, first + count):
            del self.owner[element]
        return count, value

    def relevel(self, level: int) -> None:
        """Makes every value one of an enclosing scope, after a region has been closed."""
        for first, (count, value) in self.spans.items():
            if value.level > level:
                self.spans[first] = (count, value.at_level(level))
