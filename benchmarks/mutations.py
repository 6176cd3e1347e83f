"""`python -m benchmarks.mutations`: what the proofs find out when they are made false, in docs/proofs.md. A minute."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from sfolib.theory.derivations import Derivation, results
from sfolib.theory.derivations.mutation import HARMLESS, mutants

KINDS = {
    "step": "steps",
    "left out": "left out",
    "assumption": "assumptions",
    "range": "ranges",
    "replaced term": "terms",
    "citation": "citations",
    "statement": "statements",
}
HEAD = """# Proofs that can fail

T1 to T17 are SymPy derivations in `sfolib/theory/derivations`. `verify()` proves each step from the ones before it.
It refuses a name with two values or with one that it is given after its use, an assumption about one value taken at
another, a statement that rests on no assumption and no other result, a step that nothing stated rests on, and a step
outside the range where it was proved.
It does not see assumptions that contradict each other, nor that a true inequality would need none of its premises; a
result that is cited is taken with its assumptions, which the reader must compare.

The numbers of steps in a printed result are one row; assumptions have theirs. To break one by hand, replace a step
(counted from 0) or leave it out:

```python
from dataclasses import replace

from sfolib import result

T2 = result("T2")
step = T2.steps[22]  # step 23: b* = 2 C2 η/ε²
T2.with_step(22, replace(step, value=2 * step.value)).verify()  # DerivationError: T2, step 23 … does not hold
T2.with_step(2, None).verify()  # DerivationError: a later step rests on what is not established
```

`python -m benchmarks.mutations` makes one thing at a time false, or leaves it out, and counts what `verify()` finds:

- steps: the value doubled, or the inequality turned round; left out: the step is missing;
- assumptions: the value doubled, halved and with the other sign, and an inequality turned round;
- ranges: dropped, and narrowed;
- terms: what an earlier step is taken at, doubled;
- citations: of a result with a false step, and of one with no steps at all;
- statements: a relation stated that no step proves.

Each cell says how many were found out, and after a + how many passed and may: an assumption that became a stronger
one, a range that became narrower and so claims less, or one of those listed below."""


def row(derivation: Derivation, counts: Counter) -> str:
    """The table's row of one result; `counts` by (kind, outcome)."""
    return _row(f"{derivation.key} {derivation.title}", len(derivation.steps), len(derivation.assumptions), counts)


def _row(title: str, steps: int, assumed: int, counts: Counter) -> str:
    pairs = [(counts[kind, "caught"], counts[kind, "harmless"]) for kind in KINDS]
    cells = [f"{caught} + {passed}" if passed else str(caught) for caught, passed in pairs]
    return f"| {' | '.join([title, str(steps), str(assumed), *cells])} |"


def main() -> None:
    found, rows, total = results(), [], Counter()
    for derivation in tqdm(found, desc="results"):
        counts = Counter((mutant.kind, mutant.outcome) for mutant in mutants(derivation))
        rows.append(row(derivation, counts))
        total += counts
    rows.append(_row("all", sum(len(d.steps) for d in found), sum(len(d.assumptions) for d in found), total))
    caught, harmless, missed = (
        sum(count for (_, outcome), count in total.items() if outcome == wanted)
        for wanted in ("caught", "harmless", "missed")
    )
    lines = [
        HEAD,
        "",
        f"Of {total.total():,} changes {caught:,} are found out, {harmless} are harmless and {missed} are missed.",
        "",
        f"| result | steps | of them assumed | {' | '.join(KINDS.values())} |",
        "|---|---|---|" + "---|" * len(KINDS),
        *rows,
        "",
        "| result | change of | at | because |",
        "|---|---|---|---|",
        *(f"| {key} | {KINDS[kind]} | {words} … | {why} |" for (key, kind, words), why in HARMLESS.items()),
    ]
    Path(__file__).parents[1].joinpath("docs", "proofs.md").write_text("\n".join(lines) + "\n")
    print(lines[2])


if __name__ == "__main__":
    main()
