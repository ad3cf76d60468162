"""What torch.compile made in this process."""

from torch._dynamo.utils import counters, get_compilation_metrics

from gpu_checks.outcomes import Figures


def graphs() -> Figures:
    """Graphs, breaks between them, compilations for a second time, and those given up on.

    Where a function was compiled too often, torch runs it uncompiled without an error.
    """
    given_up = [
        count for reason, count in counters["unimplemented"].items() if "recompile limit" in reason
    ]
    reasons = [m.recompile_reason for m in get_compilation_metrics() if m.recompile_reason]
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "recompilations": len(reasons),
        "given_up": sum(given_up),
        "reasons": sorted({reason.splitlines()[0].split("  #")[0].strip() for reason in reasons}),
    }
