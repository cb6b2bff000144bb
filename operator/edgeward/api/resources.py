"""Resources of a replica, with the rules that catch a wrong unit at the door.

`cpu: 256Mi` and `memory: 256m` are both legal quantities and both slips of the hand: the bounds (1024 cores, 1Mi to
64Ti) are far outside what any node has, so they refuse nothing that could run.
"""

from pydantic import ConfigDict, Field

from edgeward.api.common import Model, ResourceMap, cel, rules

_MEMORY_FLOOR = (
    "!has(self.{0}) || !('memory' in self.{0}) || quantity(string(self.{0}['memory'])).compareTo(quantity('1Mi')) >= 0"
)
_CPU_CEILING = (
    "!has(self.{0}) || !('cpu' in self.{0}) || quantity(string(self.{0}['cpu'])).compareTo(quantity('1024')) <= 0"
)
_MEMORY_CEILING = (
    "!has(self.{0}) || !('memory' in self.{0}) || quantity(string(self.{0}['memory'])).compareTo(quantity('64Ti')) <= 0"
)


class Resources(Model):
    """What one replica asks for and may use, as in a pod: cpu, memory, ephemeral-storage and extended resources."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) ||"
                " quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
                "resources.requests asks for more than resources.limits allows: raise the limit or lower the request",
                ".requests",
            ),
            *(
                cel(
                    _MEMORY_FLOOR.format(part),
                    f"resources.{part}.memory is below 1Mi, which no server fits in: write the unit, such as 256Mi"
                    " (256m means a quarter of a byte)",
                    f".{part}.memory",
                )
                for part in ("requests", "limits")
            ),
            *(
                cel(
                    _CPU_CEILING.format(part),
                    f"resources.{part}.cpu is above 1024 cores, which no node has: write cores or millicores, such as"
                    " 2 or 500m",
                    f".{part}.cpu",
                )
                for part in ("requests", "limits")
            ),
            *(
                cel(
                    _MEMORY_CEILING.format(part),
                    f"resources.{part}.memory is above 64Ti, which no node has: write bytes with a unit, such as 256Mi",
                    f".{part}.memory",
                )
                for part in ("requests", "limits")
            ),
        )
    )

    requests: ResourceMap = Field(default_factory=dict, description="What is set aside on the node, by resource name.")
    limits: ResourceMap = Field(default_factory=dict, description="What the replica may use at most, by resource name.")
