"""The figures of one network: each is drawn from what was measured, or says what is missing and why."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`svg` is None where there is no data; then `caption` says what is missing and why."""

    name: str
    title: str
    caption: str
    svg: str | None = None
