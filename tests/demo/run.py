"""One run of the whole story, told as it happens."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import Binaries, Cluster, ImageBuilder
from tests.cluster.paths import REPOSITORY

from . import show, story, survival, visitor
from .kube import Kubectl, StoryError
from .models import Models, prepare
from .rollout import Tally
from .stage import Stage, clear_leftovers, install, make_namespace

RECORD = REPOSITORY / "build" / "demo.json"
_BUILT = ("bin/*/*", "images/*.tar", "models/*.onnx")


@dataclass(frozen=True, kw_only=True)
class Result:
    """cold: nothing was cached when the run began, nor had Go compiled anything; warm: all was cached, and the cluster
    was not up yet. A run in between, say with a new cache folder and Go's old one, is neither."""

    seconds: float
    cold: bool
    warm: bool


def built(cache: Path) -> set[Path]:
    return {path for pattern in _BUILT for path in cache.glob(pattern) if not path.name.startswith(".")}


def go_cache_is_empty() -> bool:
    """Go keeps what it compiled in its own cache, outside ours: with that the same build takes a fraction of the time."""
    try:
        done = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False  # who builds says what is wrong with Go
    return not any(Path(done.stdout.strip()).glob("??/*"))  # an entry is in the folder of its hash's first two digits


def embedded_stage(cluster: Cluster, models: Models, say: Callable[[str], None]) -> Stage:
    """Images in the nodes, models served from this machine, namespace made. The cluster is up."""
    archives = ImageBuilder(cache=cluster.cache, say=say).build()
    cluster.load_image(*archives.values())
    say("images are in the nodes")
    server = cluster.start_file_server(models.sign_reader.path.parent, name="models")
    stage = Stage(
        kubectl=Kubectl(program=str(cluster.binaries.path("kubectl")), kubeconfig=cluster.kubeconfig),
        helm=cluster.binaries.path("helm"),
        say=say,
        namespace="demo",
        operator_namespace="edgeward",
        operator_image=("localhost/edgeward-operator", "dev"),
        runtime_image="localhost/edgeward-runtime:dev",
        build=archives["operator"].stem,
        models=models,
        urls={model.path.name: f"{server.url}/{model.path.name}" for model in models.files},
        prometheus_url=cluster.prometheus_url,
        cluster=cluster,
    )
    make_namespace(stage, stage.namespace)
    return stage


def embedded(cluster: Cluster, say: Callable[[str], None], *, seed: int) -> Result:
    """The whole story on the embedded cluster, which stays up. What this run started is taken down when it fails."""
    begun, tally = time.monotonic(), Tally()
    before = built(cluster.cache)
    cold = not before and go_cache_is_empty()
    record_failed(None)  # what an earlier run counted is not this one's
    Binaries(cache=cluster.cache, say=say).ensure("control-plane", "node", "helm")
    models = prepare(cluster.cache, say=say)
    started = cluster.up()
    stage = None
    try:
        stage = embedded_stage(cluster, models, say)
        tell(stage, seed=seed, tally=tally)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            kept = keep(cluster, stage)
            say(f"what was going on is kept in {kept}")
        if started:
            cluster.down()
        raise
    finally:
        record_failed(tally.failed)
    after = built(cluster.cache)
    result = Result(
        seconds=time.monotonic() - begun,
        cold=started and cold,
        warm=started and before >= after,
    )
    record(result)
    return result


