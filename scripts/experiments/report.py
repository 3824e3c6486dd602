"""Write docs/RETENTION.md anew from the experiments' results and the proofs in the code.

python scripts/experiments/report.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from capacity import table_row as capacity_row
from coding import alone_row, seen_row
from common import RESULTS, ROOT, SEEDS, spread
from compression import curve_row, inflation_row
from growth import table_row as growth_row
from regimes import table_row as regime_row
from stitching import header as stitching_header
from stitching import table_rows as stitching_rows

from nexus_universal.fusion.study.inflation import PROOFS

PAGE = ROOT / "docs" / "RETENTION.md"

TEXT = """\
# What is kept, and what it costs

Written by `scripts/experiments/report.py` from `docs/experiments/*.json`; run `scripts/experiments/NAME.py` to measure
anew (minutes on two cores, seeds {seeds}; ± is the standard deviation over them). The checkpoints are the three of
`tests/data/`, in float32, on docstrings that their training held out (of the standard library of Python 3.11; another
version's are drawn otherwise). They are small: these tables show
mechanisms, and what to measure on a model of one's own (`nexus analyse`, `nexus_universal.fusion.study`). They are no
rates for large models.

Tiers: R0 weights equal by hash, R1 the logits' bits, R2 equal in real arithmetic (float32 within 1e-4), R3 measured and
printed, nothing promised.

## In short

- **100 % costs the weights' entropy.** In bfloat16 that is two thirds of the size, by coding exponents; in float32 five
  sixths. A fine-tune beside its base costs what it changed. Nothing smaller holds every model's bits (Shannon).
- **95 % of the energy costs more than all of it** where matrices are as full as these: two factors at that rank are
  {stored_95} times as large as the matrices that they stand for, and are no longer the model.
- **Energy kept is not capability kept.** See the accuracy beside every share.
- **Inflate + PCA is a no-op** at best, and loses otherwise. The proof is below.
- **"99 % kept at 100 ×" is false.** `CapabilityDNA.compress(ratio)` prints what is really kept.
- **Growth keeps everything**, and costs the new parameters.

## Growth

A larger model with the same function (arXiv 2308.06103, 2310.07999). With W_down = [W_down | 0] a wider feed-forward
adds 0 · act(…) to every output; a new head meets zero columns of W_o; a new layer writes x + 0. When h channels become
h', and the new ones are 0, mean(x'²) = (h/h') mean(x²), so that

    γ' x / √(mean(x'²) + ε') = γ x / √(mean(x²) + ε)   with   γ' = γ √(h/h')   and   ε' = ε h/h'.

A layer norm subtracts a mean that zeros move. There the residual is repeated k times, which changes neither mean nor
variance, and each reader's weights are shared out among the copies. New experts sleep under a bias of -1e9. Equal
experts give Σ w_i f(x) = f(x) where the weights sum to 1.

New weights must be able to wake: what is new reads through fresh random weights and writes zeros. Were both zero, all
their gradients would be zero for ever; the same holds for a padded channel whose norm has a gain of 0.

{growth}

The rows with something left, twice or zeros are counterexamples. Where the residual is large ε hardly matters
(gemma3_tiny stays within R2), until a router stands on a tie; with both gain and ε left, or layers doubled, the model
is another one.

![growth](experiments/growth.png)

## Truncation

Eckart and Young (1936): no matrix of rank k is nearer to W than its SVD cut at k, with ‖W − W_k‖² = Σ_{{i>k}} σ_i². Two
factors of rank k hold k (m + n) numbers, so that anything is saved only for k < mn / (m + n), half the rank of a square
matrix. What matters is E‖(W − W')x‖²; with C = E xxᵀ = S Sᵀ it is ‖(W − W') S‖², whose best W' is [W S]_k S⁻¹ (SVD-LLM,
arXiv 2403.07378): "whitened" below, C from other held-out text than is measured. Experts' stacks are cut plainly.

Of the energy of the layers' matrices, so much needs so much of the rank, and storing that takes so many times the size:

{ranks}

A Gaussian 512 × 512 matrix, which nobody trained, needs 51, 61 and 77 % of the rank: 1.02, 1.22 and 1.54 times its
size.

{truncation}

The tables, the head and the norms are stored as they are. R3, all of it. C comes from 1,536 tokens only: at the
smallest size of the third checkpoint whitening by it is worse than none.

![compression](experiments/compression.png)

## Inflate + PCA

Take X (n × d), make it X' with D > d columns, keep k principal directions, map back. Rows are taken as they are,
without subtracting their mean (with it, all ranks are at most one more).

**Orthonormal.** {orthonormal}

**Generic.** {generic}

**Nonlinear.** {nonlinear}

{inflated_model}, D = {dimension}. Components are summed over the matrices, in brackets those that hold the energy
without inflation; "direct" is plain truncation at the same ranks, hence of the same size.

