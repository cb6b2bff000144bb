from edgeward_runtime.fetch.access import S3, Access, Limits, access_of, limits_of
from edgeward_runtime.fetch.bring import Fetched, fetch
from edgeward_runtime.fetch.credentials import Credentials
from edgeward_runtime.fetch.peers import Peers, peers_of
from edgeward_runtime.fetch.stats import FetchStats, StoreCollector

__all__ = [
    "S3",
    "Access",
    "Credentials",
    "FetchStats",
    "Fetched",
    "Limits",
    "Peers",
    "StoreCollector",
    "access_of",
    "fetch",
    "limits_of",
    "peers_of",
]
