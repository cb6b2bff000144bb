"""The demo's story as assertions: the same steps on a cluster of the tests' own, each fact held to what it should be."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
import yaml

from tests.demo import story, survival, visitor
from tests.demo.ask import TASKS
from tests.demo.kube import Object, unix
from tests.demo.models import reference
from tests.demo.show import score_table
from tests.demo.stage import MANIFESTS, MEASURE_INTERVAL_S, WINDOW_S, Stage

from . import recompute

THREADS = 4


@dataclass(frozen=True)
class Chapter:
    """The whole story, told once; the tests below only look at it."""

    placed: list[story.Placed]
    inside: dict[str, story.Answers]
    outside: list[story.Answers]
    avoided: story.Avoided
    page: story.Answers
    rolled: story.Rolled
    fell: story.FellBack
    later: story.Answers
    survived: survival.Survived


@pytest.fixture(scope="module")
def told(stage: Stage) -> Chapter:
    models = stage.models
    placed = story.place(stage, ("sign-reader", models.sign_reader), ("file-sorter", models.file_sorter))
    edges = story.edge_nodes(stage)
    visitor.send_in(stage, edges[0])
    inside = {model: _inside(stage, model) for model in ("sign-reader", "file-sorter")}
    urls = story.outside_urls(stage, "sign-reader")
    outside = [story.ask_outside(stage, "sign-reader", url) for url in urls]
    seed = random.SystemRandom().randrange(10_000)
    stage.say(f"seed {seed}")
    loaded = story.load_node(stage, story.pick(edges, seed=seed))
    avoided = story.place_beside(stage, loaded, "page-turner", models.page_turner)
    story.relieve(stage)
    page = _inside(stage, "page-turner")
    rolled = story.roll_out(stage, "sign-reader", models.sign_reader, models.sign_reader_2, urls=urls, threads=THREADS)
    good, bad = models.sign_reader_2, models.sign_reader_3
    fell = story.fall_back(stage, "sign-reader", good, bad, urls=urls)
    later = story.ask_outside(stage, "sign-reader", urls[0])
    return Chapter(placed, inside, outside, avoided, page, rolled, fell, later, survival.kill_operator(stage))


def _inside(stage: Stage, model: str) -> story.Answers:
    return story.Answers(model=model, where="inside", replies=tuple(visitor.ask_inside(stage, model)))


# Placing -----------------------------------------------------------------------------------------------------------


def test_the_urgent_job_has_a_replica_at_each_of_the_two_edge_sites(told: Chapter) -> None:
    urgent = told.placed[0]
    assert (urgent.job, urgent.tier) == ("sign-reader", 4)
    assert urgent.nodes == ("edge-1", "edge-2")
    assert urgent.sites == ("site-a", "site-b")


def test_the_background_job_is_of_the_lowest_priority_tier_and_serves_too(told: Chapter) -> None:
    background = told.placed[1]
    assert (background.job, background.tier, len(background.nodes)) == ("file-sorter", 1, 1)


def test_a_pod_runs_where_the_decision_says(told: Chapter, stage: Stage) -> None:
    for item in (*told.placed, told.avoided.placed):
        pods = story.serving_pods(stage, item.job)
        assert tuple(sorted(node for _, _, node in pods)) == item.nodes


# Answers -----------------------------------------------------------------------------------------------------------


def _right(answers: story.Answers) -> None:
    expected = visitor.expected()[answers.model]
    assert {reply.question: reply.answer or reply.error for reply in answers.replies} == expected


@pytest.mark.parametrize("model", ["sign-reader", "file-sorter"])
def test_a_pod_at_an_edge_site_gets_right_answers_through_the_service(told: Chapter, model: str) -> None:
    _right(told.inside[model])


def test_a_client_outside_the_cluster_gets_right_answers_at_every_edge_node(told: Chapter) -> None:
    assert len(told.outside) == 2
    for answers in told.outside:
        _right(answers)
        assert {reply.version for reply in answers.replies} == {"1.0.0"}


def test_the_job_that_came_later_answers_too(told: Chapter) -> None:
    _right(told.page)


# The busy node -----------------------------------------------------------------------------------------------------


def test_prometheus_sees_the_load_on_that_node_only(told: Chapter) -> None:
    loaded = told.avoided.loaded
    assert loaded.busy_cores > story.BUSY * loaded.cores
    assert loaded.busy_cores > loaded.idle_cores + 0.3


def test_the_new_replica_avoids_the_busy_node_for_its_load(told: Chapter) -> None:
    avoided, explanation = told.avoided, told.avoided.explanation
    assert avoided.loaded.node not in avoided.placed.nodes
    assert explanation["node"] == avoided.placed.nodes[0]
    runner = explanation["runnersUp"][0]
    assert runner["node"] == avoided.loaded.node
    costs = {
        mine["name"]: mine["weight"] * (mine["value"] - theirs["value"]) / 1e6
        for mine, theirs in zip(explanation["terms"], runner["terms"], strict=True)
    }
    worst = max(costs, key=lambda name: costs[name])
    assert worst == "load"
    name, _, amount = runner["reason"].partition(" costs it ")
    assert name == worst
    assert float(amount) == pytest.approx(costs[worst], abs=0.002)


def test_every_printed_number_comes_out_of_prometheus_and_the_api_again(told: Chapter, stage: Stage) -> None:
    avoided, explanation = told.avoided, told.avoided.explanation
    decided = unix(explanation["decidedAt"])
    chosen = {**explanation, "score": avoided.placed.status["decisions"][0]["score"]}
    sides = [chosen, *explanation["runnersUp"]]
    assert len(sides) == 2
    worked = [_work_out(stage, avoided, side, decided, holds=side is chosen) for side in sides]
    best = max(item.capability for item in worked)
    for side, item in zip(sides, worked, strict=True):
        figures = side["figures"]
        assert float(figures["cores"]) == item.cores
        assert float(figures["requestedCores"]) == pytest.approx(item.requested_cores, abs=1e-3)
        assert float(figures["inFlightCores"]) == pytest.approx(item.in_flight_cores, abs=1e-3)
        assert float(figures["freeCores"]) == pytest.approx(item.free_cores, abs=3e-3)
        assert figures["confidence"] == pytest.approx(item.confidence, abs=14)  # the times are whole seconds
        assert figures["load"] == pytest.approx(item.load, abs=4)
        assert figures["capability"] == pytest.approx(1000 * item.capability / best, abs=4)
        values = {term["name"]: term["value"] for term in side["terms"]}
        assert values == pytest.approx(dict(item.terms), abs=8)
        weights = {term["name"]: term["weight"] for term in side["terms"]}
        total = sum(recompute.WEIGHTS.values())
        assert weights == pytest.approx({name: 1000 * w / total for name, w in recompute.WEIGHTS.items()}, abs=0.51)
        assert side["score"] == pytest.approx(item.score, abs=4)
    assert [side["score"] for side in sides] == sorted((side["score"] for side in sides), reverse=True)


def _work_out(stage: Stage, avoided: story.Avoided, side: Object, decided: float, *, holds: bool) -> recompute.Expected:
    name, figures = side["node"], side["figures"]
    node = next(item for item in avoided.nodes if item["metadata"]["name"] == name)
    measured = unix(figures["liveAt"])
    samples = recompute.raw_samples(
        stage.prometheus_url, "container_cpu_usage_seconds_total", name, until=decided + 1, seconds=WINDOW_S + 60
    )
    possible = recompute.rates(samples, measured=measured, decided=decided, window=WINDOW_S)
    live = min(possible, key=lambda value: abs(value - float(figures["liveCores"])))
    assert float(figures["liveCores"]) == pytest.approx(live, abs=2e-3)
    memory = recompute.raw_samples(
        stage.prometheus_url, "container_memory_working_set_bytes", name, until=decided + 1, seconds=60
    )[-1]
    job = next(item for item in yaml.safe_load_all((MANIFESTS / "page-turner.yaml").read_text()) if _is_job(item))
    asked = job["spec"]["resources"]["requests"]
    return recompute.expected(
        node=node,
        pods=avoided.pods,
        job="page-turner",
        asked=(recompute.cpu_of(asked["cpu"]), recompute.bytes_of(asked["memory"])),
        holds=holds,
        live=live,
        memory=memory.value,
        age=max(0.0, decided - measured),
        interval=MEASURE_INTERVAL_S,
        measured=measured,
    )


def _is_job(item: Object) -> bool:
    return bool(item["kind"] == "InferenceJob")


def test_the_order_of_the_jobs_comes_out_of_their_marks_again(told: Chapter) -> None:
    marks = [(4, 5, 3), (1, 1, 1), (3, 3, 3)]
    p = recompute.priority(marks, 2)
    status = told.avoided.placed.status
    assert status["explanation"]["order"].startswith(f"priority tier 3, P {float(p):.4f}, 2nd of 3")
    assert status["priority"] == {"tier": 3, "score": round(1000 * float(p))}


def test_nodes_that_could_not_be_chosen_are_named_with_the_reason(told: Chapter) -> None:
    cloud = [n for n in told.avoided.nodes if n["metadata"]["labels"]["edgeward.dev/tier"] == "cloud"]
    rejected = {item["reason"]: item for item in told.avoided.explanation["rejected"]}
    assert rejected["TierMismatch"]["count"] == len(cloud)
    assert cloud[0]["metadata"]["name"] in rejected["TierMismatch"]["nearestMiss"]


def test_the_table_that_is_shown_holds_the_numbers_of_the_status(told: Chapter) -> None:
    explanation = told.avoided.explanation
    shown = score_table(explanation)
    for side in (explanation, *explanation["runnersUp"]):
        for term in side["terms"]:
            assert f"{term['weight'] / 1000:.3f} x {term['value'] / 1000:.3f}" in shown
        for name in ("cores", "liveCores", "liveAt", "freeCores", "load", "capability"):
            assert str(side["figures"][name]) in shown


# Version 2 ---------------------------------------------------------------------------------------------------------


def test_no_request_fails_while_the_version_changes_under_load(told: Chapter) -> None:
    seen = told.rolled.seen
    assert [item.problem for item in seen.failed] == []
    assert seen.answered("1.0.0") >= 2 * THREADS
    assert seen.answered("2.0.0") >= 4 * THREADS
    assert seen.answered("1.0.0") + seen.answered("2.0.0") == len(seen.questions)


def test_the_load_goes_on_through_the_whole_change(told: Chapter) -> None:
    during = [item.at for item in told.rolled.seen.questions if told.rolled.told_at < item.at < told.rolled.done_at]
    gaps = [after - before for before, after in pairwise(during)]
    assert gaps and max(gaps) < 5.0


def test_nobody_answers_with_the_old_version_once_status_says_all_have_the_new(told: Chapter) -> None:
    assert told.rolled.seen.last("1.0.0") <= told.rolled.done_at + 0.5
    assert told.rolled.done_at - told.rolled.seen.last("1.0.0") < 15, "status follows what is served"
    sites = told.rolled.release["status"]["sites"]
    assert sites["updated"] == sites["total"] == 2


def test_the_pods_are_the_same_and_were_not_restarted(told: Chapter) -> None:
    assert told.rolled.after == told.rolled.before
    assert [restarts for _, restarts, _ in told.rolled.after] == [0, 0]


def test_version_2_has_other_bytes_and_other_answers_and_reads_the_same(told: Chapter, stage: Stage) -> None:
    models = stage.models
    assert models.sign_reader.digest != models.sign_reader_2.digest
    assert told.rolled.seen.between > 0.02
    _right(told.later)
    assert {reply.version for reply in told.later.replies} == {"2.0.0"}
    task, signs = TASKS["sign-reader"], visitor.questions()["sign-reader"]
    here = reference(models.sign_reader_2, {text: task.ask(pixels) for text, pixels in signs.items()})
    for before, after in zip(told.outside[0].replies, told.later.replies, strict=True):
        assert after.sure != pytest.approx(before.sure, abs=1e-4)
        assert after.sure == pytest.approx(task.read(here[after.question], models.characters)[1], abs=1e-3)


# Version 3 ---------------------------------------------------------------------------------------------------------


def test_a_version_that_reads_wrongly_goes_back_by_itself_and_answers_nobody(told: Chapter) -> None:
    seen = told.fell.seen
    assert [item.problem for item in seen.failed] == []
    assert {item.version for item in seen.questions} == {"2.0.0"}
    assert told.fell.after == told.fell.before


def test_it_is_a_gate_that_found_it_out_of_copies_of_what_was_asked(told: Chapter) -> None:
    gate, release = told.fell.gate, told.fell.release
    assert (gate["name"], gate["outcome"]) == ("agreement", "Failed")
    assert float(gate["value"]) < 0.5 and gate["samples"] >= 5 and "0.9" in gate["threshold"]
    assert all(word in told.fell.said for word in ("agreement", "0.9", "2.0.0")), told.fell.said
    assert release["spec"]["version"] == "3.0.0" and release["status"]["currentVersion"] == "2.0.0"


# The operator is killed --------------------------------------------------------------------------------------------


def test_another_process_leads_soon_after_a_kill(told: Chapter) -> None:
    assert told.survived.holder_after != told.survived.holder_before
    assert told.survived.took_over < 45


def test_nothing_moves_and_nothing_is_written_but_the_lease(told: Chapter) -> None:
    assert told.survived.changed == ()
    kinds = {key.partition("/")[0] for key in told.survived.before}
    assert {"pods", "deployments", "assignments", "inferencejobs", "modelreleases", "configmaps", "services"} <= kinds


def test_the_cluster_still_answers_after_all_that(told: Chapter, stage: Stage) -> None:
    for url in story.outside_urls(stage, "sign-reader"):
        _right(story.ask_outside(stage, "sign-reader", url))
