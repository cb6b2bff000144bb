"""What an agent is told at its start. Every field has a chart value of the same name."""

from __future__ import annotations

from dataclasses import dataclass

from edgeward.fleet.redaction import Redaction

MANAGER = "edgeward-agent"
"""whose fields they are, of all that an agent applies"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    namespace: str = "edgeward"
    """where this agent's Assignments are"""
    runtime_image: str = "localhost/edgeward-runtime:dev"
    image_pull_policy: str = "IfNotPresent"
    store_class: str = "local-path"
    """a node-local StorageClass for the model store; without such a class the store is an emptyDir"""
    store_size: str = "2Gi"
    redaction: Redaction = "Raw"
    """the most that runtimes of this cluster keep of requests, whatever the hub says"""
    surge_patience: float = 60.0
    """seconds that a new pod may wait for room beside the old one before another way is taken"""
    settled_poll: float = 15.0
    """seconds between two looks at a runtime that serves what it should"""
    unsettled_poll: float = 1.0
    """seconds between two looks at one that does not yet"""
    scrape_timeout: float = 2.0
    """seconds that one runtime may take to answer"""
    resync: float = 300.0
    """seconds after which every Assignment is looked at again, changed or not"""
