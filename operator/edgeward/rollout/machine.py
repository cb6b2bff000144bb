"""One step of a rollout: pure, and safe to repeat. Whoever carries it out may die between any two steps.

    Rolling --members changed--> Baking --gates passed--> Rolling (next wave) ... --> Done
       \\______ a gate failed, too many sites refused it, the deadline, abort ______> RolledBack

The way back is always the last version that finished. A site whose own checks refuse the target keeps what it serves,
by itself; the rollout only counts it. Sites that are away are neither waited for nor counted against anybody.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edgeward.api.common import format_time
from edgeward.rollout import gates, waves
from edgeward.rollout.model import (
    Decision,
    Facts,
    Gate,
    Hold,
    Look,
    Member,
    Outcome,
    Phase,
    Progress,
    Refused,
    Told,
    Wave,
)

_EVERYWHERE = Wave(name="all")
_SILENT = (Outcome.NO_DATA, Outcome.ERROR)
_AGREEMENT = "Agreement"


def advance(facts: Facts) -> Decision:
    """What every site is told from now on, and what is to be remembered. Applying it and asking again at the same moment
    changes nothing."""
    return _Step(facts).decide()


class _Step:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.target = facts.target
        self.waves = facts.strategy.waves or (_EVERYWHERE,)
        self.refused = facts.refused
        self.stable = facts.stable if facts.stable is not None else self._what_runs()
        self.turns: list[str] = []
        self.waits_for = ""
        self.no_data = False
        self.progress = self._adopted()

    def decide(self) -> Decision:
        self._obey()
        if self.progress.phase is not Phase.ROLLED_BACK and self._is_refused():
            self._back(next(one.reason for one in self.refused if one.version == self.target), again=True)
        # A wave that is over at once begins the next one in the same step, so the number of steps is bounded.
        for _ in range(2 * len(self.waves) + 3):
            before = self.progress
            if self._held():
                break
            self._move()
            if self.progress == before:
                break
        return Decision(
            progress=self.progress,
            told=self._told(),
            stable=self.stable,
            refused=self.refused,
            waits_for=self.waits_for,
            turns=tuple(self.turns),
            no_data=self.no_data,
        )

    # -- what is remembered ---------------------------------------------------------------------------------------

    def _adopted(self) -> Progress:
        """What is remembered, if it is about this target; else a beginning. A hub that has lost its memory finds out from
        the sites whether the target is out already."""
        facts, before = self.facts, self.facts.progress
        if before is not None and before.target == self.target:
            return self._still(before)
        token = before.token if before else ""
        fresh = Progress(target=self.target, started=facts.now, token=token, attempt=facts.attempt)
        connected = [one for one in facts.members if one.connected]
        if connected and all(one.serves == self.target for one in connected):
            self.stable = self.target
            return replace(fresh, phase=Phase.DONE, wave=len(self.waves))
        self.turns.append("Started")
        return fresh

    def _still(self, before: Progress) -> Progress:
        """What is remembered, held against what is there by now: a clock that was set back, a wave none of whose sites is
        left (others are chosen), waves that were taken out of the spec (the one on its way counts as the last)."""
        facts = self.facts
        now = replace(before, started=min(before.started, facts.now))
        if now.phase not in (Phase.ROLLING, Phase.BAKING):
            return now
        if now.members and facts.members and not self._of(now.members):
            now = replace(now, phase=Phase.ROLLING, members=(), baking_since=None)
        if now.members or now.phase is Phase.BAKING:
            now = replace(now, wave=min(now.wave, len(self.waves) - 1))
        return now

    def _what_runs(self) -> str | None:
        """Where no version ever finished, or nobody remembers: the one that most sites trust and serve. There is nothing
        better to go back to. Whether it serves at the moment does not matter where the target is refused."""
        gone = {one.version for one in self.refused} | {self.target}
        sites = [one for one in self.facts.members if one.base is not None]
        runs = Counter(one.base for one in sites if one.base == one.serves)
        if not runs.keys() - gone and any(one.version == self.target for one in self.refused):
            runs = Counter(one.base for one in sites)
        found = [(-count, version) for version, count in runs.items() if version not in gone]
        return min(found)[1] if found else None

    def _obey(self) -> None:
        command = self.facts.command
        if command is None or command.token == self.progress.token:
            return
        self.progress = replace(self.progress, token=command.token)
        match command.verb:
            case "pause" if self.progress.phase in (Phase.ROLLING, Phase.BAKING):
                self._hold(Hold.COMMAND, "paused by command")
            case "promote" if self.progress.phase in (Phase.ROLLING, Phase.BAKING):
                self._promote()
            case "abort" if self.progress.phase in (Phase.ROLLING, Phase.BAKING) and self._has_a_way_back():
                self._back("aborted by command")
            case "retry":
                self._retry(command.token)
                self.turns.append("Retried")
            case _:
                return

    def _promote(self) -> None:
        """What held it, holds it no more: a deadline begins anew, and sites that refuse it are put up with."""
        held = self.progress.hold
        if held is not Hold.NONE:
            self.progress = replace(self.progress, hold=Hold.NONE, why="", started=self.facts.now)
        mine = self._of(self.progress.members)
        refused = held is Hold.GATE_FAILED and self._too_many(self._refusing(mine), mine)
        if self.progress.phase is Phase.BAKING or (refused and any(one.serves == self.target for one in mine)):
            self._next_wave()

    def _retry(self, token: str) -> None:
        """Under a number that nobody has seen, so that whoever remembers a refusal knows that it is meant. What sites said
        until now was said of an attempt before."""
        known = [one.attempt for one in self.refused if one.version == self.target]
        attempt = max([self.facts.attempt, self.facts.known_attempt, self.progress.attempt, *known]) + 1
        self.refused = tuple(one for one in self.refused if one.version != self.target)
        self.facts = replace(self.facts, members=tuple(replace(one, refused="") for one in self.facts.members))
        self.progress = Progress(target=self.target, started=self.facts.now, token=token, attempt=attempt)

    def _is_refused(self) -> bool:
        return self._has_a_way_back() and any(one.version == self.target for one in self.refused)

    def _has_a_way_back(self) -> bool:
        """Whether there is another version than the target to go back to, and to compare it with."""
        return self.stable not in (None, self.target)

    def _held(self) -> bool:
        if self.facts.strategy.paused:
            self.waits_for = "spec.paused holds it"
            return True
        if self._comes_after():
            self.waits_for = f"the end of {self.facts.comes_after}"
            return True
        if self.progress.hold is not Hold.NONE:
            self.waits_for = f"{self.progress.why}: promote, abort or retry"
            return True
        return False

    def _hold(self, hold: Hold, why: str) -> None:
        self.progress = replace(self.progress, hold=hold, why=why)
        self.turns.append("Held")

    # -- moves ----------------------------------------------------------------------------------------------------

    def _move(self) -> None:
        match self.progress.phase:
            case Phase.ROLLING:
                if not self._too_late():
                    self._roll()
            case Phase.BAKING:
                if not self._too_late():
                    self._bake()

    def _too_late(self) -> bool:
        deadline = self.facts.strategy.deadline
        if deadline is None or self.facts.now - self._begun() <= deadline:
            return False
        self._fail(f"not done within its deadline of {deadline:g} s")
        return True

    def _begun(self) -> float:
        """What the deadline counts from: a site that has fetched what it was told can do nothing before it may begin."""
        late = [one for one in self.facts.members if waves.on_its_way(one, self.target) and one.connected]
        begins = [one.begins for one in late if one.begins is not None and (one.staged or one.begins <= self.facts.now)]
        return max([self.progress.started, *begins])

    def _window(self, late: Sequence[Member]) -> str:
        """What is waited for where all that are late have fetched it and only may not begin; empty: it is not that."""
        waiting = [one.begins for one in late if one.staged and one.begins is not None and one.begins > self.facts.now]
        if not waiting or len(waiting) < len(late):
            return ""
        opens = min(waiting)
        when = f"next opens at {format_time(opens)}" if opens < math.inf else "none ever opens"
        return f"the window of {len(late)} site{'s' if len(late) > 1 else ''}, {when}"

    def _roll(self) -> None:
        if self.progress.wave >= len(self.waves):
            self._finish()
            return
        wave = self.waves[self.progress.wave]
        members = self.progress.members
        if not members:
            members = waves.chosen(wave, self.facts.members, self.target)
            if members:
                # What it had to wait for until now does not count against its deadline.
                started = self.facts.now if self.progress.wave == 0 else self.progress.started
                self.progress = replace(self.progress, members=members, started=started)
                self.turns.append("WaveStarted")
        # Of a wave whose sites were all taken before, those that were.
        mine = self._of(members) if members else [one for one in self.facts.members if one.told == self.target]
        good = [one for one in mine if one.serves == self.target]
        bad = self._refusing(mine)
        if self._too_many(bad, mine):
            first = bad[0]
            self._fail(f"{len(bad)} of {len(mine)} sites refuse it, {first.name}: {first.refused}")
            return
        late = [one for one in mine if one.connected and one not in good and one not in bad]
        if not members and not waves.may_be_empty(wave, self.facts.members, self.target):
            self.waits_for = f"a site of wave {wave.name}, which are all away"
        elif late:
            self.waits_for = self._window(late) or f"{len(late)} of {len(mine)} sites of wave {wave.name}"
        elif good:
            if wave.bake or self.facts.strategy.gates:
                looks = tuple(gates.rested(look) for look in self.progress.looks)
                self.progress = replace(self.progress, phase=Phase.BAKING, baking_since=self.facts.now, looks=looks)
                self.turns.append("Baking")
            else:
                self._next_wave()
        elif bad:
            self._fail(f"every site of wave {wave.name} refuses it, {bad[0].name}: {bad[0].refused}")
        else:
            self.waits_for = f"a site of wave {wave.name} that serves it"

    def _of(self, names: Sequence[str]) -> list[Member]:
        wanted = set(names)
        return [one for one in self.facts.members if one.name in wanted]

    def _anywhere(self) -> bool:
        return any(one.serves == self.target for one in self.facts.members)

    def _refusing(self, mine: Sequence[Member]) -> list[Member]:
        return [one for one in mine if one.refused and one.serves != self.target]

    def _too_many(self, bad: Sequence[Member], mine: Sequence[Member]) -> bool:
        """One site that refuses may be the site's fault; more than may be unavailable are the version's. Without such a
        limit it takes a majority of the wave."""
        most = waves.most_unavailable(self.facts.strategy, len(self.facts.members))
        return len(bad) > (most if most is not None else len(mine) // 2)

    def _bake(self) -> None:
        facts, progress = self.facts, self.progress
        wave = self.waves[progress.wave]
        # A clock that was set back begins the bake anew.
        since = min(progress.baking_since, facts.now) if progress.baking_since is not None else facts.now
        known = {(one.gate, one.variant): one for one in progress.looks}
        # The version before is the same, whichever variant is compared with it.
        baselines = {one.gate: one.baseline for one in progress.looks if one.baseline is not None}
        asked = [(gate, variant) for gate in self._gates(wave) for variant in facts.variants]
        looks = [
            gates.looked(
                gate,
                known.get((gate.name, variant))
                or Look(gate=gate.name, variant=variant, baseline=baselines.get(gate.name)),
                facts.samples.get((gate.name, variant)),
                since=since,
                now=facts.now,
            )
            for gate, variant in asked
        ]
        others = {gate.name for gate in facts.strategy.gates} - {gate.name for gate, _ in asked}
        still = [look for look in progress.looks if look.gate in others]  # what they said stays to be read
        self.progress = progress = replace(progress, looks=(*looks, *still), baking_since=since)
        judged = [(gate, look) for (gate, _), look in zip(asked, looks, strict=True)]
        for gate, look in judged:
            if gates.failed(gate, look):
                self._fail(f"{_of_gate(look)}: {look.message}")
                return
        mine = self._of(progress.members)
        bad = self._refusing(mine)
        if self._too_many(bad, mine):
            self._fail(f"{len(bad)} of {len(mine)} sites went back, {bad[0].name}: {bad[0].refused}")
            return
        baked = facts.now - since >= wave.bake
        open_ = [look for gate, look in judged if not gates.passed(gate, look, baked=baked)]
        # The one that hinders most first.
        open_.sort(key=lambda look: look.outcome not in _SILENT)
        self.no_data = bool(open_) and open_[0].outcome in _SILENT
        if not baked and not self.no_data:
            self.waits_for = f"the end of wave {wave.name}'s bake at {format_time(since + wave.bake)}"
        elif open_:
            look = open_[0]
            said = f" ({look.outcome}: {look.message})" if look.outcome is not Outcome.WAITING else ""
            self.waits_for = f"{_of_gate(look)}{said}"
        elif progress.members and not any(one.serves == self.target for one in mine):
            self.waits_for = f"a site of wave {wave.name} that serves it"
        else:
            self._next_wave()

    def _gates(self, wave: Wave) -> list[Gate]:
        """Those that can be asked of the wave. The first version of all has none to be compared with, nor to agree with, and
        neither has what finished last, when a spec goes back to it in the middle; and where some waves make copies, the
        others are not asked how these agree."""
        copies = bool(wave.mirror) or not any(one.mirror for one in self.waves)
        alone = not self._has_a_way_back()
        return [
            one
            for one in self.facts.strategy.gates
            if (copies and not alone if one.builtin == _AGREEMENT else not (alone and one.baseline))
        ]

    def _next_wave(self) -> None:
        self.progress = replace(
            self.progress,
            phase=Phase.ROLLING,
            wave=self.progress.wave + 1,
            members=(),
            baking_since=None,
        )
        self.turns.append("WavePassed")

    def _finish(self) -> None:
        """After the last wave: sites that came meanwhile are told as well, and the target is what the next one goes back
        to once all that are there serve it."""
        left = [one for one in self.facts.members if one.connected and one.serves != self.target and not one.refused]
        if left or not self._anywhere():
            after = f"{len(left)} sites that came after the last wave" if left else "a site that serves it"
            self.waits_for = self._window(left) or after
            return
        self.stable = self.target
        self.progress = replace(self.progress, phase=Phase.DONE, why="")
        self.turns.append("Finished")

    def _fail(self, why: str) -> None:
        if not self._has_a_way_back():
            self._hold(Hold.GATE_FAILED, f"{why}; there is no version to go back to")
        elif not self.facts.strategy.automatic_rollback:
            self._hold(Hold.GATE_FAILED, why)
        else:
            self._back(why)

    def _back(self, why: str, *, again: bool = False) -> None:
        if not again:
            kept = tuple(one for one in self.refused if one.version != self.target)
            attempt = self.progress.attempt
            self.refused = (*kept, Refused(version=self.target, reason=why, at=self.facts.now, attempt=attempt))
        self.progress = replace(
            self.progress, phase=Phase.ROLLED_BACK, members=(), baking_since=None, hold=Hold.NONE, why=why
        )
        self.turns.append("RolledBack")

    # -- what sites are told --------------------------------------------------------------------------------------

    def _told(self) -> dict[str, Told]:
        members, progress = self.facts.members, self.progress
        if self.stable is None and progress.hold is Hold.NONE and not self.facts.strategy.paused:
            # The first version of all: nothing serves that it could harm, and nothing could be told instead.
            return {
                one.name: Told(version=self.target if one.connected or one.told is None else one.told)
                for one in members
            }
        if progress.phase is Phase.ROLLED_BACK:
            return {one.name: Told(version=self.stable) for one in members}
        wave = self._on_its_way()
        told = {one.name: self._as_before(one) for one in members}
        if self._stands_still():
            return told
        tellable = set(progress.members) if wave is not None else {one.name for one in members}
        free, risk = waves.room(self.facts.strategy, wave, members, self.target)
        waiting = [
            one
            for one in waves.order(members, self.target)
            if one.name in tellable and one.connected and one.told != self.target and not one.shut
        ]
        for one in waiting:
            if one.serves != self.target:  # else there is nothing to fetch and nothing to change
                takes_risk = not waves.unavailable(one)
                if free <= 0 or (takes_risk and risk <= 0):
                    continue
                free -= 1
                risk -= takes_risk
            told[one.name] = self._new(one, wave)
        return told

    def _on_its_way(self) -> Wave | None:
        """None after the last: waves that are added once it is out hold up nobody."""
        over = self.progress.phase is Phase.DONE or self.progress.wave >= len(self.waves)
        return None if over else self.waves[self.progress.wave]

    def _new(self, member: Member, wave: Wave | None) -> Told:
        """The target, alone or as a canary until its wave has passed."""
        base = member.base if member.base != self.target else self.stable
        watched = (
            wave is not None and member.name in self.progress.members and (wave.traffic is not None or wave.mirror)
        )
        if not watched or base is None or wave is None:
            return Told(version=self.target)
        return Told(version=base, beside=self.target, traffic=wave.traffic or 0, mirror=wave.mirror)

    def _stands_still(self) -> bool:
        return self.facts.strategy.paused or self.progress.hold is not Hold.NONE or self._comes_after()

    def _comes_after(self) -> bool:
        """Two rollouts of one job never interleave."""
        return bool(self.facts.comes_after) and self.progress.phase is Phase.ROLLING and not self.progress.begun

    def _kept(self, member: Member) -> str | None:
        """The version before, and whatever else it is told that nobody refused."""
        gone = {one.version for one in self.refused} | {self.target}
        return self.stable if member.base is None or member.base in gone else member.base

    def _as_before(self, member: Member) -> Told:
        if member.told == self.target:
            paced = self.facts.strategy.concurrent is not None and not self._stands_still()
            if (
                paced
                and not member.connected
                and not member.staged
                and waves.on_its_way(member, self.target)
                and member.base != self.target
            ):
                # It would fetch unasked when it is back, whoever else does by then.
                return Told(version=self._kept(member))
            return self._new(member, self._on_its_way()) if member.base != self.target else Told(version=self.target)
        return Told(version=self._kept(member))


def _of_gate(look: Look) -> str:
    return f"gate {look.gate}" + (f" of variant {look.variant[:19]}" if look.variant else "")
