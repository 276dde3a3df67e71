"""
What must hold of the records that workers leave, whatever their order was.

Each function answers a list of sentences about what does not hold; the times in the records are
of one clock for all processes of the machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .work import Record


def check_swaps(
    seen: Sequence[Sequence[Record]], first: int, final: int, history: Sequence[tuple[int, str]]
) -> list[str]:
    """
    Every revision from ``first`` to ``final`` was won by one swap, and none of them was lost.

    Args:
        seen: what each worker of `work.swaps` recorded.
        history: revision and reason of the store's rotations, oldest first.
    """
    records = [record for worker in seen for record in worker]
    swaps = [record for record in records if "expected" in record]
    wins = [record for record in swaps if record["won"]]
    problems = []
    winner: dict[int, str] = {}
    for win in wins:
        revision = win["expected"] + 1
        if revision in winner:
            problems.append(f"{revision} was won by {winner[revision]} and {win['reason']}")
        winner[revision] = win["reason"]
        if win["now"] != revision:
            problems.append(f"{win['reason']} won {revision} and was shown {win['now']}")
    if sorted(winner) != list(range(first + 1, final + 1)):
        problems.append(f"won were {sorted(winner)}, the store is at {final}")
    if list(history) != sorted(winner.items()):
        problems.append("the history is not what was won")
    problems += [
        f"{swap['reason']} lost against {swap['now']}"
        for swap in swaps
        if not swap["won"] and swap["now"] <= swap["expected"]
    ]
    for read in (record for record in records if "read" in record):
        least = max((w["expected"] + 1 for w in wins if w["end"] < read["begin"]), default=first)
        most = max((w["expected"] + 1 for w in wins if w["begin"] < read["end"]), default=first)
        if not least <= read["read"] <= most:
            problems.append(f"read {read['read']}, which was not between {least} and {most}")
    return problems


def check_attempts(
    seen: Sequence[Sequence[Record]], first: int, history: Sequence[tuple[int, str]]
) -> list[str]:
    """
    Every revision after ``first`` has one writer, who was not told that it did not write it.

    Args:
        seen: what each worker of `outage_work.attempts` recorded.
        history: revision and reason of the store's rotations, oldest first.
    """
    swaps = {record["attempt"]: record for worker in seen for record in worker if _swap(record)}
    problems = []
    revisions = [revision for revision, _ in history]
    if revisions != list(range(first + 1, first + 1 + len(revisions))):
        problems.append(f"revisions have gaps: {revisions}")
    written = {reason: revision for revision, reason in history}
    for reason, revision in written.items():
        swap = swaps.get(reason)
        if swap is None or swap["expected"] + 1 != revision:
            problems.append(f"{revision} was written by {reason}, who did not ask for it")
        elif swap["outcome"] in ("lost", "refused"):
            problems.append(f"{reason} wrote {revision} and was told that it was {swap['outcome']}")
    problems += [
        f"{reason} won {swap['expected'] + 1}, and it is not there"
        for reason, swap in swaps.items()
        if swap["outcome"] == "won" and written.get(reason) != swap["expected"] + 1
    ]
    applied = [swaps[reason] for reason in written if reason in swaps]
    return [*problems, *_reads(seen, applied, first)]


def _swap(record: Record) -> bool:
    return "attempt" in record


def _reads(seen: Sequence[Sequence[Record]], swaps: Sequence[Record], first: int) -> Iterator[str]:
    won = [swap for swap in swaps if swap["outcome"] == "won"]
    for worker in seen:
        before = first
        for read in (record for record in worker if "read" in record):
            if read["read"] < before:
                yield f"a reader went back from {before} to {read['read']}"
            before = read["read"]
            least = max((w["expected"] + 1 for w in won if w["end"] < read["begin"]), default=first)
            most = max(
                (s["expected"] + 1 for s in swaps if s["begin"] < read["end"]), default=first
            )
            if not least <= read["read"] <= most:
                yield f"read {read['read']}, which was not between {least} and {most}"


def check_ledger(
    seen: Sequence[Sequence[Record]], ledger: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """What was counted for certain is in the ledger, and nothing that nobody counted."""
    problems = []
    for worker in seen:
        counts = [record for record in worker if "counted" in record]
        if not counts:
            continue
        writer = counts[0]["writer"]
        least = max((record["counted"] for record in counts if record["certain"]), default=0)
        most = max(record["counted"] for record in counts)
        total = ledger.get(writer, {}).get("steps", 0)
        if not least <= total <= most:
            problems.append(f"{writer} counted {least} to {most}, the ledger has {total}")
    strangers = ledger.keys() - {r["writer"] for w in seen for r in w if "writer" in r}
    return problems + [f"{writer} counted nothing" for writer in sorted(strangers)]


def check_folds(
    seen: Sequence[Sequence[Record]], ledger: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """What was counted and folded is there once, however often it was folded."""
    problems = []
    for worker in seen:
        counts = [record for record in worker if "loose" in record]
        if not counts:
            continue
        writer = counts[0]["writer"]
        least = sum(record["loose"] for record in counts if record["certain"])
        most = sum(record["loose"] for record in counts)
        sums = dict(ledger.get(writer, {}))
        done, total = sums.pop("at", 0), sum(sums.values())
        if not least <= total <= most:
            problems.append(f"{writer} counted {least} to {most}, the ledger has {total}")
        folded = [record["at"] for record in worker if record.get("folded")]
        if len(set(folded)) < len(folded) or any(at >= done for at in folded):
            problems.append(f"{writer} folded at {folded}, the ledger is at {done}")
    return problems


def check_beats(
    seen: Sequence[Sequence[Record]], rows: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """Each process's row (here its sessions) is the last one it wrote for certain, or a later."""
    problems = []
    for worker in seen:
        beats = [record for record in worker if "beat" in record]
        if not beats:
            continue
        process = beats[0]["process"]
        least = max((record["beat"] for record in beats if record["certain"]), default=0)
        most = max(record["beat"] for record in beats)
        row = rows.get(process, {}).get("red", 0)
        if not least <= row <= most:
            problems.append(f"{process} wrote {least} to {most}, its row has {row}")
    return problems