def tell(stage: Stage, *, seed: int, tally: Tally) -> None:
    """The story itself. Raises StoryError when it does not come out as it should."""
    say, models = stage.say, stage.models
    begun = time.monotonic()
    say(f"Edgeward is installed by helm ({install(stage):.1f} s)")
    for name in clear_leftovers(stage):
        say(f"  removed what an earlier run left: {name}")
    rows = [("step", "what happened", "seconds")]
    expected = visitor.expected()

    heading("An urgent job and a background job")
    placed = story.place(stage, ("sign-reader", models.sign_reader), ("file-sorter", models.file_sorter))
    show.placed(say, placed)
    print(story.table(stage), flush=True)
    rows += [
        (item.job, f"priority tier {item.tier}, on {', '.join(item.nodes)}", f"{item.seconds:.1f}") for item in placed
    ]

    heading("Signs and files, asked for from inside and from outside")
    visitor.send_in(stage, story.edge_nodes(stage)[0])
    asked = [
        story.Answers(model=model, where=f"from a pod on {story.edge_nodes(stage)[0]}", replies=tuple(replies))
        for model, replies in (
            ("sign-reader", visitor.ask_inside(stage, "sign-reader")),
            ("file-sorter", visitor.ask_inside(stage, "file-sorter")),
        )
    ]
    urls = story.outside_urls(stage, "sign-reader")
    asked.append(story.ask_outside(stage, "sign-reader", urls[0]))
    for answers in asked:
        show.answers(say, answers, expected[answers.model])
        wrong = [item for item in answers.replies if item.answer != expected[answers.model][item.question]]
        if wrong:
            raise StoryError(f"{answers.model} answered wrongly: {wrong[:3]}")
    rows.append(("answers", f"{sum(len(item.replies) for item in asked)} asked, all right", ""))

    heading("One edge node gets busy with something else")
    node = story.pick(story.edge_nodes(stage), seed=seed)
    say(f"picked at random: {node} (seed {seed}; --seed picks again)")
    loaded = story.load_node(stage, node)
    show.loaded(say, loaded)
    avoided = story.place_beside(stage, loaded, "page-turner", models.page_turner)
    show.avoided(say, avoided)
    if node in avoided.placed.nodes:
        raise StoryError(f"page-turner was placed on {node}, which is busy")
    story.relieve(stage)
    rows.append(("busy node", f"{node} at {loaded.busy_cores:.2f} cores; page-turner went to {avoided.placed.nodes[0]}",
                 f"{loaded.seconds + avoided.placed.seconds:.1f}"))  # fmt: skip

    heading("Version 2 with other weights, under constant load")
    rolled = story.roll_out(stage, "sign-reader", models.sign_reader, models.sign_reader_2, urls=urls, tally=tally)
    old, new = models.sign_reader.version, models.sign_reader_2.version
    show.rolled(say, rolled, old=old, new=new)
    print(story.table(stage), flush=True)
    failed = len(rolled.seen.failed)
    rows.append((f"version {new}", f"{len(rolled.seen.questions)} requests, {failed} failed, pods"
                 f" {'unchanged' if rolled.before == rolled.after else 'changed'}", f"{rolled.seconds:.1f}"))  # fmt: skip
    if failed or rolled.before != rolled.after:
        raise StoryError("the rollout was not without a trace: see above")

    heading("Version 3 reads every sign wrongly")
    good, bad = models.sign_reader_2, models.sign_reader_3
    fell = story.fall_back(stage, "sign-reader", good, bad, urls=urls, tally=tally)
    show.fell_back(say, fell, good=good.version, bad=bad.version)
    print(story.table(stage), flush=True)
    failed, answered = len(fell.seen.failed), fell.seen.answered(bad.version)
    rows.append((f"version {bad.version}", f"back by itself; {len(fell.seen.questions)} requests, {failed} failed,"
                 f" {answered} answered by it", f"{fell.seconds:.1f}"))  # fmt: skip
    if failed or answered or fell.before != fell.after:
        raise StoryError("the bad version was not without a trace: see above")

    heading("The operator is killed")
    survived = survival.kill_operator(stage)
    show.survived(say, survived)
    rows.append(("operator killed", f"{len(survived.changed)} of {survived.compared} objects changed",
                 f"{survived.took_over:.1f}"))  # fmt: skip
    if survived.changed:
        raise StoryError("something moved while the operator was away: see above")

    heading("What happened")
    rows.append(("in all", "", f"{time.monotonic() - begun:.1f}"))
    print(show.table(rows), flush=True)


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def farewell(cluster: Cluster, seconds: float) -> None:
    print(
        f"""
The whole run took {seconds:.0f} s. The cluster stays up. To look further:
    export KUBECONFIG={cluster.kubeconfig}
    kubectl get ij,mr -n demo                   # jobs and releases
    kubectl describe ij sign-reader -n demo     # why here, why not there
    kubectl get assignments -n edgeward -o yaml # what each site was told and what it reports
    kubectl logs -n edgeward deploy/edgeward    # what the operator says
    {cluster.prometheus_url:<43} # Prometheus
    make cluster-down                           # end it{"" if cluster.name == "edgeward" else f" (NAME={cluster.name})"}
(a kubectl of the same version: {cluster.binaries.path("kubectl")})""",
        flush=True,
    )


def keep(cluster: Cluster, stage: Stage | None) -> Path:
    """What a person needs to find out why a run failed, kept where a later `down` does not reach."""
    folder = REPOSITORY / "build" / f"failed-{cluster.name}"
    folder.mkdir(parents=True, exist_ok=True)
    if stage is not None:
        here, there = ("-n", stage.namespace), ("-n", stage.operator_namespace)
        operator = ("logs", *there, "-l", "app.kubernetes.io/component=operator", "--tail=-1")
        ours = ("logs", *here, "-l", "app.kubernetes.io/managed-by=edgeward", "--tail=200", "--prefix")
        looks = {
            "objects.txt": ("get", "all,ij,mr,pvc,configmaps", *here, "-o", "wide"),
            "pods.txt": ("get", "pods", "-A", "-o", "wide"),
            "jobs.yaml": ("get", "ij,mr", *here, "-o", "yaml"),
            "assignments.yaml": ("get", "assignments", *there, "-o", "yaml"),
            "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
            "describe-pods.txt": ("describe", "pods", *here),
            "operator.log": operator,
            "operator-before.log": (*operator, "--previous"),
            "runtime.log": ours,
        }
        for name, words in looks.items():
            try:
                (folder / name).write_text(stage.kubectl.run(*words, check=False, timeout=20), encoding="utf-8")
            except StoryError as error:
                (folder / name).write_text(str(error), encoding="utf-8")
    return folder


def record(result: Result) -> None:
    """For the bench: the last cold and the last warm run, each kept until there is another."""
    if result.cold:
        _note("demo_cold_s", round(result.seconds, 1))
    elif result.warm:
        _note("demo_warm_s", round(result.seconds, 1))


def record_failed(requests: int | None) -> None:
    """Of the last run, whether it came out or not; None when it ended before anybody asked under load."""
    _note("demo_failed_requests", requests)


def _note(name: str, value: float | None) -> None:
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({**known, name: value}, indent=1) + "\n")


def clean(cluster: Cluster) -> None:
    cluster.down()