{inflation}

What works instead: growth that keeps the function, then training, then whitened truncation with its loss printed, then
lossless coding.

## Coding without loss

Exponents of trained weights take few values: coded, they take 2.6 of 8 bits (DFloat11, arXiv 2504.11651; ZipNN, arXiv
2411.05239). Signs and fractions are noise. "Bytes' entropy" is that of each byte of the words, turned left by one bit;
"zstandard" is what a compressor reaches on those bytes. (float32 of the third checkpoint was bfloat16: half is zeros.)

{alone}

Exclusive or with a base, in {base}: a step is normal, of so many times each matrix's standard deviation. "Another
model" has the same numbers at other places: seen from a base that has nothing to do with it, a model takes more than
coded alone (last column).

{from_base}

![coding](experiments/coding.png)

## Capacity

A model of P parameters holds about 2 bits of facts per parameter (arXiv 2404.05405). By Fano, K facts of log₂V bits,
recalled with error e, take K (log₂V − h(e) − e log₂(V − 1)) bits. So N models do not fit into one of the size of each.
{parameters} parameters, facts of 5 bits; bits held are K (log₂V − cross-entropy) / P. Training is short: these are
lower bounds.

{capacity}

![capacity](experiments/capacity.png)

## Two models in the place of one

Each of two small models is trained on a task (sums and products modulo 23); then one model is made of the two. What
merging loses is not for want of room: training on both tasks loses nothing. A union keeps both, at twice the size.

{regimes}

Before the models of a common base are trained apart, it knows what the first line says: most of what merging keeps was
common before. Weights of task arithmetic, TIES and DARE are the best of four for both tasks together.

![regimes](experiments/regimes.png)

## Stitching

{donor}'s residual in the place of {host}'s, through the linear map that ridge regression finds: the share of
positions whose likeliest token stays. {host} alone has a loss of {own} nats per token, with the best map {stitched}.
Residuals of models that were trained apart agree too little for such a map, at these sizes not even at the ends.

{stitching}

![stitching](experiments/stitching.png)
"""


def results(name: str) -> dict[str, Any]:
    """What an experiment found."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [" | ".join(header), " | ".join(["---"] + ["--:"] * (len(header) - 1))]
    return "\n".join(f"| {line} |" for line in [*lines, *(" | ".join(row) for row in rows)])


def page() -> str:
    """The whole document."""
    grown, cut, coded, held = (results(name) for name in ("growth", "compression", "coding", "capacity"))
    ranks = [
        (row["model"], *(f"{row['rank'][level]:.0%}, {row['stored'][level]:.2f} ×" for level in ("90", "95", "99")))
        for row in cut["ranks"]
    ]
    stored = [row["stored"]["95"] for row in cut["ranks"]]
    merged, sewn = results("regimes"), results("stitching")
    return TEXT.format(
        seeds=", ".join(map(str, SEEDS)),
        stored_95=f"{min(stored):.2f} to {max(stored):.2f}",
        growth=table(
            ("checkpoint", "growth", "tier", "max \\|Δ\\|", "KL, nats", "flips", "parameters"),
            map(growth_row, grown["rows"]),
        ),
        ranks=table(("checkpoint", "90 %", "95 %", "99 %"), ranks),
        truncation=table(
            ("checkpoint", "method", "stored", "KL, nats", "flips", "accuracy", "loss"), map(curve_row, cut["points"])
        ),
        **PROOFS,
        inflated_model=cut["inflated_model"],
        dimension=cut["dimension"],
        inflation=table(
            ("inflation", "energy", "components", "stored", "error", "direct", "KL", "KL direct", "accuracy"),
            map(inflation_row, cut["inflations"]),
        ),
        alone=table(
            ("checkpoint", "dtype", "bits per exponent", "exponents coded", "bytes' entropy", "zstandard"),
            map(alone_row, coded["alone"]),
        ),
        base=coded["base"],
        from_base=table(("step", "dtype", "bytes' entropy", "zstandard", "alone"), map(seen_row, coded["from_base"])),
        parameters=f"{held['rows'][0]['runs'][0]['parameters']:,}",
        capacity=table(
            ("facts", "bits offered per parameter", "recall", "bits held per parameter"),
            map(capacity_row, held["rows"]),
        ),
        regimes=table(("way", "sums", "products"), map(regime_row, merged["rows"])),
        donor=sewn["donor"],
        host=sewn["host"],
        own=spread([run["own loss"] for run in sewn["runs"]], ".2f"),
        stitched=spread([min(map(min, run["loss"])) for run in sewn["runs"]], ".2f"),
        stitching=table(stitching_header(sewn["runs"]), stitching_rows(sewn["runs"], "kept")),
    )


def main() -> None:
    """Write the page, or with --check say whether it is current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not current")
    if parser.parse_args().check:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is not current")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
