"""The section of docs/benchmarks.md about releases, and its plot, from results/release.json."""

from __future__ import annotations

from typing import Any

AIMS = {
    "bytes_ratio_head_only": (".1", "bytes over the link where only the last layers changed, over a full download"),
    "bytes_ratio_int8": ("", "the same for the int8 variant of a version that is there"),
    "bytes_ratio_repush": ("0", "the same for the same files under another manifest"),
    "bytes_ratio_new": ("1", "the same for a model with nothing in common"),
    "two_sources_ratio": ("1.15", "seconds over two links at once, 1 and 5 Mbit/s, over bytes/(R1 + R2)"),
    "commit_to_all_s": ("", "from apply of a new version until three sites serve it, waves without a bake, median, s"),
    "bad_gate_to_back_s": ("", "from the first site answering with a bad version until no runtime has it, median, s"),
    "bad_gate_to_back_less_interval_s": ("10", "the same less one interval of its gate, s"),
    "failed_requests": ("0", "requests that failed in both"),
    "converge_sites": ("500", "sites in the run below, a tenth of them away all the time, others each time"),
    "converge_rounds": ("20", "versions, one after the other, each with another order of who is away when"),
    "converge_lost": ("0", "sites that did not end on the version, over all rounds"),
    "registry_peak_concurrency": ("1.0", "most sites that fetched at once, over the pace set"),
    "api_writes_per_site": ("", "writes of the hub and the agents for one version, over the sites"),
}  # fmt: skip


def text(value: Any) -> str:
    return "not measured" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def section(result: dict[str, Any]) -> str:
    figures, notes = result["figures"], result["notes"]
    rows = [
        f"| `{name}` | {text(figures.get(name))} | {aim or '-'} | {what} | {notes.get(name, '')} |"
        for name, (aim, what) in AIMS.items()
    ]
    others = ", ".join(
        f"`{name}` {', '.join(map(text, value)) if isinstance(value, list) else text(value)}"
        for name, value in sorted(figures.items())
        if name not in AIMS and isinstance(value, int | float | list)
    )
    return f"""
## Releases

`make bench-release`, on {result["machine"]["cpu"]}.

| figure | measured | aim | what it is | note |
|---|---|---|---|---|
{chr(10).join(rows)}

![Bytes and seconds of a release](benchmarks-release.svg)

Also measured: {others}.

How: the bytes are those of a network interface behind a token bucket of 1 Mbit/s, headers included, from a real registry to the
runtime's fetch, and to a plain GET of the model file alone, which is what KServe's storage initializer, Sedna and Greengrass
do; the seconds of both are `bytes_..._s` and `bytes_..._plain_s`. A site also fetches manifest, golden data and measurements.
`commit_to_all` and `bad_gate_to_back` run on the embedded cluster, three sites with a real node and pod each,
clients asking through the job's Service at every node. The bad version answers otherwise than the one before; its gate is
the built-in one for agreement, over copies of the clients' requests, and no Prometheus is asked. The runtimes are asked
every 0.05 s what serves. `converge` runs the real hub on a real kube-apiserver and etcd; a site is a Node with a Lease,
and its agent is cut down to the Assignment contract: it fetches for 1 to 4 s and says that it serves. A tenth of the sites
is away at any time, for 15 to 120 s, without renewing its Lease, reading or writing; once all others are on the version
the last come back. Waves of 5 sites, half and all, `pace.concurrentDownloads` 25, `maxUnavailableSites` 20%.
"""


def plot(result: dict[str, Any]) -> str:
    """Bars by hand, as the page's others."""
    figures = result["figures"]
    ratios = [
        (name.removeprefix("bytes_ratio_").replace("_", " "), figures.get(name))
        for name in AIMS
        if "bytes_ratio" in name
    ]
    times = [
        ("commit to all", figures.get("commit_to_all_s")),
        ("bad to back", figures.get("bad_gate_to_back_s")),
        ("of it interval", figures.get("gate_interval_s")),
    ]
    parts = [*_bars("Bytes over a full download (less is better)", ratios, "", 10)]
    parts += _bars("Seconds, three sites (less is better)", times, " s", 60 + 30 * len(ratios))
    height = 110 + 30 * (len(ratios) + len(times))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" font-size="13">'
        f'<rect width="640" height="{height}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _bars(title: str, bars: list[tuple[str, float | None]], unit: str, top: int) -> list[str]:
    most = max((value for _, value in bars if value), default=1)
    rows = [f'<text x="10" y="{top + 12}" font-weight="bold">{title}</text>']
    for number, (name, value) in enumerate(bars):
        y, width = top + 26 + 30 * number, 420 * (value or 0) / most
        label = f"{value:g}{unit}" if value is not None else "not measured"
        rows.append(
            f'<text x="100" y="{y + 15}" text-anchor="end">{name}</text>'
            f'<rect x="110" y="{y}" width="{width:.1f}" height="20" fill="#0b6e4f"/>'
            f'<text x="{116 + width:.1f}" y="{y + 15}">{label}</text>'
        )
    return rows
