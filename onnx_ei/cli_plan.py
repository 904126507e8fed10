"""``onnx-ei run --dry-run``: what would be measured, and what it would take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from onnx_ei.cli_errors import say
from onnx_ei.cli_showing import PREDICTED_SAMPLES, print_json, print_table

if TYPE_CHECKING:
    from onnx_ei._batch.running import Plan, State
    from onnx_ei.costs import Cost
    from onnx_ei.rows import Row

__all__ = ["show_plan"]

_OF = {
    "ei": ("ei",),
    "ei_parts": ("ei_parts",),
    "sensitivity": ("sensitivity",),
    "degeneracy": ("ei", "sensitivity"),
    "phi": ("ei", "ei_parts"),
    "ei_parts_matrix": ("ei_parts",),
    "sensitivity_matrix": ("sensitivity",),
}
"""What each measure is made of, as far as that costs anything."""


def show_plan(plan: Plan, as_json: bool) -> None:
    """Print what a batch would measure, a line a layer, with the predicted cost of what is to do.

    Parameters
    ----------
    plan : Plan
        The batch.
    as_json : bool
        Whether to print JSON, and not a table.
    """
    from onnx_ei._batch.running import survey

    samples = plan.jobs[0].options.get("samples") or PREDICTED_SAMPLES
    states = list(survey(plan, samples))
    words = [_word(state) for state in states]
    names = {part for name in _measured(plan) for part in _OF[name]}
    costs = [_chosen(state.row, names) if not state.done else {} for state in states]
    takes = [_takes(of.values()) if of else None for of in costs]
    if as_json:
        print_json([_record(*of) for of in zip(states, words, costs, takes, strict=True)])
        return
    from onnx_ei.tables import plan_table

    print_table(plan_table([state.row for state in states], words, takes))
    say(f"{words.count('to do')} of {len(states)} rows to measure, to {plan.output}")
    if any(takes):
        say(_total(plan, [of for of in takes if of is not None], samples))


def _measured(plan: Plan) -> tuple[str, ...]:
    return (*plan.jobs[0].measures, *plan.jobs[0].matrices)


def _word(state: State) -> str:
    if not state.done:
        return "to do"
    return "done" if state.row.status == "measured" else state.row.status


def _chosen(row: Row, names: Iterable[str]) -> dict[str, Cost]:
    wanted = set(names)
    return {name: cost for name, cost in row.costs.items() if name in wanted}


def _takes(costs: Iterable[Cost]) -> tuple[float, int]:
    """Return the seconds of all measures of a row, and the bytes of the one that holds most."""
    of = list(costs)
    return sum(cost.seconds for cost in of), max(cost.bytes for cost in of)


def _record(
    state: State, word: str, costs: dict[str, Cost], takes: tuple[float, int] | None
) -> dict[str, Any]:
    from dataclasses import asdict

    row = state.row
    seconds, held = takes or (None, None)
    return {
        "model": state.job.path,
        "layer": row.layer,
        "span": row.span,
        "in_layer": row.in_layer,
        "state": word,
        "reason": row.reason,
        "n_inputs": row.n_inputs,
        "n_outputs": row.n_outputs,
        "seconds": seconds,
        "bytes": held,
        "estimate": {name: asdict(cost) for name, cost in costs.items()},
    }


def _total(plan: Plan, takes: list[tuple[float, int]], samples: int) -> str:
    """Say what everything takes: processes share the time, and each holds its own memory."""
    from onnx_ei._batch.work import bins_of
    from onnx_ei.tables import shown_bytes, shown_seconds

    workers = plan.workers
    split = workers.split == "samples"  # one row after the other, each by all
    jobs = (workers.jobs or 1) if split else min(workers.jobs or 1, len(takes))
    where = "on this machine"
    if workers.remote:
        where = "by one worker" if jobs == 1 else f"by {jobs} workers"
    seconds = shown_seconds(sum(of for of, _ in takes) / jobs)
    held = shown_bytes(sum(sorted((of for _, of in takes), reverse=True)[: 1 if split else jobs]))
    bins = " and ".join(str(n) for n in dict.fromkeys(bins_of(plan.jobs[0].options)))
    return (
        f"about {seconds} in all {where}, at most {held} at once besides the models; "
        f"at {bins} bins, what is sampled with {samples:,} samples, and in proportion"
    )