def check_passing(seen: Sequence[Sequence[Record]]) -> list[str]:
    """A room that one worker alone places and lets lapse is there when it should be."""
    return [problem for worker in seen for problem in _passing(worker)]


def _passing(worker: Sequence[Record]) -> Iterator[str]:
    # The revisions at which it may be placed now; None where it may have no placement.
    may_be: set[int | None] = {None}
    for record in worker:
        match record.get("passing"):
            case "found":
                if record["revision"] not in may_be:
                    yield f"found at {record['revision']}, not at one of {may_be}"
                may_be = {record["revision"]}
            case "placed":
                made = {record["to"]} if None in may_be else set()
                if record["revision"] not in (may_be - {None}) | made:
                    yield f"placed at {record['revision']}, not at one of {may_be} or {made}"
                may_be = {record["revision"]}
            case "lapsed":
                may_be = {None}
            case "kept":
                yield "did not lapse although nobody held it"
            case "unknown":
                # A placement is made where none is; a lapse takes away whatever is there.
                if record["to"] is None or None in may_be:
                    may_be = may_be | {record["to"]}


def check_places(seen: Sequence[Sequence[Record]], rooms: int) -> list[str]:
    """Each of ``rooms`` rooms got one placement, and everybody was told of that one."""
    problems = []
    servers: dict[str, set[str]] = defaultdict(set)
    for worker in seen:
        if len(worker) != rooms:
            problems.append(f"a worker saw {len(worker)} rooms")
        for record in worker:
            if "stale" in record:
                problems.append(f"stale at {record['stale']}")
                continue
            servers[record["room"]].add(record["server"])
            if not record["confirmed"]:
                problems.append(f"{record['room']} was not confirmed")
    problems += [f"{room} is on {on}" for room, on in servers.items() if len(on) != 1]
    return problems


def check_moves(seen: Sequence[Sequence[Record]], final: dict[str, tuple[str, int]]) -> list[str]:
    """No room went back to a lower revision, or was on two servers at one."""
    problems = []
    by_room: dict[str, list[Record]] = defaultdict(list)
    for worker in seen:
        problems += [f"{record['lost']} was lost" for record in worker if "lost" in record]
        for record in (record for record in worker if "room" in record):
            by_room[record["room"]].append(record)
            if record["revision"] < record["asked"]:
                problems.append(f"asked for {record['asked']}, left at {record['revision']}")
    for room, records in by_room.items():
        servers: dict[int, set[str]] = defaultdict(set)
        for record in records:
            servers[record["revision"]].add(record["server"])
        problems += [
            f"{room} was on {on} at {revision}" for revision, on in servers.items() if len(on) > 1
        ]
        problems += _steps_back(room, records)
        highest = max(servers)
        if final.get(room) != (min(servers[highest]), highest):
            problems.append(f"{room} ended as {final.get(room)}, the highest seen was {highest}")
    return problems


def _steps_back(room: str, records: Iterable[Record]) -> list[str]:
    by_begin = sorted(records, key=lambda record: record["begin"])
    return [
        f"{room} was at {earlier['revision']} and then at {later['revision']}"
        for number, later in enumerate(by_begin)
        for earlier in by_begin[:number]
        if earlier["end"] < later["begin"] and earlier["revision"] > later["revision"]
    ]


def check_watch(
    seen: Sequence[Record], final: int, placements: dict[str, list[object]]
) -> list[str]:
    """A watch began with a Resync, never went back, and ended with what the store has."""
    problems = []
    if not seen or "resync" not in seen[0]:
        problems.append("the first notice was not a Resync")
    told = [record["changed"] for record in seen if "changed" in record]
    if told != sorted(told):
        problems.append(f"revisions went back: {told}")
    known = max([*told, *(record["resync"] for record in seen if "resync" in record)], default=0)
    if known != final:
        problems.append(f"the last revision known was {known}, the store is at {final}")
    moves: dict[str, int] = {}
    for record in seen:
        if "moved" in record:
            if record["revision"] < moves.get(record["moved"], 0):
                problems.append(f"{record['moved']} went back to {record['revision']}")
            moves[record["moved"]] = record["revision"]
    if not seen or seen[-1].get("view") != placements:
        problems.append("the view by notices is not what the store has")
    return problems
