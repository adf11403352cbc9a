"""Groups of channels that are cut together, and what makes one group of two: sums, products, squeeze-excite."""

from dataclasses import dataclass, field, replace


@dataclass(eq=False)
class Group:
    """Channels that must be cut together; `active`: a non-linearity lies between producer and consumer.

    Where the channels are multiplied by what they were squeezed into, `squeezes` are the layers that read them on that way
    and `excites` those that write their factors; `inside`: where the factors come together, of the groups on that way.
    """

    width: int
    producers: list = field(default_factory=list)
    followers: list = field(default_factory=list)
    consumers: list = field(default_factory=list)  # (path, columns, cut)
    squeezes: list = field(default_factory=list)  # (path, columns, cut)
    excites: list = field(default_factory=list)
    joins: list = field(default_factory=list)
    unsupported: list = field(default_factory=list)  # (path, what)
    sources: list = field(default_factory=list)  # groups that an unsupported step made it from
    active: bool = False
    inside: str | None = None
    end: str | None = None  # "input" or "output" of the network

    @property
    def name(self) -> str:
        """The last layer that writes it, or where it comes from."""
        return self.producers[-1] if self.producers else self.end or self.unsupported[0][0]


@dataclass(frozen=True)
class Flow:
    """What one step carries: a group's channels, lying as `maps` (B, N, H, W), `flat` (B, N x positions) or `last` (..., N)."""

    group: Group
    layout: str


def add(first: Flow, second: Flow, path: str, groups: list[Group], flows: dict) -> Flow:
    """Two groups added to each other become one stream; channels and what an unsupported step made of them stay what they are."""
    if not (_is_made_from(first.group, second.group) or _is_made_from(second.group, first.group)):
        first.group.joins.append(path)
    if first.group is not second.group:
        _merge(first.group, second.group, ("producers", "excites"), groups, flows)
    return first


def _is_made_from(group: Group, other: Group) -> bool:
    """Whether unsupported steps alone lead from the other group to this one."""
    found = [group]
    for one in found:  # grows as it goes
        found += [source for source in dict.fromkeys(one.sources) if source not in found]
    return other in found[1:]


def multiply(first: Flow, second: Flow, path: str, groups: list[Group], flows: dict) -> tuple[Flow | None, str | None]:
    """(the product of two groups neuron by neuron, None), or (None, why it is none)."""
    one, other = first.group, second.group
    for group in (one, other):
        if not group.width and group.unsupported:
            return None, f"a product with what {group.unsupported[0][1]} gives"
    if first.layout != second.layout or one.width != other.width or not one.width:
        return None, f"a product of {one.width} by {other.width} channels"
    if one is not other:
        for flow, factor in ((first, other), (second, one)):
            between = _between(flow.group, factor, groups)
            if between is not None:
                return _excite(flow, factor, between, path, groups, flows), None
        _merge(one, other, ("producers", "excites"), groups, flows)
    one.active = True
    return first, None


def _between(main: Group, factor: Group, groups: list[Group]) -> list[Group] | None:
    """The groups on the way from `main` to `factor`; None where the factors are made from anything else."""
    found, ahead = [], [factor]
    while ahead:
        group = ahead.pop()
        read = group.sources + [other for other in groups for path, *_ in other.consumers if path in group.producers]
        if not read:
            return None
        new = [other for other in dict.fromkeys(read) if other not in (main, factor, *found)]
        found, ahead = found + new, ahead + new
    return found


def _excite(flow: Flow, factor: Group, between: list[Group], path: str, groups, flows) -> Flow:
    """A group and the factors that were made from it: who reads it on that way is no consumer."""
    main = flow.group
    way = {layer for group in (factor, *between) for layer in group.producers}
    main.squeezes += [reader for reader in main.consumers if reader[0] in way]
    main.consumers = [reader for reader in main.consumers if reader[0] not in way]
    main.excites += factor.producers
    for group in between:
        group.inside = path
    _merge(main, factor, ("excites",), groups, flows)
    main.active = True
    return flow


def _merge(first: Group, second: Group, writers, groups, flows) -> None:
    """Make the second group a part of the first."""
    for name in (*writers, "followers", "consumers", "squeezes", "joins", "unsupported", "sources"):
        getattr(first, name).extend(getattr(second, name))
    first.sources = [source for source in first.sources if source not in (first, second)]
    first.end = first.end or second.end
    groups.remove(second)
    for group in groups:
        group.sources = [first if source is second else source for source in group.sources]
    flows.update({node: replace(flow, group=first) for node, flow in flows.items() if flow.group is second})
