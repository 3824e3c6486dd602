"""What a key itself adds to its scores, as one part of n."""

from __future__ import annotations

from nexus_universal.architecture.part import Part, part


@part
class DynamicMask(Part):
    """Dynamic mask attention (arXiv 2508.02124): b_s = exp(a · softplus(W v_s)) is added to every score of key s.

    There is one a and one row of W for each key/value head, v_s being all heads' values; W has a bias where `bias`. Of
    more keys than `keep` a query sees the `keep` with the highest b among those that it may see.
    """

    keep: int
    bias: bool = False
